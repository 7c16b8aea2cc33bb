"""`seitpp train-tokenadapt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch

from seitpp_models.adapter.evaluation import AdapterQuality
from seitpp_models.adapter.run import train as run_training
from seitpp_models.adapter.trainer import AdapterTrainer, AdapterTrainingConfig, StepResult
from tokenstore.augment.adapters import save_adapter
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.registry import check_device

from ..main import EXIT_CODES
from ..training import in_bfloat16, listed_images, note_unless_held_out, shown
from ..training_options import training_options

_DEFAULT = AdapterTrainingConfig()


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
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that make pairs; 0: between the steps.",
)
@training_options(
    steps=_DEFAULT.steps,
    held_out=0.1,
    learning_rate=_DEFAULT.learning_rate,
    evaluate_every=1000,
    images=64,
    resumed="the run beside OUT",
)
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
    evaluate_steps: int,
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
        bfloat16=in_bfloat16(precision, device),
    )
    check_device(device)
    listed = listed_images(images, held_out)
    count = len(listed.held_out_photographs) + len(listed.held_out_thumbnails)
    click.echo(
        f"training on {len(listed.photographs) + len(listed.thumbnails):,} images; held out: {count:,}"
    )
    note_unless_held_out(count)
    folder = out.with_name(f"{out.name}.run")
    trainer = AdapterTrainer(
        config, listed, load_tokenizer(tokenizer), folder, workers=workers, device=device
    )

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

    shown(trainer, train, lambda result: f"loss {result.loss:.3f}, {100 * result.accuracy:.1f} % of codes")
    save_adapter(trainer.average, out)
    click.echo(f"{steps:,} steps in {trainer.seconds / 60:.1f} minutes: {out}")


def _tell(step: int, quality: dict[str, AdapterQuality]) -> None:
    for name, figures in quality.items():
        click.echo(f"step {step:,}, {name}: {figures}")
