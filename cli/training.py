"""What the commands that train have in common: options, the images, and how a run is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from tokenstore.errors import SourceError
from tokenstore.machine import available_cores
from tokenstore.networks.runs import ResumableRun, StepResult
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.train.images import ImageSet, list_images

from .console import err, progress_bar

_TOLD_SECONDS = 60.0
_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result", bound=StepResult)


def training_options(
    *,
    steps: int,
    held_out: float,
    learning_rate: float,
    seed: int,
    evaluate_every: int,
    evaluate_images: int,
    evaluated: str,
    resumed: str,
) -> Callable[[_Command], _Command]:
    """The options of every command that trains, with its defaults; `evaluated` and `resumed` are help."""
    options = (
        click.option(
            "--steps", type=click.IntRange(1), default=steps, show_default=True, help="Steps in all."
        ),
        click.option(
            "--held-out",
            type=click.FloatRange(0, 1, max_open=True),
            default=held_out,
            show_default=True,
            help="Share of the images kept out of training, by a hash of their file names. Splits named val "
            "or test are kept out whole.",
        ),
        click.option(
            "--learning-rate",
            type=click.FloatRange(0, min_open=True),
            default=learning_rate,
            show_default=True,
            help="Of AdamW, at its highest.",
        ),
        click.option("--seed", default=seed, show_default=True, help="Decides everything random."),
        click.option(
            "--precision",
            type=click.Choice(["bf16", "fp32"]),
            default="bf16",
            show_default=True,
            help="Arithmetic of the networks; weights are kept in float32.",
        ),
        click.option("--device", default="cpu", show_default=True, help="Where it trains: cpu, cuda ..."),
        click.option(
            "--threads",
            type=click.IntRange(1),
            default=available_cores(),
            show_default="one a core",
            help="On a CPU.",
        ),
        click.option(
            "--evaluate-every",
            type=click.IntRange(0),
            default=evaluate_every,
            show_default=True,
            help="Evaluate after as many steps; 0: at the end only.",
        ),
        click.option(
            "--evaluate-images",
            type=click.IntRange(1),
            default=evaluate_images,
            show_default=True,
            help=evaluated,
        ),
        click.option(
            "--checkpoint-minutes",
            type=click.FloatRange(0),
            default=3.0,
            show_default=True,
            help="What a crash may lose.",
        ),
        click.option("--resume", is_flag=True, help=resumed),
    )

    def decorated(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def listed_images(places: Sequence[str], held_out: float) -> ImageSet:
    """The images of some sources; raises SourceError where one holds ready codes."""
    sources = []
    for place in places:
        source = open_source(place)
        if not isinstance(source, ImageSource):
            raise SourceError(f"{place}: expected images to train on, found ready codes ({source.kind})")
        sources.append(source)
    return list_images(sources, held_out)


def note_unless_held_out(count: int) -> None:
    if not count:
        click.echo("note: no image is held out, so nothing will be evaluated; raise --held-out")


def shown(
    run: ResumableRun[Any, _Result],
    train: Callable[[Callable[[_Result], None]], object],
    described: Callable[[_Result], str],
) -> None:
    """Train, `train(on_step)`, with a progress bar, or a line a minute where there is no terminal."""
    steps: int = run.config.steps
    with progress_bar("steps", quiet=not run.writes) as bar:
        task = bar.add_task("training", total=steps, note="")
        told = time.monotonic()

        def on_step(result: _Result) -> None:
            nonlocal told
            text = described(result)
            bar.update(task, completed=result.step, note=text)
            if run.writes and not err.is_terminal and time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                click.echo(f"step {result.step:,} of {steps:,}: {text}, {run.seconds / 60:.1f} minutes")

        try:
            train(on_step)
        except KeyboardInterrupt:
            if run.writes:
                goes_on = f"the same command goes on by {run.resume_option}"
                click.echo(f"stopped after step {run.step:,}; {goes_on}", err=True)
            raise
