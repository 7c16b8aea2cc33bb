"""The command `tokenstore convert`."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import tokenstore
from tokenstore.errors import ConversionError
from tokenstore.sources.options import LARGEST_VALUE
from tokenstore.writing.choices import CHUNK_SAMPLES

from .. import options, source_options
from ..actors import ray_executor
from ..console import refuse_idle_options
from ..main import EXIT_CODES, spoken

if TYPE_CHECKING:
    from tokenstore.conversion import Executor
    from tokenstore.sources.base import Source

    from .convert_log import JsonLog, TextLog

_IMAGE_OPTIONS = (
    "image_size",
    "resize",
    "on_error",
    "max_pixels",
    "fast_decode",
    "views",
    "workers",
    "batch_size",
    "compile",
)
_SECRET_OPTIONS = ("--storage-options", "--source-storage-options")
_MASK_OPTIONS = {"mask_size": "--mask-size", "ignore_index": "--ignore-index"}


@click.command(epilog=EXIT_CODES)
@options.existing_source("src")
@click.argument("out")
@source_options.source_kind()
@source_options.labels()
@source_options.label_column()
@source_options.image_column()
@source_options.no_labels()
@source_options.further_columns()
@source_options.allow_outside_paths()
@source_options.masks()
@click.option(
    "--mask-size",
    metavar="PIXELS",
    type=click.IntRange(1),
    help="Side in pixels that label maps are stored at; by default the side of the images.",
)
@options.ignore_index(LARGEST_VALUE, most=LARGEST_VALUE)
@options.tokenizer(otherwise="default for images; of ready codes, nobody's")
@options.device()
@options.image_size()
@options.resize()
@source_options.views()
@options.codec("bitpack")
@options.min_decode_rate()
@click.option(
    "--chunk-samples",
    metavar="N",
    type=click.IntRange(1),
    default=CHUNK_SAMPLES,
    show_default=True,
    help="Samples that are checked and fetched together.",
)
@options.shard_samples()
@options.split("all", name="splits", multiple=True)
@options.limit("the first ones")
@options.part()
@source_options.on_error()
@source_options.max_pixels()
@click.option(
    "--fast-decode",
    is_flag=True,
    help="Decode large JPEG images at a fraction of their size: several times as fast; a few codes differ.",
)
@click.option(
    "--codebook",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Vectors of ready codes: .npy, .pt, .ckpt or .safetensors.",
)
@click.option(
    "--tokenizer-name",
    metavar="NAME",
    help="Name of the tokenizer that made ready codes, where SRC does not say it.",
)
@source_options.ready_codes()
@source_options.class_names()
@options.codebook_size(otherwise="the largest of the ready codes + 1")
@options.workers("processes that decode images; 0: none")
@options.batch_size(32, "images that the tokenizer takes at once")
@source_options.compiled()
@options.ray_cluster("a process that decodes images", gpus=True)
@click.option(
    "--prune-codebook",
    is_flag=True,
    help="Keep only codes that occur, numbered anew; the manifest keeps the map.",
)
@options.resume("the interrupted conversion to OUT")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing: list and count SRC, check OUT, and estimate bytes and time from some samples.",
)
@click.option("--log-json", is_flag=True, help="Report on standard output as JSON, one object a line.")
@options.storage_options(of="store, OUT")
@source_options.storage_options()
def convert(
    src: str,
    out: str,
    source_kind: str | None,
    masks: str | None,
    splits: tuple[str, ...],
    on_error: str | None,
    dry_run: bool,
    log_json: bool,
    **settings: Any,
) -> None:
    """Turn SRC into the token store OUT.

    SRC is an image folder, tar shards in WebDataset layout, Parquet with an image column, the SeiT
    release, or ready codes (arrays, safetensors, JSON lines, Zarr ...). OUT is a folder, a .zip file, or
    an fsspec URL. Folders of images and files, but for arrays, may be at an fsspec URL too.

    \b
    Examples:
      tokenstore convert imagenet/ imagenet.zarr --device cuda --batch-size 256
      tokenstore convert 'shards/train-{00000..00099}.tar' train.zarr --resize crop
      tokenstore convert photos/ s3://bucket/photos.zarr --labels photos.csv
      tokenstore convert 's3://bucket/shards/{00000..09999}.tar' s3://bucket/photos.zarr
      tokenstore convert /nfs/photos /nfs/photos.zarr --ray auto --actors 8 --cpus-per-actor 4 --device cuda
      tokenstore convert seit-release/ seit.zarr --dry-run
      tokenstore convert imagenet/ imagenet-flips.zarr --views flip --codec context
      tokenstore convert ade20k/images ade20k.zarr --masks ade20k/annotations --ignore-index 0
    """
    from .convert_log import JsonLog, TextLog

    started = time.monotonic()
    refuse_idle_options(_MASK_OPTIONS, "--masks DIR", masks is None)
    log = JsonLog() if log_json else TextLog()
    executor = ray_executor(settings, "workers")

    def on_source(listed: Source) -> None:
        _refuse_idle_options(listed)
        log.begin(listed)

    settings |= {
        "source_kind": source_kind,
        "masks": masks,
        "splits": splits or None,
        "on_error": on_error or "limit",
        "on_source": on_source,
    }
    if dry_run:
        _print_plan(src, out, executor, log, settings)
        return
    try:
        with log:
            conversion = tokenstore.convert(src, out, executor=executor, on_progress=log.progress, **settings)
    except KeyboardInterrupt:
        log.interrupted(_resuming_command())
        raise click.exceptions.Exit(130) from None
    except ConversionError as error:
        skips = [(name, spoken(reason, error.parameters)) for name, reason in error.skipped]
        log.skipped([{"source": name, "reason": reason} for name, reason in skips], "cannot read")
        raise
    log.end(conversion, out, time.monotonic() - started)


def _print_plan(
    src: str, out: str, executor: Executor | None, log: JsonLog | TextLog, settings: dict[str, Any]
) -> None:
    if executor is not None:
        raise click.UsageError("--dry-run plans for this machine alone: leave out --ray ADDRESS")
    with log:
        planned = tokenstore.plan(src, out, **settings)
    log.planned(planned, out)


def _resuming_command() -> str:
    """Return the command line that resumes the conversion which this one began, with `***` for secrets."""
    again = [word for word in sys.argv[1:] if word != "--resume"]
    again.insert(again.index("convert") + 1 if "convert" in again else 0, "--resume")
    before = ["", *again]
    return f"tokenstore {shlex.join(_without_secrets(*pair) for pair in zip(before, again, strict=False))}"


def _without_secrets(before: str, word: str) -> str:
    """Return a word of a command line, behind another, without passwords and the values of options."""
    from tokenstore.storage.redaction import HIDDEN, Secrets

    name, equals, _ = word.partition("=")
    if before in _SECRET_OPTIONS:
        return HIDDEN
    if name in _SECRET_OPTIONS:
        return f"{name}{equals}{HIDDEN if equals else ''}"
    return Secrets(word, {}).hide(word) if "://" in word else word


def _refuse_idle_options(source: Source) -> None:
    """Raise click.UsageError for an option that a source of this kind has no use for."""
    from tokenstore.sources.base import ImageSource

    images = isinstance(source, ImageSource)
    context = click.get_current_context()
    of_images = _IMAGE_OPTIONS if context.params["tokenizer"] else ("device", *_IMAGE_OPTIONS)
    for name in ("codebook", "codebook_size", "tokenizer_name") if images else of_images:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            what = "ready codes" if images else "images"
            raise click.UsageError(f"--{name.replace('_', '-')} is for {what}, and {source.location} is not")
