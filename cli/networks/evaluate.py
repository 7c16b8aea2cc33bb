"""`seitpp evaluate`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Column, Table

from seitpp_models.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from seitpp_models.evaluation.figures import without_nan
from seitpp_models.evaluation.on_images import CLEAN, Condition, evaluate_images, tokenizer_for
from seitpp_models.evaluation.on_stores import CLASSIFIERS, chosen_split, evaluate_store
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.weights.files import TrainedModel, load_model
from tokenstore.errors import SourceError
from tokenstore.machine import available_cores
from tokenstore.reading import open_store
from tokenstore.sources import ImageSource, open_source
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.tokenizers.registry import check_device

from ..console import progress_bar, refuse_idle_options, storage_options
from ..main import EXIT_CODES

_ALL = "all"
_OF_IMAGES = {
    "tokenizer": "--tokenizer",
    "image_size": "--image-size",
    "resize": "--resize",
    "corruptions": "--corruption",
    "severities": "--severity",
}
_HEADS = {
    "loss": "loss",
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "accuracy": "pixels",
    "right": "right",
}


@click.command(epilog=EXIT_CODES)
@click.argument("model", metavar="MODEL", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--store", help="A token store: a folder, a .zip file or an fsspec URL.")
@click.option("--images", help="A source of images in class folders, as `convert` reads them.")
@click.option("--split", help="Which split; by default val, or the only one.")
@click.option(
    "--crop",
    type=click.IntRange(1),
    help="Side of the central part of the codes that the network sees; by default what it was built for.",
)
@click.option(
    "--all-classes",
    is_flag=True,
    help="Keep the logits of classes that the data does not have. By default they are left out, as is usual "
    "for ImageNet-R with 200 of 1,000 classes; classes are told by their names, those of the folders.",
)
@click.option(
    "--ignore-index",
    type=click.IntRange(0),
    help="Of masks: pixels of it do not count. [default: the store's]",
)
@click.option(
    "--mask-ratio",
    type=click.FloatRange(0, 1, min_open=True),
    default=MaskRatio.mean,
    show_default=True,
    help="Share of the patches that a masked-token model predicts.",
)
@click.option("--tokenizer", metavar="NAME[:ARGUMENT]", help="By default the one that MODEL names.")
@click.option("--image-size", type=click.IntRange(1), help="Side in pixels; by default the tokenizer's.")
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop", "pad"]),
    default="squash",
    show_default=True,
    help="How an image becomes a square, as in `tokenstore convert`.",
)
@click.option(
    "--corruption",
    "corruptions",
    type=click.Choice([*CORRUPTIONS, _ALL]),
    multiple=True,
    help="Evaluate on images corrupted so, too; may be given again. After ImageNet-C, whose strengths are "
    "for images of 224 pixels.",
)
@click.option(
    "--severity",
    "severities",
    type=click.IntRange(SEVERITIES[0], SEVERITIES[-1]),
    multiple=True,
    help="Of corruptions, 1 to 5; may be given again; by default each.",
)
@click.option("--seed", default=0, show_default=True, help="Of noise and of masked patches.")
@click.option(
    "--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here."
)
@click.option("--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda ...")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Samples at once.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=available_cores(),
    show_default="one a core",
    help="Processes that decode images, or threads that decode codes.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=available_cores(),
    show_default="one a core",
    help="On a CPU.",
)
@storage_options
def evaluate(
    model: Path,
    store: str | None,
    images: str | None,
    split: str | None,
    crop: int | None,
    all_classes: bool,
    ignore_index: int | None,
    mask_ratio: float,
    tokenizer: str | None,
    image_size: int | None,
    resize: Resize,
    corruptions: tuple[str, ...],
    severities: tuple[int, ...],
    seed: int,
    report: Path | None,
    device: str,
    batch_size: int,
    workers: int,
    threads: int,
    storage_options: dict[str, Any] | None,
) -> None:
    """Measure the network in MODEL on a token store, or a classifier on images.

    A classifier gives top-1 and top-5; a segmenter, on a store with masks, mean IoU and that of each class;
    a masked-token model its loss. Images are made tokens first, by the tokenizer of MODEL's training data.

    \b
    Examples:
      seitpp evaluate model.safetensors --store imagenet.zarr --split val
      seitpp evaluate model.safetensors --images imagenet-r/ --json figures.json
      seitpp evaluate model.safetensors --images imagenet/val --corruption gaussian_noise --severity 3
      seitpp evaluate model.safetensors --images imagenet/val --corruption all --device cuda
    """
    if (store is None) == (images is None):
        raise click.UsageError("expected --store or --images, one of them")
    refuse_idle_options(_OF_IMAGES, "--images", images is None)
    refuse_idle_options({"storage_options": "--storage-options"}, "--store", store is None)
    refuse_idle_options({"severities": "--severity"}, "--corruption", not corruptions)
    if report is not None and not report.absolute().parent.is_dir():
        raise click.UsageError(f"--json: the folder of {report} does not exist; make it first")
    torch.set_num_threads(threads)
    check_device(device)
    trained = load_model(model)
    kind = trained.kind
    refuse_idle_options({"ignore_index": "--ignore-index"}, "a segmenter", kind != "segmenter")
    refuse_idle_options({"mask_ratio": "--mask-ratio"}, "a masked-token model", kind != "masked")
    refuse_idle_options({"all_classes": "--all-classes"}, "a classifier", kind not in CLASSIFIERS)
    refuse_idle_options({"crop": "--crop"}, "a network that sees grids of several sizes", kind == "masked")
    trained.model.to(device)
    options: dict[str, Any] = {"crop": None if crop is None else (crop, crop), "all_classes": all_classes}
    options |= {"seed": seed, "batch_size": batch_size}
    if store is not None:
        options |= {"ignore_index": ignore_index, "mask_ratio": mask_ratio, "threads": workers}
        facts = _on_store(trained, store, split, device, storage_options, options)
    else:
        options |= {"workers": workers, "threads": threads}
        source = _source(str(images))
        maker = tokenizer_for(trained, tokenizer, device)
        encoder = Encoder(maker, ImageOptions(image_size or maker.image_size, resize))
        facts = _on_images(trained, source, split, encoder, _conditions(corruptions, severities), options)
    if report is not None:
        document = {"model": str(model), "kind": kind, **facts}
        report.write_text(json.dumps(without_nan(document), indent=2) + "\n")


def _source(place: str) -> ImageSource:
    source = open_source(place)
    if not isinstance(source, ImageSource):
        raise SourceError(
            f"{place}: expected images, found ready codes ({source.kind}); convert them to a store"
        )
    return source


def _on_store(
    trained: TrainedModel,
    place: str,
    split: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    store = open_store(place, storage_options=storage_options)
    split = chosen_split(store.splits, split, place)
    count = len(store[split])
    with _shown("codes", count) as (bar, task):
        figures = evaluate_store(
            trained, store, split, device=device, on_batch=lambda done: bar.advance(task, done), **options
        )
    click.echo(f"{place}: {count:,} samples of split {split}")
    _print_figures([((), figures)], ())
    if "iou" in figures:
        _print_classes(figures["iou"], trained.labels)
    return {"store": place, "split": split, "samples": count, **figures}


def _on_images(
    trained: TrainedModel,
    source: ImageSource,
    split: str | None,
    encoder: Encoder,
    conditions: Sequence[Condition],
    options: dict[str, Any],
) -> dict[str, Any]:
    place, images = source.location, encoder.options
    split = chosen_split(tuple(source.splits), split, place)
    with _shown("images", len(source.splits[split])) as (bar, task):
        found = evaluate_images(
            trained,
            source,
            split,
            encoder,
            conditions,
            on_progress=lambda done: bar.update(task, completed=done),
            **options,
        )
    click.echo(
        f"{place}: {found.samples:,} images of split {split}; {images.height}x{images.width} pixels are "
        f"{_sides(encoder.grid)} codes of {encoder.tokenizer.name}, and the network sees {_sides(found.crop)}"
    )
    if found.skipped:
        name, reason = found.skipped[0]
        click.echo(f"note: {len(found.skipped):,} images cannot be read and count nowhere; {name}: {reason}")
    rows = [(_named(condition), figures) for condition, figures in found.figures.items()]
    _print_figures(rows, ("corruption", "severity") if len(rows) > 1 else ())
    return {
        "images": place,
        "split": split,
        "samples": found.samples,
        "skipped": [list(skip) for skip in found.skipped],
        "classes": None if source.class_names is None else len(source.class_names),
        "all_classes": options["all_classes"],
        "tokenizer": encoder.tokenizer.name,
        "image_size": [images.height, images.width],
        "resize": images.resize,
        "grid": list(encoder.grid),
        "crop": list(found.crop),
        "seed": options["seed"],
        "results": [{**asdict(condition), **figures} for condition, figures in found.figures.items()],
    }


def _sides(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _conditions(corruptions: Sequence[str], severities: Sequence[int]) -> list[Condition]:
    """Images as they are, then every corruption in every severity, each once."""
    names = list(CORRUPTIONS) if _ALL in corruptions else list(dict.fromkeys(corruptions))
    levels = sorted(set(severities)) or SEVERITIES
    return [CLEAN, *(Condition(name, level) for name in names for level in levels)]


def _named(condition: Condition) -> tuple[str, str]:
    if condition.corruption is None:
        return "none", ""
    return condition.corruption, str(condition.severity)


@contextmanager
def _shown(unit: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    with progress_bar(unit) as bar:
        yield bar, bar.add_task("evaluating", total=total, note="")


def _print_figures(rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]], heads: Sequence[str]) -> None:
    names = [name for name in rows[0][1] if name in _HEADS]
    table = Table(*heads, *(Column(_HEADS[name], justify="right") for name in names), box=None)
    for condition, figures in rows:
        shown = [_figure(name, figures[name]) for name in names]
        table.add_row(*(condition if heads else ()), *shown)
    Console(highlight=False, markup=False).print(table)


def _print_classes(iou: Sequence[float], names: Sequence[str] | None) -> None:
    table = Table("class", Column("IoU", justify="right"), box=None)
    for label, share in enumerate(iou):
        name = str(label) if names is None or label >= len(names) else names[label]
        table.add_row(name, "does not occur" if math.isnan(share) else _figure("iou", share))
    Console(highlight=False, markup=False).print(table)


def _figure(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"
