"""The command `tokenstore train-tokenizer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import options
from ..console import counted, echo, hint_commands
from ..main import EXIT_CODES
from ..training_options import training_options

if TYPE_CHECKING:
    from tokenstore.tokenizers.quality import Quality
    from tokenstore.tokenizers.train.images import ImageSet
    from tokenstore.tokenizers.train.trainer import StepResult


@click.command(epilog=EXIT_CODES)
@options.existing_source("images", nargs=-1)
@options.out("the folder of the run, with weights.safetensors", folder=True)
@options.codebook_size(2048, least=2, most=2**16)
@click.option(
    "--name",
    metavar="NAME",
    default="conv-vq-8x-own",
    show_default=True,
    help="The tokenizer's name in stores; its fingerprint tells it from others of that name.",
)
@click.option(
    "--symmetric/--no-symmetric",
    default=True,
    show_default=True,
    help="Tokens that flip exactly, by a table; without, a tokenizer of the kind conv-vq.",
)
@click.option(
    "--gradient",
    metavar="WEIGHT",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Weight of the error of gradients, over three scales, beside that of pixels.",
)
@click.option(
    "--scale-equivariance",
    metavar="WEIGHT",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Weight of the loss of half-size images decoded from averaged embeddings.",
)
@click.option(
    "--photographs",
    metavar="N",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Crops of photographs in a batch.",
)
@click.option(
    "--thumbnails",
    metavar="N",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Crops of images below 128 pixels in a batch.",
)
@training_options(
    steps=11_000,
    held_out=0.1,
    learning_rate=2e-3,
    evaluate_every=2000,
    images=256,
    resumed="the run in OUT",
)
def train_tokenizer(images: tuple[str, ...], out: Path, **settings: Any) -> None:
    """Train a convolutional tokenizer on IMAGES, sources of images as `convert` reads them.

    OUT gets weights.safetensors (averaged weights), evaluation.json, samples.png, log.jsonl, state.pt to
    resume from, and config.yaml, how the run was begun. The weights are for
    `--tokenizer conv-vq-symmetric:OUT/weights.safetensors`, with --no-symmetric for `conv-vq:`.

    \b
    Examples:
      tokenstore train-tokenizer photos/ --out mine
      tokenstore train-tokenizer photos/ thumbnails.tar --out mine --held-out 0.5
      tokenstore train-tokenizer photos/ --out plain --no-symmetric
      tokenstore train-tokenizer imagenet/ --out mine --device cuda --photographs 128 --thumbnails 0
    """
    from tokenstore.tokenizers.train import train_tokenizer as train

    from ..training import show_training

    show_training(partial(train, images, out, **settings), _described, _print_images, _print_quality)
    kind = "conv-vq-symmetric" if settings["symmetric"] else "conv-vq"
    weights = out / "weights.safetensors"
    hint_commands(("tokenstore", "convert", images[0], "OUT", "--tokenizer", f"{kind}:{weights}"))


def _described(result: StepResult) -> str:
    return f"PSNR {result.psnr:.2f} dB, perplexity {result.perplexity:,.0f}"


def _print_images(_: object, listed: ImageSet) -> None:
    from ..training import note_unless_held_out

    photographs, thumbnails = len(listed.held_out_photographs), len(listed.held_out_thumbnails)
    echo(
        f"training on {counted(len(listed.photographs), 'photograph')} and "
        f"{counted(len(listed.thumbnails), 'thumbnail')}; "
        f"held out: {photographs:,} and {thumbnails:,}"
    )
    note_unless_held_out(photographs + thumbnails)


def _print_quality(step: int, quality: dict[str, Quality]) -> None:
    for kind, figures in quality.items():
        echo(f"step {step:,}, held-out {kind}: {figures}")
