"""`tokenstore train-tokenizer`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click
import torch

from tokenstore.codecs.machine import available_cores
from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.conv_vq import ConvVQConfig
from tokenstore.tokenizers.quality import Quality
from tokenstore.tokenizers.registry import check_device
from tokenstore.tokenizers.training import WEIGHTS, StepResult, Trainer, TrainingConfig
from tokenstore.tokenizers.training_images import list_images
from tokenstore.tokenizers.training_run import train as run_training

from .console import err, progress_bar
from .main import EXIT_CODES

_DEFAULT = TrainingConfig()
_TOLD_SECONDS = 60.0


@click.command(epilog=EXIT_CODES)
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights and run.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=_DEFAULT.steps, show_default=True, help="Steps in all."
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
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=_DEFAULT.held_out,
    show_default=True,
    help="Share of the images kept out of training, by a hash of their file names. Splits named val or test "
    "are kept out whole.",
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
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT.learning_rate,
    show_default=True,
    help="Of AdamW, at its highest.",
)
@click.option("--seed", default=_DEFAULT.seed, show_default=True, help="Decides everything random.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Arithmetic of the networks; weights are kept in float32.",
)
@click.option("--device", default="cpu", show_default=True, help="Where it trains: cpu, cuda ...")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=available_cores(),
    show_default="one a core",
    help="On a CPU.",
)
@click.option(
    "--evaluate-every",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    help="Evaluate after as many steps; 0: at the end only.",
)
@click.option(
    "--evaluate-images",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Held-out images of a kind to evaluate on.",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="What a crash may lose.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT, given the same options.")
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
    evaluate_every: int,
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
        bfloat16=precision == "bf16",
    ).shortened(steps)
    check_device(device)
    listed = list_images([_images(place) for place in images], held_out)
    click.echo(
        f"training on {len(listed.photographs):,} photographs and {len(listed.thumbnails):,} thumbnails; "
        f"held out: {len(listed.held_out_photographs):,} and {len(listed.held_out_thumbnails):,}"
    )
    if not listed.held_out_photographs and not listed.held_out_thumbnails:
        click.echo("note: no image is held out, so nothing will be evaluated; raise --held-out")
    trainer = Trainer(config, listed, out, device)
    with progress_bar("steps") as bar:
        task = bar.add_task("training", total=steps, note="")
        told = time.monotonic()

        def on_step(result: StepResult) -> None:
            nonlocal told
            text = f"PSNR {result.psnr:.2f} dB, perplexity {result.perplexity:,.0f}"
            bar.update(task, completed=result.step, note=text)
            if not err.is_terminal and time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                click.echo(f"step {result.step:,} of {steps:,}: {text}, {result.seconds / 60:.1f} minutes")

        try:
            run_training(
                trainer,
                listed,
                resume=resume,
                checkpoint_seconds=60 * checkpoint_minutes,
                evaluate_steps=evaluate_every,
                evaluate_images=evaluate_images,
                on_step=on_step,
                on_evaluation=_tell,
            )
        except KeyboardInterrupt:
            click.echo(
                f"stopped after step {trainer.step:,}; the same command with --resume goes on", err=True
            )
            raise
    click.echo(f"{steps:,} steps in {trainer.seconds / 60:.1f} minutes: {out / WEIGHTS}")


def _tell(step: int, quality: dict[str, Quality]) -> None:
    for kind, figures in quality.items():
        click.echo(f"step {step:,}, held-out {kind}: {figures}")


def _images(place: str) -> ImageSource:
    source = open_source(place)
    if not isinstance(source, ImageSource):
        raise SourceError(f"{place}: expected images to train on, found ready codes ({source.kind})")
    return source
