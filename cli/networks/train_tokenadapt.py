"""The command `seitpp train-tokenadapt`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import options
from ..console import counted, echo, hint_commands
from ..main import EXIT_CODES
from ..options import option
from ..training_options import training_options

if TYPE_CHECKING:
    from seitpp_models.adapter import AdapterQuality
    from seitpp_models.adapter.trainer import AdapterTrainer, StepResult
    from tokenstore.tokenizers.train import ImageSet


@click.command(epilog=EXIT_CODES)
@options.images(required=True, multiple=True)
@options.tokenizer("default")
@options.image_size()
@options.resize()
@options.out("a file of weights; the run is in a folder beside it, of that name with .run")
@options.batch_size(16, "pairs of a step")
@option(
    "--width",
    metavar="CHANNELS",
    type=click.IntRange(64),
    default=384,
    help="Channels of the networks, a multiple of 64.",
)
@options.workers("processes that make pairs; 0: between the steps", default=1)
@training_options(
    steps=4000,
    held_out=0.1,
    learning_rate=1e-3,
    evaluate_every=1000,
    images=64,
    resumed="the run beside OUT",
)
def train_tokenadapt(images: tuple[str, ...], out: Path, **settings: Any) -> None:
    """Train TokenAdapt for a tokenizer: it turns tokens of an image into those of the image augmented.

    \b
    Examples:
      seitpp train-tokenadapt --images photos/ --out adapter.safetensors
      seitpp train-tokenadapt --images imagenet/ --out adapter.safetensors --device cuda --batch-size 256
    """
    from seitpp_models.adapter import train_tokenadapt as train

    from ..training import show_training

    show_training(partial(train, images, out, **settings), _described, _print_images, _print_quality)
    hint_commands(("seitpp", "finetune", "STORE", "--out", "RUN", "--adapter", out))


def _described(result: StepResult) -> str:
    return f"loss {result.loss:.3f}, {100 * result.accuracy:.1f} % of codes"


def _print_images(run: AdapterTrainer, listed: ImageSet) -> None:
    from ..training import note_unless_held_out

    held_out = len(listed.held_out_photographs) + len(listed.held_out_thumbnails)
    trained_on = len(listed.photographs) + len(listed.thumbnails)
    size = f"{run.options.width}x{run.options.height}"
    echo(f"training on {counted(trained_on, 'image')} of {size} pixels; held out: {held_out:,}")
    note_unless_held_out(held_out)


def _print_quality(step: int, quality: dict[str, AdapterQuality]) -> None:
    for name, figures in quality.items():
        echo(f"step {step:,}, {name}: {figures}")
