"""`seitpp pretrain`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from seitpp_models.errors import ModelError
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.networks.mtm import masked_token_config
from seitpp_models.training.inputs import code_entropy, codebook_of, training_recipe, training_samples
from seitpp_models.training.tasks import MaskedTokens
from seitpp_models.weights.files import TrainedModel, build_model
from tokenstore.reading import open_store

from ..console import refuse_idle_options
from ..main import EXIT_CODES
from .network_options import NetworkOptions, begin_option, network_options
from .network_runs import (
    accelerator,
    chosen_adapter,
    content_of,
    masked_model,
    network_grid,
    refuse_missing_split,
    run_training,
)

_RATIO = MaskRatio()
_SIZES = {
    "model": "--model",
    "depth": "--depth",
    "patch": "--patch",
    "size": "--size",
    "decoder_width": "--decoder-width",
    "decoder_depth": "--decoder-depth",
}


@click.command(epilog=EXIT_CODES)
@click.argument("store")
@network_options(
    epochs=400,
    batch_size=4096,
    learning_rate=2.4e-3,
    warmup_epochs=40.0,
    weight_decay=0.05,
    beta2=0.95,
    clip=3.0,
    adapter="default",
)
@begin_option("masked-token model", "`seitpp pretrain`")
@click.option(
    "--size", type=click.IntRange(1), help="Tokens a side that the network sees. [default: 7/8 of the grid]"
)
@click.option("--decoder-width", type=click.IntRange(8), help="Of the decoder. [default: the model's]")
@click.option(
    "--decoder-depth", type=click.IntRange(1), default=4, show_default=True, help="Blocks of the decoder."
)
@click.option("--mask-mean", type=float, default=_RATIO.mean, show_default=True, help="Of the masked share.")
@click.option(
    "--mask-deviation",
    type=click.FloatRange(0, min_open=True),
    default=_RATIO.deviation,
    show_default=True,
    help="Of the masked share.",
)
@click.option(
    "--mask-low",
    type=click.FloatRange(0, 1, min_open=True),
    default=_RATIO.low,
    show_default=True,
    help="The least masked share, which the encoder does not see.",
)
@click.option(
    "--mask-high",
    type=click.FloatRange(0, 1, min_open=True),
    default=_RATIO.high,
    show_default=True,
    help="The largest masked share.",
)
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Of the codes to predict.",
)
@click.option(
    "--augment",
    type=click.Choice(["mtm", "none"]),
    default="mtm",
    show_default=True,
    help="mtm: crops, ColorAdapt and Emb-Noise; none: the central part.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0),
    help="Strength of Emb-Noise; 1.0 is published. [default: the standard deviation of the vectors]",
)
def pretrain(
    store: str,
    common: NetworkOptions,
    begin: Path | None,
    size: int | None,
    decoder_width: int | None,
    decoder_depth: int,
    mask_mean: float,
    mask_deviation: float,
    mask_low: float,
    mask_high: float,
    smoothing: float,
    augment: str,
    noise: float | None,
) -> None:
    """Train a masked-token model on the codes of STORE, without labels.

    The defaults are the published ones, for ImageNet on eight GPUs, but that Emb-Noise is as strong as the
    store's codebook.

    \b
    Examples:
      seitpp pretrain imagenet.zarr --out runs/mtm --config pretrain-one-gpu
      seitpp pretrain small.zarr --out runs/mtm --config pretrain-cpu --epochs 20
      seitpp pretrain streets.zarr --out runs/on --config pretrain-cpu --from runs/mtm/model.safetensors
      torchrun --nproc-per-node 8 -m tokenstore_cli.seitpp pretrain imagenet.zarr --out runs/mtm
    """
    refuse_idle_options({"noise": "--noise"}, "augmentation", augment == "none")
    refuse_idle_options(_SIZES, "models without --from", begin is not None)
    devices = accelerator(common)
    opened = open_store(store)
    samples = training_samples(opened, common.split, MaskedTokens.columns)
    codebook = codebook_of(opened)
    before = None if begin is None else masked_model(begin, opened, store)
    sizes: dict[str, Any] = {"depth": common.depth, "decoder_width": decoder_width}
    try:
        ratio = MaskRatio(mask_mean, mask_deviation, mask_low, mask_high)
        if before is not None:
            config = before.config
            network_grid(opened.manifest.grid, config.patch, config.grid)
        else:
            grid, patch = network_grid(opened.manifest.grid, common.patch, size)
            config = masked_token_config(
                common.model,
                codebook_size=len(codebook),
                grid=grid,
                patch=patch,
                decoder_depth=decoder_depth,
                **{name: value for name, value in sizes.items() if value is not None},
            )
    except ValueError as error:
        raise ModelError(f"a masked-token model: {error}") from error
    arguments = asdict(config)
    torch.manual_seed(common.seed)
    model: Any = build_model("masked", arguments)
    if before is not None:
        model.load_state_dict(before.state_dict())
    model.label_smoothing = smoothing
    network = TrainedModel(model, "masked", arguments, opened.manifest.tokenizer)
    adapter = chosen_adapter(common, opened, devices.device, used=augment == "mtm")
    recipe = training_recipe(augment, codebook, config.grid, gives_codes=True, adapter=adapter, noise=noise)  # type: ignore[arg-type]
    rows, columns = config.patches
    task = MaskedTokens(recipe.to(devices.device), rows * columns, ratio)
    settings = {
        "network": arguments,
        "from": content_of(begin),
        "augment": augment,
        "noise": noise,
        "mask": ratio,
        "smoothing": smoothing,
    }
    refuse_missing_split(common, opened)
    reference = ("order-0 entropy of the codes", code_entropy(samples))
    evaluation = {"mask_ratio": min(max(mask_mean, mask_low), mask_high)}
    run_training(common, network, task, samples, settings, devices, opened, evaluation, reference=reference)
