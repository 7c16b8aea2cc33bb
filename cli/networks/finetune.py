"""The command `seitpp finetune`."""

from __future__ import annotations

from typing import Any

import click

from .. import options, training_options
from ..main import EXIT_CODES
from ..options import option
from ..parameters import Choice
from .network_options import defaults, network_options, vit_options

_DEFAULTS = defaults("finetune")


@click.command(epilog=EXIT_CODES)
@network_options("finetune")
@vit_options("finetune")
@training_options.grid_size()
@training_options.classes(least=1, otherwise="the store's")
@options.share("of each class, those that are trained on, drawn by --share-seed", default=_DEFAULTS["share"])
@option(
    "--share-seed",
    metavar="SEED",
    type=int,
    default=_DEFAULTS["share_seed"],
    help="Seed of the samples of --share.",
)
@training_options.held_out_option(_DEFAULTS["held_out"], "where the store has no --evaluate-split")
@training_options.smoothing(_DEFAULTS["smoothing"], "of the labels")
@option(
    "--loss",
    type=Choice(["cross-entropy", "bce"]),
    default=_DEFAULTS["loss"],
    help="Loss. bce: binary cross-entropy of each class by itself.",
)
@option("--attn-only", is_flag=True, help="Train the blocks' attention, the positions and the head alone.")
@option("--keep-head", is_flag=True, help="Begin with the head of --from too, of the same classes.")
@training_options.augment(
    ["finetune", "seit", "none"],
    "finetune: SeiT++'s; seit: SeiT's; none: the central part",
    default=_DEFAULTS["augment"],
)
@training_options.token_eda()
@training_options.colours()
@training_options.adapter_draws()
@training_options.mixing()
@click.pass_context
def finetune(context: click.Context, /, **_: Any) -> None:
    """Train a classifier on the labels of STORE, from pre-trained weights or from scratch.

    The defaults are the published ones of SeiT++, but that Emb-Noise has the standard deviation of
    the store's codebook. From scratch, with vectors, it is plain SeiT.

    \b
    Examples:
      seitpp finetune imagenet.zarr --from runs/mtm/model.safetensors --out runs/tuned
      seitpp finetune imagenet.zarr --out runs/seit --config seit-imagenet
      seitpp finetune small.zarr --out runs/small --config finetune-cpu
      seitpp finetune small.zarr --model convnext_tiny --input vectors --adapter none --out runs/cnn
    """
    from seitpp_models.training import finetune as train

    from .run_display import show_run

    show_run(train, context)
