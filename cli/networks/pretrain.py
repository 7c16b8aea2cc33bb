"""The command `seitpp pretrain`."""

from __future__ import annotations

from typing import Any

import click

from .. import training_options
from ..main import EXIT_CODES
from ..options import option
from .network_options import defaults, mask_options, network_options, start_option


@click.command(epilog=EXIT_CODES)
@network_options("pretrain")
@start_option("masked-token model", "`seitpp pretrain`")
@training_options.grid_size()
@training_options.decoder_width()
@option(
    "--decoder-depth",
    metavar="BLOCKS",
    type=click.IntRange(1),
    default=defaults("pretrain")["decoder_depth"],
    help="Blocks of the decoder.",
)
@mask_options()
@training_options.smoothing(defaults("pretrain")["smoothing"], "of the codes to predict")
@training_options.augment(
    ["mtm", "none"],
    "mtm: crops, and TokenAdapt by --adapter; none: the central part",
    default=defaults("pretrain")["augment"],
)
@training_options.token_eda()
@training_options.colours()
@training_options.adapter_draws()
@click.pass_context
def pretrain(context: click.Context, /, **_: Any) -> None:
    """Train a masked-token model on the codes of STORE, without labels.

    The defaults are the published ones, for ImageNet on eight GPUs: no colours are changed unless --emb-noise
    or --color-adapt ask for it.

    \b
    Examples:
      seitpp pretrain imagenet.zarr --out runs/mtm --config pretrain-one-gpu
      seitpp pretrain small.zarr --out runs/mtm --config pretrain-cpu --epochs 20
      seitpp pretrain streets.zarr --out runs/on --config pretrain-cpu --from runs/mtm/model.safetensors
      torchrun --nproc-per-node 8 -m tokenstore_cli.seitpp pretrain imagenet.zarr --out runs/mtm
    """
    from seitpp_models.training import pretrain as train

    from .run_display import show_run

    show_run(train, context)
