"""The command `tokenstore fit-codebook`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tokenstore.texts import percent

from .. import options
from ..console import counted, echo, hint_commands
from ..main import EXIT_CODES

if TYPE_CHECKING:
    from tokenstore.sources import ImageSource
    from tokenstore.tokenizers.train import FittedCodebook

_ENDING = ".safetensors"
_EXAMPLES = 10


def _parse_levels(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse the whole numbers of --levels."""
    try:
        return None if value is None else tuple(int(number) for number in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers such as 8,8,8,8, found {value!r}") from error


def _check_ending(_: click.Context, __: click.Parameter, value: Path) -> Path:
    """Refuse a file with another ending."""
    if value.suffix != _ENDING:
        raise click.UsageError(f"expected --out to end in {_ENDING}, found {value}")
    return value


@click.command(epilog=EXIT_CODES)
@options.existing_source("images")
@click.option(
    "--autoencoder",
    required=True,
    metavar="FOLDER|HUB-ID",
    help="An AutoencoderKL, AutoencoderTiny or AutoencoderDC of diffusers, or a pipeline with one.",
)
@options.out("a file that ends in .safetensors", callback=_check_ending)
@options.codebook_size(4096, most=2**16)
@click.option(
    "--codebooks",
    metavar="N",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Codes of a position: each further codebook refines what those before it left.",
)
@click.option(
    "--levels",
    metavar="L,L,...",
    callback=_parse_levels,
    help="Instead of codebooks, finite scalar quantisation with so many levels of each latent channel.",
)
@options.split("train, or the first")
@options.limit("evenly spaced; one image in ten is held out to evaluate with", default=2000)
@options.image_size(256, least=16)
@options.resize()
@click.option(
    "--max-vectors",
    metavar="N",
    type=click.IntRange(1),
    default=1 << 20,
    show_default=True,
    help="Latent vectors in memory, a random sample of all.",
)
@click.option(
    "--batch-vectors",
    metavar="N",
    type=click.IntRange(1),
    default=1 << 14,
    show_default=True,
    help="Latent vectors of one step of k-means.",
)
@click.option(
    "--iterations",
    metavar="N",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Steps of k-means for each codebook.",
)
@options.seed()
@options.device()
@options.overwrite()
def fit_codebook(images: str, out: Path, levels: tuple[int, ...] | None, **settings: Any) -> None:
    """Learn a codebook over an autoencoder's latents of IMAGES.

    IMAGES is a source of images as `convert` reads them. The autoencoder stays as it is; with the codebook
    it is a tokenizer: `--tokenizer autoencoder:OUT`. A .yaml file beside OUT says how it was fitted.

    \b
    Examples:
      tokenstore fit-codebook photos/ --autoencoder sdxl-vae/ --out sdxl.safetensors
      tokenstore fit-codebook a.tar --autoencoder taesd/ --codebooks 4 --out 4.safetensors
      tokenstore fit-codebook a.tar --autoencoder taesd/ --levels 8,8,8,8 --out fsq.safetensors
      tokenstore convert photos/ photos.zarr --tokenizer autoencoder:sdxl.safetensors
    """
    _refuse_codebooks_with(levels)
    from tokenstore.tokenizers.train import fit_codebook as fit

    from ..progress import step_bars

    def begin(source: ImageSource, split: str, count: int) -> None:
        total = len(source.splits[split])
        echo(f"{images}: {source.kind}, {split}: {count:,} of {counted(total, 'image')}")

    with step_bars() as on_progress:
        fitted = fit(images, out, levels=levels, on_start=begin, on_progress=on_progress, **settings)
    echo(f"{out}: {fitted.tokenizer.name}, fingerprint {fitted.tokenizer.fingerprint[:16]}")
    _print(fitted)
    hint_commands(("tokenstore", "convert", images, "OUT", "--tokenizer", f"autoencoder:{out}"))


def _refuse_codebooks_with(levels: tuple[int, ...] | None) -> None:
    """Refuse --levels beside an option of codebooks that the user gave."""
    context = click.get_current_context()
    for name in ("codebook_size", "codebooks"):
        if levels is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise click.UsageError(f"--levels is instead of codebooks: it cannot go with --{option}")


def _print(fitted: FittedCodebook) -> None:
    report, sizes = fitted.report, fitted.tokenizer.codebook_sizes
    echo(f"learned from {counted(report.images, 'image')}, {counted(report.vectors, 'latent vector')}")
    for name, reason in report.skipped[:_EXAMPLES]:
        echo(f"  skipped {name}: {reason}")
    if len(report.skipped) > _EXAMPLES:
        echo(f"  ... and {len(report.skipped) - _EXAMPLES:,} more skipped")
    echo(f"error: {percent(report.relative_error, 2)} of the latents' variance")
    for number, (perplexity, unused) in enumerate(zip(report.perplexity, report.unused_codes, strict=True)):
        label = "codebook" if len(sizes) == 1 else f"codebook {number + 1}"
        echo(f"{label}: perplexity {perplexity:,.0f} of {sizes[number]:,}, unused: {counted(unused, 'code')}")
    echo(f"held out: {report.held_out or 'nothing to measure with, for there were too few images'}")
