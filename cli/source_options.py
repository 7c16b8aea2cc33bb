"""The options of opening sources of images that several commands share: one function for each."""

from __future__ import annotations

from typing import Any

import click

from tokenstore.sources.options import MAX_PIXELS
from tokenstore.sources.registry import kind_names

from . import options
from .options import Decorator, together
from .parameters import Choice, Grid

ORIGINALS = {
    "images": "--images",
    "image_column": "--image-column",
    "allow_outside_paths": "--allow-outside-paths",
    "source_storage_options": "--source-storage-options",
}
"""The options of `originals` by their parameters."""


def originals() -> Decorator[Any]:
    """Return --images and the other options of finding the images that a store was made from."""
    return together(
        options.images(end="; by default where they were when STORE was made"),
        image_column(),
        allow_outside_paths(),
        storage_options(),
    )


def labels() -> Decorator[Any]:
    """Return --labels, a table of paths and labels."""
    return click.option(
        "--labels",
        metavar="FILE",
        type=click.Path(),
        help="Labels: path,label of an image folder, in a CSV file at a path or a URL.",
    )


def label_column() -> Decorator[Any]:
    """Return --label-column."""
    return click.option(
        "--label-column",
        metavar="NAME",
        help="The column of labels of Parquet files or of --labels, or what holds the labels of ready "
        "codes; by default by its name.",
    )


def image_column() -> Decorator[Any]:
    """Return --image-column."""
    return click.option(
        "--image-column",
        metavar="NAME",
        help="The column of images of Parquet files, or of paths in a labels file; by default by its name.",
    )


def allow_outside_paths() -> Decorator[Any]:
    """Return the flag --allow-outside-paths."""
    return click.option(
        "--allow-outside-paths",
        is_flag=True,
        help="Read images that a Parquet file names by paths out of its own folder.",
    )


def class_names() -> Decorator[Any]:
    """Return --class-names, a text file."""
    return click.option(
        "--class-names",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="Names of the classes, one a line in the order of the labels, where the source has none; of "
        "images with label maps and no labels, in the order of the maps' values.",
    )


def masks() -> Decorator[Any]:
    """Return --masks, a folder of label maps."""
    return click.option(
        "--masks",
        metavar="DIR",
        help="Label maps of an image folder, PNG files of class indices: DIR/a/b.png for SRC/a/b.jpg; or a "
        "folder's name in each split, beside the folder of images: train/DIR/b.png for train/images/b.jpg.",
    )


def ready_codes() -> Decorator[Any]:
    """Return the options of layouts of ready codes: where the codes are, and their grid."""
    return together(
        click.option(
            "--token-column",
            metavar="NAME",
            help="What holds ready codes: a tensor, an array, a field or a column; by default by its name.",
        ),
        click.option(
            "--grid",
            metavar="HxW",
            type=Grid(),
            help="The shape of a sample's ready codes, such as 16x16 for 256 codes in a row.",
        ),
        click.option(
            "--window",
            metavar="FRAMES",
            type=click.IntRange(1),
            help="Frames of a sample, for videos of ready codes; by default one.",
        ),
        click.option(
            "--stride",
            metavar="FRAMES",
            type=click.IntRange(1),
            help="Frames from the begin of a --window to the next; by default those of a window.",
        ),
    )


def source_kind() -> Decorator[Any]:
    """Return --source, the kind of source that SRC is, as `source_kind`; None for what its content says."""
    return click.option(
        "--source", "source_kind", type=Choice(kind_names()), help="Kind of SRC; by default by its content."
    )


def no_labels() -> Decorator[Any]:
    """Return the flag --no-labels."""
    return click.option(
        "--no-labels", is_flag=True, help="Store images without labels, whatever looks like some."
    )


def views() -> Decorator[Any]:
    """Return --views, a rule by which views are cut from images."""
    return click.option(
        "--views",
        metavar="SPEC",
        help="Views of each image to store: flip (the image and its mirror image), ten-crop:1.1 (ten crops "
        "of an image 1.1 times as large), or random:8 (the image and 7 random crops). By default the image "
        "alone.",
    )


def compiled() -> Decorator[Any]:
    """Return --compile, for the network of a tokenizer."""
    return click.option(
        "--compile",
        is_flag=True,
        help="Compile the network by torch.compile: minutes once; a few of the codes may differ.",
    )


def on_error() -> Decorator[Any]:
    """Return --on-error, the treatment of bad samples; None for the usual one."""
    return click.option(
        "--on-error",
        type=Choice(["skip", "fail"]),
        help="Bad samples: skip any number, or fail at the first. By default up to 1 % are skipped: of less "
        "than 100, none.",
    )


def max_pixels() -> Decorator[Any]:
    """Return --max-pixels."""
    return click.option(
        "--max-pixels",
        metavar="N",
        type=click.IntRange(1),
        default=MAX_PIXELS,
        show_default=True,
        help="Larger images count as bad.",
    )


def storage_options() -> Decorator[Any]:
    """Return --source-storage-options, a dict."""
    return options.storage_options("--source-storage-options", of="SRC")


def further_columns() -> Decorator[Any]:
    """Return --column, --table and the options of soft labels: what is stored beside tokens and labels."""
    return together(
        click.option(
            "--column",
            "columns",
            metavar="NAME",
            multiple=True,
            help="A further column to store, such as a caption: a column of Parquet files or of --table, a "
            "member (txt, npy) or a field of .json in tar files, an array; NAME=FIELD renames it. May be "
            "given again.",
        ),
        click.option(
            "--table",
            metavar="FILE",
            type=click.Path(),
            help="A CSV or Parquet file with further columns: a row for the path of each image. By default "
            "all its columns are stored.",
        ),
        click.option(
            "--soft-labels",
            metavar="FILE.npy",
            type=click.Path(exists=True),
            help="Probabilities or logits (N, classes) in the order of SRC; for several splits a folder "
            "with train.npy and so on.",
        ),
        click.option(
            "--soft-top",
            metavar="K",
            type=click.IntRange(1),
            help="Classes that are kept of each sample's soft labels. [default: 10]",
        ),
    )
