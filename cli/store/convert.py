"""`tokenstore convert`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.progress import Progress as Bar
from rich.progress import TaskID

from tokenstore.conversion.convert import convert_source as run_conversion
from tokenstore.conversion.options import Conversion, ConvertOptions, Progress
from tokenstore.errors import ConversionError
from tokenstore.format.manifest import Manifest
from tokenstore.sources import KINDS, open_source
from tokenstore.sources.base import ImageSource, Source
from tokenstore.sources.images import ImageOptions
from tokenstore.sources.masks import LARGEST_VALUE
from tokenstore.storage.places import Storage
from tokenstore.tokenizers import load_tokenizer
from tokenstore.writing.choices import CHUNK_SAMPLES
from tokenstore.writing.target import check_target

from .. import options
from ..console import human_bytes, progress_bar, refuse_idle_options
from ..main import EXIT_CODES

_SHOWN = 10
_IMAGE_OPTIONS = (
    "tokenizer",
    "device",
    "image_size",
    "resize",
    "on_error",
    "max_pixels",
    "workers",
    "batch_size",
)
_MASK_OPTIONS = {"mask_size": "--mask-size", "ignore_index": "--ignore-index"}


@click.command(epilog=EXIT_CODES)
@options.existing_source("src")
@click.argument("out")
@click.option("--source", type=click.Choice(KINDS), help="Kind of SRC; by default seen from what it holds.")
@click.option(
    "--labels",
    metavar="FILE.csv",
    type=click.Path(exists=True, dir_okay=False),
    help="Labels of an image folder: path,label.",
)
@click.option(
    "--masks",
    metavar="DIR",
    help="Label maps of an image folder, PNG files of class indices: DIR/a/b.png for SRC/a/b.jpg; or a "
    "folder's name in each split, beside the folder of images: train/DIR/b.png for train/images/b.jpg.",
)
@click.option(
    "--mask-size",
    type=click.IntRange(1),
    help="Side in pixels that label maps are stored at; by default that of the images.",
)
@options.ignore_index(LARGEST_VALUE, most=LARGEST_VALUE)
@options.tokenizer("default")
@options.device()
@options.image_size()
@options.resize()
@options.codec("bitpack")
@options.min_decode_rate()
@click.option(
    "--chunk-samples",
    type=click.IntRange(1),
    default=CHUNK_SAMPLES,
    show_default=True,
    help="Samples that are checked and fetched together.",
)
@options.shard_samples()
@options.split("all", name="splits", multiple=True)
@options.limit("the first ones")
@click.option(
    "--on-error",
    type=click.Choice(["skip", "fail"]),
    help="Bad samples: skip any number, or fail at the first. By default up to 1 % are skipped.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=ImageOptions(1).max_pixels,
    show_default=True,
    help="Larger images count as bad.",
)
@click.option(
    "--codebook",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Vectors of ready codes: .npy, .pt, .ckpt or .safetensors.",
)
@options.codebook_size(otherwise="the largest of the ready codes + 1")
@options.workers("processes that decode images; 0: none")
@options.batch_size(32, "images that the tokenizer takes at once")
@click.option(
    "--prune-codebook",
    is_flag=True,
    help="Keep only codes that occur, numbered anew; the manifest keeps the map.",
)
@options.resume("the interrupted conversion to OUT")
@click.option("--log-json", is_flag=True, help="Report on standard output as JSON, one object a line.")
@options.storage_options()
def convert(
    src: str,
    out: str,
    source: str | None,
    labels: str | None,
    masks: str | None,
    tokenizer: str,
    device: str,
    codebook: str | None,
    resume: bool,
    log_json: bool,
    storage_options: dict[str, Any] | None,
    splits: tuple[str, ...],
    on_error: str | None,
    **settings: Any,
) -> None:
    """Turn SRC into the token store OUT.

    SRC is an image folder, tar shards in WebDataset layout, Parquet with an image column, the SeiT
    release, or .npy/.npz arrays of codes. OUT is a folder, a .zip file, or an fsspec URL.

    \b
    Examples:
      tokenstore convert imagenet/ imagenet.zarr --device cuda --batch-size 256
      tokenstore convert 'shards/train-{00000..00099}.tar' train.zarr --resize crop
      tokenstore convert photos/ s3://bucket/photos.zarr --labels photos.csv
      tokenstore convert seit-release/ seit.zarr
      tokenstore convert ade20k/images ade20k.zarr --masks ade20k/annotations --ignore-index 0
      tokenstore convert camvid/ camvid.zarr --masks labels --ignore-index 11
    """
    started = time.monotonic()
    refuse_idle_options(_MASK_OPTIONS, "--masks DIR", masks is None)
    _check_out(src, out, resume, storage_options)
    read = open_source(src, source, labels=labels, masks=masks)
    _refuse_idle_options(read)
    log = _JsonLog() if log_json else _TextLog()
    log.begin(read)
    try:
        with log:
            conversion = run_conversion(
                read,
                Storage(out, storage_options),
                tokenizer=load_tokenizer(tokenizer, device) if isinstance(read, ImageSource) else None,
                tokenizer_spec=tokenizer,
                options=ConvertOptions(splits=splits or None, on_error=on_error or "limit", **settings),  # type: ignore[arg-type]
                resume=resume,
                codebook=codebook,
                on_progress=log.progress,
            )
    except KeyboardInterrupt:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        again.insert(again.index("convert") + 1 if "convert" in again else 0, "--resume")
        log.interrupted(f"tokenstore {shlex.join(again)}")
        raise click.exceptions.Exit(130) from None
    except ConversionError as error:
        log.skipped([{"source": name, "reason": reason} for name, reason in error.skipped], "cannot read")
        raise
    log.end(conversion, out, time.monotonic() - started)


def _check_out(src: str, out: str, resume: bool, storage_options: dict[str, Any] | None) -> None:
    """Refuse what would end in an error or a mess, before minutes go into listing SRC."""
    target = Storage(out, storage_options)
    if (
        target.root is not None
        and Path(src).is_dir()
        and target.root.resolve().is_relative_to(Path(src).resolve())
    ):
        raise click.UsageError(f"OUT {out} is inside SRC {src}: it would be read as images next time")
    if not resume:
        check_target(target, resume)


def _refuse_idle_options(source: Source) -> None:
    """Refuse options that a source of this kind has no use for."""
    images = isinstance(source, ImageSource)
    idle = ("codebook", "codebook_size") if images else _IMAGE_OPTIONS
    context = click.get_current_context()
    for name in idle:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            what = "ready codes" if images else "images"
            raise click.UsageError(f"--{name.replace('_', '-')} is for {what}, and {source.location} is not")


def _source_nbytes(manifest: Manifest) -> int:
    return sum(split.source_bytes or 0 for split in manifest.splits.values())


class _TextLog:
    """For people: a bar while it runs, then what was done."""

    def __init__(self) -> None:
        self._bar: Bar = progress_bar("samples")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None:
        self._bar.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def begin(self, source: Source) -> None:
        sizes = ", ".join(f"{name}: {len(split):,} samples" for name, split in source.splits.items())
        click.echo(f"{source.location}: {source.kind}, {sizes}")
        for note in source.notes:
            click.echo(f"  note: {note}")

    def progress(self, state: Progress) -> None:
        if state.split not in self._tasks:
            self._tasks[state.split] = self._bar.add_task(
                state.split, total=state.total, completed=state.done, note=""
            )
        note = f"{state.skipped} skipped" if state.skipped else ""
        self._bar.update(self._tasks[state.split], completed=state.done, note=note)

    def skipped(self, skips: list[dict[str, Any]], event: str = "skipped") -> None:
        for skip in skips[:_SHOWN]:
            click.echo(f"  {event} {skip['source']}: {skip['reason']}")

    def interrupted(self, again: str) -> None:
        click.echo(f"interrupted; what is done is kept. Go on with:\n  {again}", err=True)

    def end(self, conversion: Conversion, out: str, seconds: float) -> None:
        manifest = conversion.manifest
        if conversion.already_complete:
            click.echo(f"{out}: already complete; SRC was not compared with it")
            return
        for name, position in conversion.resumed_at.items():
            if position:
                click.echo(f"{name}: went on after {position:,} samples")
        nbytes = conversion.nbytes
        for name, split in manifest.splits.items():
            click.echo(f"{name}: {split.samples:,} samples stored, {split.skipped:,} skipped")
            self.skipped([vars(skip) for skip in conversion.skipped[name]])
            if split.skipped > _SHOWN:
                click.echo(f"  ... all {split.skipped:,} are listed in {out}/{name}/skipped.parquet")
        if conversion.codec_reason:
            click.echo(f"codec {conversion.codec_reason}")
        samples = sum(split.samples for split in manifest.splits.values())
        source_nbytes = _source_nbytes(manifest)
        share = (
            f", {nbytes / source_nbytes:.2%} of the images' {human_bytes(source_nbytes)}"
            if source_nbytes
            else ""
        )
        click.echo(
            f"{out}: {human_bytes(nbytes)}{share}; {seconds:.1f} s, {samples / seconds:,.0f} samples/s"
        )


class _JsonLog:
    """For programs: one JSON object a line."""

    def __init__(self) -> None:
        self._last = 0.0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, source: Source) -> None:
        sizes = {name: len(split) for name, split in source.splits.items()}
        self._write(
            "begin", location=source.location, kind=source.kind, splits=sizes, notes=list(source.notes)
        )

    def progress(self, state: Progress) -> None:
        if state.done == state.total or time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            self._write("progress", **vars(state))

    def skipped(self, skips: list[dict[str, Any]], event: str = "skipped") -> None:
        for skip in skips:
            self._write(event, **skip)

    def interrupted(self, again: str) -> None:
        self._write("interrupted", resume=again)

    def end(self, conversion: Conversion, out: str, seconds: float) -> None:
        for name, skips in conversion.skipped.items():
            self.skipped([{"split": name, **vars(skip)} for skip in skips])
        manifest = conversion.manifest
        self._write(
            "end",
            out=out,
            already_complete=conversion.already_complete,
            splits={name: vars(split) for name, split in manifest.splits.items()},
            nbytes=conversion.nbytes,
            codec_reason=conversion.codec_reason,
            seconds=round(seconds, 3),
        )

    def _write(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}))
