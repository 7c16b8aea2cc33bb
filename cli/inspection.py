"""`tokenstore info`, `tokenstore stats` and `tokenstore verify`."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tokenstore.reader import open_store
from tokenstore.stats import (
    IMAGENET_NBYTES,
    IMAGENET_SAMPLES,
    CodebookUse,
    SplitAudit,
    StorageAudit,
    audit,
    store_summary,
)
from tokenstore.verify import verify as check_store

from .console import human_bytes, progress_bar, storage_options
from .main import EXIT_CODES

_BAR_WIDTH = 40
_CLASSES_SHOWN = 10


@click.command(epilog=EXIT_CODES)
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the manifest and each array's layout.")
@storage_options
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
        "tokenizer": str(manifest.tokenizer),
        "grid": " x ".join(map(str, manifest.grid)),
        "codebook": " + ".join(f"{size:,}" for size in manifest.codebook_sizes) + " codes",
    }
    if manifest.preprocessing is not None:
        steps = manifest.preprocessing
        lines["images"] = f"{steps.width} x {steps.height}, {steps.resize}, {steps.filter}"
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
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print the audit as JSON.")
@storage_options
def stats(store: str, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Audit STORE: where its bytes go and how its codes are used.

    Every code is read and counted.

    \b
    Examples:
      tokenstore stats photos.zarr
      tokenstore stats photos.zarr --json > audit.json
    """
    opened = open_store(store, storage_options=storage_options)
    with progress_bar("samples", quiet=as_json) as bar:
        task = bar.add_task("counting", total=None, note="")
        result = audit(opened, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    _print_bytes(console, result)
    for name, split in result.splits.items():
        _print_split(console, name, split, opened.class_names)


@click.command(epilog=EXIT_CODES)
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@storage_options
def verify(store: str, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Check every digest, checksum, code and label of STORE.

    Exits with 1 and names the file and chunk where anything is not as it was written.

    \b
    Examples:
      tokenstore verify photos.zarr
      tokenstore verify s3://bucket/photos.zarr
    """
    with progress_bar("MB", quiet=as_json) as bar:
        task = bar.add_task("verifying", total=None, note="")
        found = check_store(
            store,
            storage_options=storage_options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        click.echo(json.dumps({"ok": found.ok, **vars(found)}, indent=2))
    else:
        for note in found.notes:
            click.echo(f"note: {note}")
        for problem in found.problems:
            click.echo(f"damage: {problem}")
        verdict = "ok" if found.ok else f"damaged, {len(found.problems)} findings"
        checked = f"{found.files:,} files, {human_bytes(found.nbytes)}, {found.chunks:,} chunks"
        click.echo(f"{store}: {verdict}; checked {checked}, {found.samples:,} samples")
    if not found.ok:
        raise click.exceptions.Exit(1)


def _print_bytes(console: Console, result: StorageAudit) -> None:
    console.print(
        f"{result.location}: {result.samples:,} samples, codec {result.codec}", style="bold", markup=False
    )
    table = Table("part", "size", "share", "", box=None, header_style="dim")
    for part, nbytes in result.nbytes_by_part.items():
        share = nbytes / max(1, result.nbytes)
        table.add_row(part, human_bytes(nbytes), f"{share:.1%}", _bar(share))
    table.add_row(
        "store",
        human_bytes(result.nbytes),
        "",
        f"{result.nbytes / max(1, result.samples):,.0f} bytes a sample",
    )
    console.print(table)
    if result.source_nbytes:
        console.print(
            f"source images {human_bytes(result.source_nbytes)}: the store is "
            f"{result.nbytes / result.source_nbytes:.2%} of them"
        )
    console.print(
        f"at ImageNet-1k's {IMAGENET_SAMPLES:,} samples: {human_bytes(result.imagenet_nbytes)}, "
        f"{result.imagenet_nbytes / IMAGENET_NBYTES:.2%} of its {human_bytes(IMAGENET_NBYTES)} of images"
    )


def _print_split(console: Console, name: str, split: SplitAudit, classes: tuple[str, ...] | None) -> None:
    console.print(f"\n[bold]split {name}[/bold]: {split.samples:,} samples, {split.skipped:,} skipped")
    console.print(
        f"  {split.bits_per_code:.3f} bits a code; fixed width {split.fixed_width_bits}, "
        f"order-0 entropy {split.entropy_bits:.3f}"
    )
    for number, use in enumerate(split.codebooks):
        label = f" {number}" if len(split.codebooks) > 1 else ""
        _print_codebook(console, label, use)
    if split.class_counts is not None:
        _print_classes(console, split.class_counts, classes)


def _print_codebook(console: Console, label: str, use: CodebookUse) -> None:
    console.print(
        f"  codebook{label}: {use.used:,} of {use.size:,} codes used, {use.dead:,} dead, "
        f"perplexity {use.perplexity:,.1f} ({use.perplexity / use.size:.1%} of the codebook)"
    )
    console.print("  share of all codes by tenths of the codebook, most frequent first:")
    for tenth, share in enumerate(use.rank_histogram):
        console.print(f"    {tenth * 10:>3}-{tenth * 10 + 10:>3} %  {share:6.1%}  {_bar(share)}")
    console.print("  most frequent: " + ", ".join(f"{code} ({count:,})" for code, count in use.top_codes[:5]))


def _print_classes(console: Console, counts: list[int], names: tuple[str, ...] | None) -> None:
    console.print(f"  classes: {len(counts):,}, with {min(counts):,} to {max(counts):,} samples")
    largest = sorted(range(len(counts)), key=lambda label: -counts[label])[:_CLASSES_SHOWN]
    for label in largest:
        name = str(label) if names is None else names[label]
        console.print(
            f"    {name[:24]:<24} {counts[label]:>9,}  {_bar(counts[label] / max(1, max(counts)))}",
            markup=False,
        )
    if len(counts) > len(largest):
        console.print(f"    ... and {len(counts) - len(largest):,} more")


def _bar(share: float) -> str:
    return "█" * round(share * _BAR_WIDTH)
