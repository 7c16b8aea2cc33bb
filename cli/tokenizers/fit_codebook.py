"""`tokenstore fit-codebook`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.progress import TaskID

from tokenstore.errors import SourceError, TokenizerError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.tokenizers.train.fitting import FitOptions, FitReport
from tokenstore.tokenizers.train.fitting import fit_codebook as run_fit

from ..console import progress_bar
from ..main import EXIT_CODES

_DEFAULT = FitOptions()
_ENDING = ".safetensors"
_SHOWN = 10


def _parse_levels(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The whole numbers of --levels."""
    try:
        return None if value is None else tuple(int(number) for number in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers such as 8,8,8,8, found {value!r}") from error


@click.command(epilog=EXIT_CODES)
@click.argument("images")
@click.option(
    "--autoencoder",
    required=True,
    metavar="FOLDER|HUB-ID",
    help="An AutoencoderKL, AutoencoderTiny or AutoencoderDC of diffusers, or a pipeline with one.",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="FILE.safetensors to write."
)
@click.option(
    "--size",
    type=click.IntRange(1, 2**16),
    default=_DEFAULT.size,
    show_default=True,
    help="Codes of a codebook.",
)
@click.option(
    "--codebooks",
    type=click.IntRange(1, 64),
    default=_DEFAULT.codebooks,
    show_default=True,
    help="Codes of a position: each further codebook refines what those before it left.",
)
@click.option(
    "--levels",
    metavar="L,L,...",
    callback=_parse_levels,
    help="Instead of codebooks, finite scalar quantisation with so many levels of each latent channel.",
)
@click.option("--split", help="Split to learn from; by default train, or the first.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Take so many images, evenly spaced over the split. One in ten is kept out to measure with.",
)
@click.option("--image-size", type=click.IntRange(16), default=256, show_default=True, help="Side in pixels.")
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop", "pad"]),
    default="squash",
    show_default=True,
    help="How an image becomes a square: both sides to size, centre crop, or fit and pad with black.",
)
@click.option(
    "--max-vectors",
    type=click.IntRange(1),
    default=_DEFAULT.max_vectors,
    show_default=True,
    help="Latent vectors kept in memory, a random sample of all.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=_DEFAULT.batch_size,
    show_default=True,
    help="Latent vectors of one step of k-means.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=_DEFAULT.iterations,
    show_default=True,
    help="Steps of k-means for each codebook.",
)
@click.option("--seed", default=_DEFAULT.seed, show_default=True, help="Decides everything random.")
@click.option("--device", default="cpu", show_default=True, help="Where it computes: cpu, cuda, mps ...")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
def fit_codebook(
    images: str,
    autoencoder: str,
    out: Path,
    split: str | None,
    limit: int,
    image_size: int,
    resize: Resize,
    device: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Learn a codebook over an autoencoder's latents of IMAGES.

    IMAGES is a source of images as `convert` reads them. The autoencoder stays as it is; with the codebook
    it is a tokenizer: `--tokenizer autoencoder:OUT`.

    \b
    Examples:
      tokenstore fit-codebook photos/ --autoencoder sdxl-vae/ --out sdxl.safetensors
      tokenstore fit-codebook a.tar --autoencoder taesd/ --codebooks 4 --out 4.safetensors
      tokenstore fit-codebook a.tar --autoencoder taesd/ --levels 8,8,8,8 --out fsq.safetensors
      tokenstore convert photos/ photos.zarr --tokenizer autoencoder:sdxl.safetensors
    """
    _check(out, overwrite, options["levels"])
    source = _open_images(images)
    name = split or ("train" if "train" in source.splits else next(iter(source.splits)))
    if name not in source.splits:
        raise SourceError(f"{images}: expected a split of {', '.join(source.splits)}, found {name!r}")
    try:
        from tokenstore.tokenizers.kinds.autoencoder import load_autoencoder, write_codebook
    except ImportError as error:
        raise TokenizerError(
            f"fit-codebook needs the package diffusers; pip install 'tokenstore[diffusers]' ({error})"
        ) from error
    loaded = load_autoencoder(autoencoder, device)
    total = len(source.splits[name])
    click.echo(f"{images}: {source.kind}, {name}: {min(limit, total):,} of {total:,} images")
    with progress_bar("steps") as bar:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, stages: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=stages, note="")
            bar.update(tasks[stage], completed=done)

        tokenizer, report = run_fit(
            source.splits[name],
            loaded,
            ImageOptions(image_size, resize),
            FitOptions(**options),
            limit=limit,
            tell=tell,
        )
    write_codebook(tokenizer, out)
    click.echo(f"{out}: {tokenizer.name}, fingerprint {tokenizer.fingerprint[:16]}")
    _print(report, tokenizer.codebook_sizes)


def _check(out: Path, overwrite: bool, levels: tuple[int, ...] | None) -> None:
    """Refuse what would end in an error after minutes of work."""
    context = click.get_current_context()
    for name in ("size", "codebooks"):
        if levels is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--levels is instead of codebooks: it cannot go with --{name}")
    if out.suffix != _ENDING:
        raise click.UsageError(f"expected --out to end in {_ENDING}, found {out}")
    if out.exists() and not overwrite:
        raise TokenizerError(f"{out}: is there already; name another file, or replace it with --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)


def _open_images(place: str) -> ImageSource:
    source = open_source(place)
    if not isinstance(source, ImageSource):
        raise SourceError(f"{place}: expected images to learn from, found ready codes ({source.kind})")
    return source


def _print(report: FitReport, sizes: tuple[int, ...]) -> None:
    click.echo(f"learned from {report.images:,} images, {report.vectors:,} latent vectors")
    for name, reason in report.skipped[:_SHOWN]:
        click.echo(f"  skipped {name}: {reason}")
    if len(report.skipped) > _SHOWN:
        click.echo(f"  ... and {len(report.skipped) - _SHOWN:,} more skipped")
    click.echo(f"error: {report.relative_error:.2%} of the latents' variance")
    for number, (perplexity, unused) in enumerate(zip(report.perplexity, report.unused_codes, strict=True)):
        label = "codebook" if len(sizes) == 1 else f"codebook {number + 1}"
        click.echo(f"{label}: perplexity {perplexity:,.0f} of {sizes[number]:,}, {unused:,} codes unused")
    click.echo(f"held out: {report.held_out or 'nothing to measure with, for there were too few images'}")
