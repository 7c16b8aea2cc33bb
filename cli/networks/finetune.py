"""`seitpp finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seitpp_models.training.inputs import (
    check_labels,
    codebook_of,
    share_of,
    training_recipe,
    training_samples,
)
from seitpp_models.training.tasks import Classification
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
    batch_size=1024,
    learning_rate=4e-3,
    warmup_epochs=5.0,
    layer_decay=0.65,
    weight_decay=0.1,
    beta2=0.999,
    adapter="default",
)
@vit_options
@click.option(
    "--size", type=click.IntRange(1), help="Tokens a side that the network sees. [default: 7/8 of the grid]"
)
@click.option("--classes", type=click.IntRange(1), help="Of the head. [default: the store's]")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Of each class's samples that are trained on, drawn by --share-seed.",
)
@click.option("--share-seed", default=0, show_default=True, help="Decides which samples --share draws.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the samples to evaluate on, where the store has no --evaluate-split.",
)
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Of labels, where the recipe mixes none: with --augment none.",
)
@click.option(
    "--augment",
    type=click.Choice(["finetune", "seit", "none"]),
    default="finetune",
    show_default=True,
    help="finetune: of SeiT++; seit: of SeiT; none: the central part.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0),
    help="Strength of Emb-Noise; 1.0 is published. [default: the standard deviation of the vectors]",
)
def finetune(
    store: str,
    common: NetworkOptions,
    begin: Path | None,
    form: str,
    size: int | None,
    classes: int | None,
    share: float,
    share_seed: int,
    held_out: float,
    drop_path: float,
    smoothing: float,
    augment: str,
    noise: float | None,
) -> None:
    """Train a classifier on the labels of STORE, from pre-trained weights or from scratch.

    The defaults are the published ones of SeiT++, but that Emb-Noise is as strong as the store's codebook.
    From scratch, with vectors, it is plain SeiT.

    \b
    Examples:
      seitpp finetune imagenet.zarr --from runs/mtm/model.safetensors --out runs/tuned
      seitpp finetune imagenet.zarr --out runs/seit --config seit-imagenet
      seitpp finetune small.zarr --out runs/small --config finetune-cpu
      seitpp finetune small.zarr --model convnext_tiny --input vectors --adapter none --out runs/cnn
    """
    refuse_idle_options({"noise": "--noise"}, "augmentation", augment == "none")
    refuse_idle_options({"smoothing": "--smoothing"}, "--augment none", augment != "none")
    devices = accelerator(common)
    opened = open_store(store)
    samples = training_samples(opened, common.split, Classification.columns)
    names = opened.class_names
    classes = classes or (int(samples.rows.labels.max()) + 1 if names is None else len(names))  # type: ignore[union-attr]
    check_labels(samples, classes)
    evaluation: dict[str, Any] = {}
    if common.evaluate_split not in opened.splits or common.evaluate_split == common.split:
        refuse_missing_split(common, opened)
        if held_out:
            samples, kept = samples.split(held_out)  # of any --seed and --share the same
            evaluation["rows"] = kept.indices
    else:
        refuse_idle_options({"held_out": "--held-out"}, "stores without --evaluate-split", True)
        check_labels(training_samples(opened, common.evaluate_split, Classification.columns), classes)
    samples = share_of(samples, share, share_seed)
    codebook = codebook_of(opened)
    backbone = vit_to_train(
        common, opened, store, begin, form, size, {"num_classes": classes, "drop_path_rate": drop_path}
    )
    network = TrainedModel(
        backbone.model,
        backbone.kind,
        backbone.arguments,
        opened.manifest.tokenizer,
        names if names is not None and len(names) == classes else None,
    )
    adapter = chosen_adapter(common, opened, devices.device, used=augment == "finetune")
    recipe = training_recipe(
        augment,  # type: ignore[arg-type]
        codebook,
        backbone.grid,
        gives_codes=backbone.takes_codes,
        classes=classes,
        adapter=adapter,
        noise=noise,
    )
    task = Classification(recipe.to(devices.device), smoothing)
    settings = {
        "network": backbone.arguments,
        "from": content_of(begin),
        "augment": augment,
        "noise": noise,
        "share": (share, share_seed),
        "smoothing": smoothing,
    }
    run_training(
        common, network, task, samples, settings, devices, opened, evaluation | {"crop": backbone.grid}
    )
