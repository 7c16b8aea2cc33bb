"""`tokenstore train-tokenizer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from tokenstore.tokenizers.kinds.conv_vq import ConvVQConfig
from tokenstore.tokenizers.quality import Quality
from tokenstore.tokenizers.registry import check_device
from tokenstore.tokenizers.train.run import train as run_training
from tokenstore.tokenizers.train.trainer import WEIGHTS, StepResult, Trainer, TrainingConfig

from ..main import EXIT_CODES
from ..training import in_bfloat16, listed_images, note_unless_held_out, shown
from ..training_options import training_options

_DEFAULT = TrainingConfig()


@click.command(epilog=EXIT_CODES)
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights and run.",
)
@click.option(
    "--codebook-size",
    type=click.IntRange(2, 2**16),
    default=_DEFAULT.model.codebook_size,
    show_default=True,
    help="Codes of the codebook.",
)
@click.option(
    "--name",
    default="conv-vq-8x-own",
    show_default=True,
    help="What stores will call the tokenizer; its fingerprint tells it from others of that name.",
)
@click.option(
    "--photographs",
    type=click.IntRange(0),
    default=_DEFAULT.photographs,
    show_default=True,
    help="Crops of photographs in a batch.",
)
@click.option(
    "--thumbnails",
    type=click.IntRange(0),
    default=_DEFAULT.thumbnails,
    show_default=True,
    help="Crops of images below 128 pixels in a batch.",
)
@training_options(
    steps=_DEFAULT.steps,
    held_out=_DEFAULT.held_out,
    learning_rate=_DEFAULT.learning_rate,
    evaluate_every=2000,
    images=256,
    resumed="the run in OUT",
)
def train_tokenizer(
    images: tuple[str, ...],
    out: Path,
    steps: int,
    codebook_size: int,
    name: str,
    held_out: float,
    photographs: int,
    thumbnails: int,
    learning_rate: float,
    seed: int,
    precision: str,
    device: str,
    threads: int,
    evaluate_steps: int,
    evaluate_images: int,
    checkpoint_minutes: float,
    resume: bool,
) -> None:
    """Train a tokenizer of the default kind on IMAGES, sources of images as `convert` reads them.

    OUT gets weights.safetensors (averaged weights, for `--tokenizer conv-vq:OUT/weights.safetensors`),
    evaluation.json, samples.png, log.jsonl, and state.pt to go on from.

    \b
    Examples:
      tokenstore train-tokenizer photos/ --out mine
      tokenstore train-tokenizer photos/ thumbnails.tar --out mine --held-out 0.5
      tokenstore train-tokenizer imagenet/ --out mine --device cuda --photographs 128 --thumbnails 0
    """
    torch.set_num_threads(threads)
    config = TrainingConfig(
        model=replace(ConvVQConfig(), name=name, codebook_size=codebook_size),
        seed=seed,
        held_out=held_out,
        photographs=photographs,
        thumbnails=thumbnails,
        learning_rate=learning_rate,
        bfloat16=in_bfloat16(precision, device),
    ).shortened(steps)
    check_device(device)
    listed = listed_images(images, held_out)
    photos, thumbs = len(listed.held_out_photographs), len(listed.held_out_thumbnails)
    click.echo(
        f"training on {len(listed.photographs):,} photographs and {len(listed.thumbnails):,} thumbnails; "
        f"held out: {photos:,} and {thumbs:,}"
    )
    note_unless_held_out(photos + thumbs)
    trainer = Trainer(config, listed, out, device)

    def train(on_step: Callable[[StepResult], None]) -> None:
        run_training(
            trainer,
            listed,
            resume=resume,
            checkpoint_seconds=60 * checkpoint_minutes,
            evaluate_steps=evaluate_steps,
            evaluate_images=evaluate_images,
            on_step=on_step,
            on_evaluation=_tell,
        )

    shown(trainer, train, lambda result: f"PSNR {result.psnr:.2f} dB, perplexity {result.perplexity:,.0f}")
    click.echo(f"{steps:,} steps in {trainer.seconds / 60:.1f} minutes: {out / WEIGHTS}")


def _tell(step: int, quality: dict[str, Quality]) -> None:
    for kind, figures in quality.items():
        click.echo(f"step {step:,}, held-out {kind}: {figures}")
