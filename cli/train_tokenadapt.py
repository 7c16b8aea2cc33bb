"""`seitpp train-tokenadapt`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from seitpp_models.training.adapter_evaluation import AdapterQuality
from seitpp_models.training.token_adapt import AdapterTrainer, AdapterTrainingConfig, StepResult
from seitpp_models.training.token_adapt_run import train as run_training
from tokenstore.adapters import save_adapter
from tokenstore.codecs.machine import available_cores
from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.registry import check_device
from tokenstore.tokenizers.training_images import list_images

from .console import err, progress_bar
from .main import EXIT_CODES

_DEFAULT = AdapterTrainingConfig()
_TOLD_SECONDS = 60.0


@click.command(epilog=EXIT_CODES)
@click.option("--images", required=True, multiple=True, help="A source of images, as `convert` reads them.")
@click.option("--tokenizer", default="default", show_default=True, help="Whose codes are augmented.")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The weights; the run is kept beside them, in a folder of that name with .run.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=_DEFAULT.steps, show_default=True, help="Steps in all."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=_DEFAULT.batch_size,
    show_default=True,
    help="Pairs a step.",
)
@click.option(
    "--width",
    type=click.IntRange(64),
    default=_DEFAULT.width,
    show_default=True,
    help="Of the networks, a multiple of 64.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the images kept out of training, by a hash of their file names. Splits named val or test "
    "are kept out whole.",
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
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that make pairs; 0: between the steps.",
)
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
    default=1000,
    show_default=True,
    help="Evaluate after as many steps; 0: at the end only.",
)
@click.option(
    "--evaluate-images",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Held-out images to evaluate on.",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="What a crash may lose.",
)
@click.option("--resume", is_flag=True, help="Go on with the run beside OUT, given the same options.")
def train_tokenadapt(
    images: tuple[str, ...],
    tokenizer: str,
    out: Path,
    steps: int,
    batch_size: int,
    width: int,
    held_out: float,
    learning_rate: float,
    seed: int,
    precision: str,
    device: str,
    workers: int,
    threads: int,
    evaluate_every: int,
    evaluate_images: int,
    checkpoint_minutes: float,
    resume: bool,
) -> None:
    """Train TokenAdapt for a tokenizer: it turns tokens of an image into those of the image augmented.

    \b
    Examples:
      seitpp train-tokenadapt --images photos/ --out adapter.safetensors
      seitpp train-tokenadapt --images imagenet/ --out adapter.safetensors --device cuda --batch-size 256
    """
    torch.set_num_threads(threads)
    config = AdapterTrainingConfig(
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        width=width,
        learning_rate=learning_rate,
        warmup_steps=max(1, min(_DEFAULT.warmup_steps, steps // 8)),
        bfloat16=precision == "bf16",
    )
    check_device(device)
    listed = list_images([_images(place) for place in images], held_out)
    count = len(listed.held_out_photographs) + len(listed.held_out_thumbnails)
    click.echo(
        f"training on {len(listed.photographs) + len(listed.thumbnails):,} images; held out: {count:,}"
    )
    if not count:
        click.echo("note: no image is held out, so nothing will be evaluated; raise --held-out")
    folder = out.with_name(f"{out.name}.run")
    trainer = AdapterTrainer(
        config, listed, load_tokenizer(tokenizer), folder, workers=workers, device=device
    )
    with progress_bar("steps") as bar:
        task = bar.add_task("training", total=steps, note="")
        told = time.monotonic()

        def on_step(result: StepResult) -> None:
            nonlocal told
            text = f"loss {result.loss:.3f}, {100 * result.accuracy:.1f} % of codes"
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
    save_adapter(trainer.average, out)
    click.echo(f"{steps:,} steps in {trainer.seconds / 60:.1f} minutes: {out}")


def _tell(step: int, quality: dict[str, AdapterQuality]) -> None:
    for name, figures in quality.items():
        click.echo(f"step {step:,}, {name}: {figures}")


def _images(place: str) -> ImageSource:
    source = open_source(place)
    if not isinstance(source, ImageSource):
        raise SourceError(f"{place}: expected images to train on, found ready codes ({source.kind})")
    return source
