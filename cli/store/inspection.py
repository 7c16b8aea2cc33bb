"""`tokenstore info`, `tokenstore stats` and `tokenstore verify`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

import tokenstore
from tokenstore.format.manifest import TokenizerIdentity

from .. import options
from ..console import human_bytes, progress_bar, refuse_idle_options
from ..main import EXIT_CODES
from .stats_tables import FIGURE, print_bytes, print_mixing, print_split

if TYPE_CHECKING:
    from tokenstore.audit.originals import ComparedSamples
    from tokenstore.audit.quality import SplitQuality
    from tokenstore.audit.retokenization import Retokenization

_CLASSES_SHOWN = 10
_IMAGE_OPTIONS = {"images": "--images", "tokenizer": "--tokenizer", "device": "--device"}
_SHUFFLE_OPTIONS = {"batch_size": "--batch-size", "shuffle_window": "--shuffle-window"}


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.as_json("the manifest and each array's layout")
@options.storage_options()
def info(store: str, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Show what STORE says about itself.

    \b
    Examples:
      tokenstore info photos.zarr
      tokenstore info photos.zarr --json | jq .manifest.tokenizer
    """
    said = tokenstore.info(store, storage_options=storage_options)
    summary = said.to_dict()
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    manifest = said.manifest
    lines = {
        "store": store,
        "format": f"version {manifest.format_version}, needs tokenstore >= {manifest.requires}",
        "written by": f"{manifest.created_by} from {manifest.source_kind or 'unknown'}",
        "tokenizer": _tokenizer(manifest.tokenizer),
        "grid": " x ".join(map(str, manifest.grid)),
        "codebook": _sizes(manifest.codebook_sizes),
    }
    if manifest.source_location is not None:
        lines["source"] = manifest.source_location
    if manifest.preprocessing is not None:
        steps = manifest.preprocessing
        lines["images"] = f"{steps.width} x {steps.height}, {steps.resize}, {steps.filter}"
    if manifest.ignore_index is not None:
        lines["masks"] = f"{manifest.ignore_index} where a pixel has no class"
    if manifest.class_names is not None:
        names = manifest.class_names
        more = f" ... {names[-1]}" if len(names) > _CLASSES_SHOWN else ""
        lines["classes"] = f"{len(names):,}: {', '.join(names[:_CLASSES_SHOWN])}{more}"
    for name, split in manifest.splits.items():
        lines[f"split {name}"] = f"{split.samples:,} samples, {split.skipped:,} skipped"
    for name, array in summary["arrays"].items():
        shape = " x ".join(f"{size:,}" for size in array["shape"])
        shards = (
            f"{array['shards']} shards of {array['shard_samples']:,}, chunks of {array['chunk_samples']:,}"
        )
        size = human_bytes(array["nbytes"])
        lines[f"array {name}"] = f"{array['dtype']} {shape}, {array['codec']}, {shards}, {size}"
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {value}")


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.as_json("the audit")
@click.option(
    "--quality",
    metavar="N",
    type=click.IntRange(1),
    help="Also compare N reconstructions of each split with the images they were made of: PSNR and SSIM.",
)
@click.option("--shuffle", is_flag=True, help="Also say how well the orders of an epoch mix each split.")
@options.batch_size(256, "a batch of an epoch, for --shuffle", least=2)
@click.option(
    "--shuffle-window",
    metavar="SAMPLES",
    type=click.IntRange(1),
    help="Window of the shuffle 'block', for --shuffle; by default TokenLoader's.",
)
@options.images(end="; by default where they were when STORE was made")
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def stats(
    store: str,
    as_json: bool,
    quality: int | None,
    shuffle: bool,
    batch_size: int,
    shuffle_window: int | None,
    images: str | None,
    tokenizer: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
) -> None:
    """Audit STORE: where its bytes go and how its codes are used.

    Every code is read and counted. With --quality, N samples evenly spaced over each split are decoded and
    compared with their images as the tokenizer saw them: resized, not as they are in their files. With
    --shuffle, batches of an epoch are drawn, without reading their codes, to count the distinct classes and
    the distinct runs of samples in each: as stored, fully shuffled, and shuffled by blocks.

    \b
    Examples:
      tokenstore stats photos.zarr
      tokenstore stats photos.zarr --json > audit.json
      tokenstore stats photos.zarr --quality 500 --device cuda
      tokenstore stats s3://bucket/photos.zarr --shuffle --shuffle-window 50000
    """
    refuse_idle_options(_IMAGE_OPTIONS, "--quality N", quality is None)
    refuse_idle_options(_SHUFFLE_OPTIONS, "--shuffle", not shuffle)
    with progress_bar("samples", quiet=as_json) as bar:
        task = bar.add_task("counting", total=None, note="")
        result = tokenstore.stats(
            store,
            quality=quality,
            shuffle=shuffle,
            batch_size=batch_size,
            shuffle_window=shuffle_window,
            images=images,
            tokenizer=tokenizer,
            device=device,
            storage_options=storage_options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    print_bytes(console, result)
    for name, audited in result.splits.items():
        print_split(console, name, audited, result.class_names)
        if audited.quality is not None:
            console.print(f"  {_quality_line(audited.quality)}", markup=False)
        if shuffle:
            print_mixing(console, audited.shuffle)
    if any(audited.shuffle for audited in result.splits.values()):
        console.print(f"\n{FIGURE}")


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.as_json("the findings")
@click.option(
    "--retokenize",
    metavar="N",
    type=click.IntRange(1),
    help="Also encode the images of N samples of each split again and compare their codes.",
)
@options.images(end="; by default where they were when STORE was made")
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def verify(
    store: str,
    as_json: bool,
    retokenize: int | None,
    images: str | None,
    tokenizer: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
) -> None:
    """Check every digest, checksum, code and label of STORE.

    Exits with 1 and names the file and chunk where anything is not as it was written. With --retokenize,
    codes that differ from those the images give now count as damage too, but only where they are computed
    as they were then: on the same kind of device, in the same float type.

    \b
    Examples:
      tokenstore verify photos.zarr
      tokenstore verify s3://bucket/photos.zarr
      tokenstore verify photos.zarr --retokenize 100 --images /new/place/photos
    """
    refuse_idle_options(_IMAGE_OPTIONS, "--retokenize N", retokenize is None)
    with progress_bar("MB", quiet=as_json) as bar:
        task = bar.add_task("verifying", total=None, note="")
        found = tokenstore.verify(
            store,
            retokenize=retokenize,
            images=images,
            tokenizer=tokenizer,
            device=device,
            storage_options=storage_options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    again = found.retokenization
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        for line in [] if again is None else _retokenization_lines(again):
            click.echo(line)
        for note in found.notes:
            click.echo(f"note: {note}")
        for problem in found.problems:
            click.echo(f"damage: {problem}")
        verdict = "ok" if found.ok else f"damaged, {len(found.problems)} findings"
        checked = f"{found.files:,} files, {human_bytes(found.nbytes)}, {found.chunks:,} chunks"
        click.echo(f"{store}: {verdict}; checked {checked}, {found.samples:,} samples")
    if not found.ok:
        raise click.exceptions.Exit(1)


def _retokenization_lines(again: Retokenization) -> list[str]:
    lines = [f"codes were computed in: {again.stored_arithmetic}; now: {again.arithmetic}"]
    for name, split in again.splits.items():
        share = f", {split.equal_codes / split.codes:.4%} of their codes" if split.codes else ""
        lines.append(
            f"split {name}: {split.equal_samples:,} of {split.samples:,} samples encoded again are equal"
            f"{share}{_missing_images(split)}"
        )
    return lines


def _quality_line(quality: SplitQuality) -> str:
    if quality.psnr is None or quality.ssim is None:
        return f"reconstructions: none compared{_missing_images(quality)}"
    return (
        f"reconstructions: PSNR {quality.psnr:.2f} dB, SSIM {quality.ssim:.4f}, means of {quality.samples:,} "
        f"samples{_missing_images(quality)}"
    )


def _missing_images(chosen: ComparedSamples) -> str:
    return f"; {chosen.missing:,} images are missing, the first: {chosen.reason}" if chosen.missing else ""


def _sizes(sizes: tuple[int, ...]) -> str:
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} of {sizes[0]:,} codes"
    return " + ".join(f"{size:,}" for size in sizes) + " codes"


def _tokenizer(identity: TokenizerIdentity) -> str:
    computed = "" if identity.device is None else f", computed in {identity.device} {identity.dtype}"
    pruned = "" if identity.kept_codes is None else ", codebook pruned"
    named = "" if identity.spec is None else f", named {identity.spec}"
    return f"{identity}{named}{pruned}{computed}"
