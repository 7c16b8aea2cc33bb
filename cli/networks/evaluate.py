"""The command `seitpp evaluate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from .. import options, source_options
from ..console import echo_json, hint_commands
from ..main import EXIT_CODES
from ..options import option
from ..parameters import Choice, ExistingPlace
from .network_options import explicit_options, package_file


@functools.cache
def _corruptions() -> list[str]:
    """Return the names of the corruptions, and the name for all of them."""
    import yaml

    return [*yaml.safe_load(package_file("evaluation", "corruptions.yaml").read_text()), "all"]


@click.command(epilog=EXIT_CODES)
@click.argument("model", metavar="MODEL", type=click.Path(exists=True))
@click.option(
    "--store",
    metavar="STORE",
    type=ExistingPlace("token store"),
    help="A token store: a folder, a .zip file or an fsspec URL.",
)
@options.images(end=", with classes")
@source_options.labels()
@source_options.label_column()
@source_options.image_column()
@source_options.class_names()
@source_options.allow_outside_paths()
@options.split("val, or the only one")
@option(
    "--crop",
    metavar="TOKENS",
    type=click.IntRange(1),
    otherwise="the network's own",
    help="Side of the central part of the codes that the network sees.",
)
@option(
    "--all-classes",
    is_flag=True,
    help="Keep the logits of classes that the data does not have. By default they are left out, as is usual "
    "for ImageNet-R with 200 of 1,000 classes; classes are matched by their names, those of the folders.",
)
@options.ignore_index()
@option(
    "--mask-ratio",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True),
    otherwise="the mean of --mask-mean in training, 0.45",
    help="Share of the patches that a masked-token model predicts.",
)
@options.tokenizer(otherwise="the one that MODEL names")
@options.image_size(otherwise="that of MODEL's training images")
@options.resize(None, otherwise="that of MODEL's training images")
@option(
    "--corruption",
    "corruptions",
    type=Choice(_corruptions()),
    multiple=True,
    help="Evaluate on images corrupted so, too; may be given again. After ImageNet-C, whose strengths are "
    "for images of 224 pixels.",
)
@option(
    "--severity",
    "severities",
    metavar="1-5",
    type=click.IntRange(1, 5),
    multiple=True,
    otherwise="each of them",
    help="Severity of the corruptions; may be given again.",
)
@option(
    "--by-class",
    is_flag=True,
    help="Print the figures of each class, too, and which classes are confused: of the samples of a "
    "classifier, or the pixels of a segmenter.",
)
@option(
    "--confusion",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the samples, or pixels, by label and by predicted label to FILE, a .csv.",
)
@option(
    "--predictions",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write each sample's label, prediction and probability to FILE, a .csv or .parquet; or the label "
    "maps (N, h, w) of a segmenter, a .npy.",
)
@option(
    "--average",
    is_flag=True,
    help="Measure the average of the weights that a published checkpoint has beside them.",
)
@options.seed(of="noise and masked patches")
@options.as_json("the figures")
@options.device()
@options.batch_size(64, "of codes or images")
@options.workers("processes that decode images, or threads that decode codes")
@options.threads()
@options.storage_options()
@source_options.storage_options()
@click.pass_context
def evaluate(context: click.Context, /, model: str, as_json: bool, **_: Any) -> None:
    """Measure the network in MODEL on a token store, or a classifier on images.

    A classifier gives top-1 and, of more than five classes, top-5; a segmenter, on a store with masks, mean
    IoU and the IoU of each class; a masked-token model its loss. Images are made tokens first, by the
    tokenizer of MODEL's training data, at the size and by the resize of that data. Of a store with views,
    the central one is measured, which of ten crops is that of the centre. MODEL is a file, a published
    checkpoint of SeiT or SeiT++ (.pth, .ckpt), or the folder of a training run, which then gets the figures
    and the predictions that `seitpp report` shows.

    \b
    Examples:
      seitpp evaluate model.safetensors --store imagenet.zarr --split val
      seitpp evaluate runs/finetuned --store imagenet.zarr
      seitpp evaluate model.safetensors --store imagenet.zarr --by-class --predictions val.parquet
      seitpp evaluate model.safetensors --images imagenet-r/ --json > figures.json
      seitpp evaluate model.safetensors --images imagenet/val --corruption gaussian_noise --severity 3
      seitpp evaluate model.safetensors --images imagenet/val --corruption all --device cuda
    """
    from seitpp_models.evaluation import evaluate as measure

    from ..progress import progress_bar
    from .evaluation_tables import print_evaluation

    settings = explicit_options(context)
    settings.pop("as_json", None)
    with progress_bar("samples", quiet=as_json) as bar:
        task = bar.add_task("evaluating", total=None, note="")
        evaluation = measure(
            **settings,
            on_begin=lambda count: bar.update(task, total=count),
            on_progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        echo_json({"model": model, **evaluation.to_dict()})
    else:
        print_evaluation(evaluation, by_class="by_class" in settings)
        if Path(model).is_dir():
            hint_commands(("seitpp", "report", model))
