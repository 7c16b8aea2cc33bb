"""`tokenstore info`, `tokenstore stats` and `tokenstore verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from tokenstore.audit.stats import audit, store_summary
from tokenstore.audit.verify import Verification
from tokenstore.audit.verify import verify as check_store
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.loading.orders import Mixing, measure_mixing
from tokenstore.reading.reader import TokenStore, open_store

from .. import options
from ..console import human_bytes, progress_bar, refuse_idle_options
from ..main import EXIT_CODES
from .stats_tables import FIGURE, print_bytes, print_mixing, print_split

if TYPE_CHECKING:
    from tokenstore.audit.reconstruction import Chosen, Retokenization, SplitQuality
    from tokenstore.sources.base import ImageSource
    from tokenstore.tokenizers.base import Tokenizer

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
    opened = open_store(store, storage_options=storage_options)
    summary = store_summary(opened)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    manifest = opened.manifest
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
    opened = open_store(store, storage_options=storage_options)
    measured: dict[str, SplitQuality] = {}
    if quality is not None:
        from tokenstore.audit.reconstruction import measure_quality

        measured = measure_quality(opened, *_against_source(opened, images, tokenizer, device), quality)
    with progress_bar("samples", quiet=as_json) as bar:
        task = bar.add_task("counting", total=None, note="")
        result = audit(opened, lambda done, total: bar.update(task, completed=done, total=total))
    mixings: dict[str, Mixing | None] = {}
    if shuffle:
        mixings = {name: measure_mixing(opened[name], batch_size, shuffle_window) for name in opened.splits}
    if as_json:
        values = result.to_dict()
        for name, split in measured.items():
            values["splits"][name]["quality"] = asdict(split)
        for name, mixing in mixings.items():
            values["splits"][name]["shuffle"] = None if mixing is None else mixing.to_dict()
        click.echo(json.dumps(values, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    print_bytes(console, result)
    for name, audited in result.splits.items():
        print_split(console, name, audited, opened.class_names)
        if name in measured:
            console.print(f"  {_quality_line(measured[name])}", markup=False)
        if name in mixings:
            print_mixing(console, mixings[name])
    if any(mixings.values()):
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
    compared = None
    if retokenize is not None:
        opened = open_store(store, storage_options=storage_options)
        compared = opened, *_against_source(opened, images, tokenizer, device)
    with progress_bar("MB", quiet=as_json) as bar:
        task = bar.add_task("verifying", total=None, note="")
        found = check_store(
            store,
            storage_options=storage_options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    again = None
    if compared is not None and retokenize is not None:
        again = _retokenized(found, *compared, retokenize)
    if as_json:
        values = {"ok": found.ok, **vars(found)}
        if retokenize is not None:
            values["retokenization"] = None if again is None else again.to_dict()
        click.echo(json.dumps(values, indent=2))
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


def _against_source(
    store: TokenStore, images: str | None, tokenizer: str | None, device: str
) -> tuple[Tokenizer, ImageSource]:
    """What a store is compared with, before hours go into reading it."""
    from tokenstore.audit.reconstruction import folder_of, source_of
    from tokenstore.tokenizers.store_tokenizer import tokenizer_of

    found = source_of(store.manifest, images, folder_of(store))
    return tokenizer_of(store.manifest, tokenizer, device), found


def _retokenized(
    found: Verification, store: TokenStore, tokenizer: Tokenizer, source: ImageSource, samples: int
) -> Retokenization | None:
    """What encoding again gives, entered into what was found; None where the store is damaged."""
    from tokenstore.audit.reconstruction import retokenize

    if not found.ok:
        found.notes.append("images were not encoded again: restore what is damaged first")
        return None
    again = retokenize(store, tokenizer, source, samples)
    (found.problems if again.must_agree else found.notes).extend(again.differences)
    return again


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


def _missing_images(chosen: Chosen) -> str:
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
