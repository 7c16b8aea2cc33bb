"""`seitpp segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.on_stores import ignored_label
from seitpp_models.networks.segmentation import TokenSegmenter
from seitpp_models.training.inputs import (
    check_masks,
    codebook_of,
    segmentation_recipe,
    training_samples,
)
from seitpp_models.training.tasks import Segmentation
from seitpp_models.weights.files import TrainedModel
from tokenstore.reading import open_store

from ..console import refuse_idle_options
from ..main import EXIT_CODES
from .network_options import NetworkOptions, network_options, vit_options
from .network_runs import (
    accelerator,
    chosen_adapter,
    content_of,
    refuse_missing_split,
    run_training,
    vit_to_train,
)


@click.command(epilog=EXIT_CODES)
@click.argument("store")
@network_options(
    epochs=100,
    batch_size=16,
    learning_rate=1e-4,
    warmup_epochs=5.0,
    weight_decay=0.05,
    beta2=0.999,
)
@vit_options
@click.option(
    "--head",
    type=click.Choice(["linear", "upernet"]),
    default="upernet",
    show_default=True,
    help="linear: a class for each patch; upernet: UPerNet's decoder over features of four depths.",
)
@click.option("--width", type=click.IntRange(8), default=256, show_default=True, help="Of UPerNet's decoder.")
@click.option(
    "--classes", required=True, type=click.IntRange(2), help="Of label maps, without what is ignored."
)
@click.option("--ignore-index", type=int, help="Label that counts nowhere. [default: the store's]")
@click.option(
    "--augment",
    type=click.Choice(["crops", "none"]),
    default="crops",
    show_default=True,
    help="crops: random parts of the grid and colours; with --adapter half of the batch is flipped too.",
)
def segment(
    store: str,
    common: NetworkOptions,
    begin: Path | None,
    form: str,
    head: str,
    width: int,
    classes: int,
    ignore_index: int | None,
    drop_path: float,
    augment: str,
) -> None:
    """Train a network that gives each pixel of STORE's label maps a class.

    The store is made by `tokenstore convert --masks`. The network sees the whole grid.

    \b
    Examples:
      seitpp segment streets.zarr --classes 11 --from runs/mtm/model.safetensors --out runs/streets
      seitpp segment streets.zarr --classes 11 --head linear --model small --out runs/linear
    """
    refuse_idle_options({"width": "--width"}, "--head upernet", head != "upernet")
    devices = accelerator(common)
    opened = open_store(store)
    samples = training_samples(opened, common.split, Segmentation.columns)
    if head == "upernet" and common.batch_size // devices.num_processes // common.accumulation < 2:
        raise ModelError(
            "--head upernet: expected two samples or more for each process and part, since it normalises "
            f"over them, found --batch-size {common.batch_size}; give a larger one, or --head linear"
        )
    ignored = ignored_label(opened) if ignore_index is None else ignore_index
    check_masks(samples, classes, ignored)
    refuse_missing_split(common, opened)
    if common.evaluate_split in opened.splits:
        evaluated = training_samples(opened, common.evaluate_split, Segmentation.columns)
        check_masks(evaluated, classes, ignored)
    backbone = vit_to_train(
        common,
        opened,
        store,
        begin,
        form,
        opened.manifest.grid,
        {"num_classes": 0, "drop_path_rate": drop_path},
    )
    if backbone.kind != "vit":
        raise ModelError(
            f"--model: expected a ViT, tiny, small, base or large, to segment, found {common.model}"
        )
    arguments: dict[str, Any] = {
        "backbone": backbone.arguments,
        "classes": classes,
        "head": head,
        "width": width,
    }
    try:
        model = TokenSegmenter(backbone.model, classes, head, width=width)  # type: ignore[arg-type]
    except ValueError as error:
        raise ModelError(f"--head {head}: {error}; give a --depth of 4 or more, or --head linear") from error
    network = TrainedModel(model, "segmenter", arguments, opened.manifest.tokenizer)
    recipe = segmentation_recipe(
        augment,  # type: ignore[arg-type]
        codebook_of(opened),
        backbone.grid,
        gives_codes=backbone.takes_codes,
        ignore_index=ignored,
        adapter=chosen_adapter(common, opened, devices.device, used=augment == "crops"),
    )
    task = Segmentation(recipe.to(devices.device), ignored)
    settings = {"network": arguments, "from": content_of(begin), "augment": augment, "ignore-index": ignored}
    evaluation = {"ignore_index": ignored}
    run_training(common, network, task, samples, settings, devices, opened, evaluation, whole_batches=True)
