"""The tables that `tokenstore stats` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tokenstore.audit.codes import CodebookUse
from tokenstore.audit.overview import bits_line
from tokenstore.audit.stats import SplitAudit, StorageAudit
from tokenstore.loading import Mixing
from tokenstore.texts import percent, printable

from ..console import counted, echo_facts, human_bytes
from ..terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenstore.audit.column_use import ColumnUse, Spread
    from tokenstore.audit.originals import ComparedSamples
    from tokenstore.audit.quality import SplitQuality

_FIGURE = (
    "figure, 0 to 1: how many distinct runs and classes a batch holds, as a share of what one of a full "
    "shuffle is expected to hold, whichever share is smaller; 1 is as good as a full shuffle"
)
"""The meaning of an order's figure."""

_BAR_WIDTH = 40
_CLASSES_SHOWN = 10
_CODEBOOKS_SHOWN = 8


def print_stats(result: StorageAudit) -> None:
    """Print an audit: the store's bytes, then each split's codes, classes and whatever else was asked for."""
    console = Terminal()
    _print_overview(console, result)
    for name, split in result.splits.items():
        _print_split(console, name, split, result.class_names)
        if split.further is not None:
            _print_columns(console, split.further)
        if split.quality is not None:
            console.print(f"  {_quality_line(split.quality)}")
        if "shuffle" in split.columns:
            _print_mixing(console, split.shuffle)
    if any(split.shuffle for split in result.splits.values()):
        console.print()
        console.print(_FIGURE)


def missing_images(compared: ComparedSamples) -> str:
    """Return the end of a line about samples whose images are missing, or nothing."""
    if not compared.missing:
        return ""
    return f"; {counted(compared.missing, 'image')} missing, the first: {compared.reason}"


def _quality_line(quality: SplitQuality) -> str:
    if quality.psnr is None or quality.ssim is None:
        return f"reconstructions: none compared{missing_images(quality)}"
    return (
        f"reconstructions: PSNR {quality.psnr:.2f} dB, SSIM {quality.ssim:.4f}, means of "
        f"{counted(quality.samples, 'sample')}{missing_images(quality)}"
    )


def _print_overview(console: Terminal, result: StorageAudit) -> None:
    """Print what the store is, and how its bytes compare: what the first screen of a report shows."""
    shown = result.overview
    console.print(shown.headline, style="bold")
    console.print()
    names, values = (max(map(len, texts)) for texts in list(zip(*shown.figures, strict=True))[:2])
    for name, value, remark in shown.figures:
        console.print(f"{name:<{names}}  {value:>{values}}  {remark}")
    console.print()
    echo_facts(shown.facts)
    if shown.sizes:
        console.print()
        _print_bars(console, [(bar.name, human_bytes(bar.value), bar.share) for bar in shown.sizes])
    console.print()
    _print_bars(
        console,
        [(part, f"{human_bytes(size):>7}  {percent(share):>7}", share) for part, size, share in shown.parts],
    )


def _print_bars(console: Terminal, bars: Sequence[tuple[str, str, float]]) -> None:
    """Print names, values and shares as bars, one below the other."""
    names, values = (max(map(len, texts)) for texts in list(zip(*bars, strict=True))[:2])
    for name, value, share in bars:
        console.print(f"{name:<{names}}  {value:>{values}}  {_bar(share)}".rstrip())


def _print_split(console: Terminal, name: str, split: SplitAudit, classes: tuple[str, ...] | None) -> None:
    """Print a split's codes and classes."""
    console.print()
    console.print(
        Text.assemble(
            (f"split {printable(name)}", "bold"),
            f": {counted(split.samples, 'sample')}, {split.skipped:,} skipped",
        )
    )
    console.print(f"  {split.bits_per_code:.3f} bits a code: {bits_line(split)}")
    if len(split.codebooks) > _CODEBOOKS_SHOWN:
        used = sum(use.used for use in split.codebooks)
        perplexity = sum(use.perplexity for use in split.codebooks) / len(split.codebooks)
        console.print(
            f"  {len(split.codebooks)} codebooks: {used:,} codes used in all, mean perplexity "
            f"{perplexity:,.1f}; --json has each"
        )
    printed = split.codebooks if len(split.codebooks) <= _CODEBOOKS_SHOWN else []
    for number, use in enumerate(printed):
        label = f" {number}" if len(split.codebooks) > 1 else ""
        _print_codebook(console, label, use)
    if split.class_counts is not None:
        _print_classes(console, split.class_counts, classes)


def _print_columns(console: Terminal, columns: Mapping[str, ColumnUse]) -> None:
    """Print the kind and the values of each further column."""
    if not columns:
        console.print("  further columns: none")
        return
    table = Table("column", "kind", "size", "empty", "distinct", "lengths", "values", box=None)
    for name, use in columns.items():
        distinct = "" if use.distinct is None else f"{use.distinct:,}"
        spreads = (_spread(use.lengths), _spread(use.values))
        table.add_row(
            printable(name), use.kind, human_bytes(use.nbytes), f"{use.empty:,}", distinct, *spreads
        )
    console.print(table)
    console.print("  lengths and values: the least, the mean and the greatest")


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.least:,.6g} / {spread.mean:,.6g} / {spread.greatest:,.6g}"


def _print_mixing(console: Terminal, mixing: Mixing | None) -> None:
    """Print how well each order mixes a split."""
    if mixing is None:
        console.print("  orders: not measured, as there is no second run of samples and no second class")
        return
    quality = next(iter(mixing.orders.values()))
    windows = {name: f"{name} (window {mixing.window:,} samples)" for name in ("block", "lanes")}
    width = len(windows["block"])
    console.print(
        f"  orders of an epoch, in batches of {quality.batch_size:,}, means of {quality.batches:,}; "
        f"{mixing.runs:,} runs of samples are each fetched as one"
    )
    console.print(f"    {'':<{width}}      runs  expected   classes  expected  figure")
    for order, quality in mixing.orders.items():
        counts = (quality.blocks, quality.blocks_expected, quality.classes, quality.classes_expected)
        shown = "".join(f"{'-' if count is None else f'{count:,.1f}':>10}" for count in counts)
        console.print(f"    {windows.get(order, order):<{width}}{shown}  {quality.figure:>6.2f}")


def _print_codebook(console: Terminal, label: str, use: CodebookUse) -> None:
    console.print(
        f"  codebook{label}: {use.used:,} of {use.size:,} codes used, {use.dead:,} dead, "
        f"perplexity {use.perplexity:,.1f} ({percent(use.perplexity / use.size)} of the codebook)"
    )
    console.print("  share of all codes by tenths of the codebook, most frequent first:")
    for tenth, share in enumerate(use.rank_histogram):
        console.print(f"    {tenth * 10:>3}-{tenth * 10 + 10:>3} %  {percent(share):>7}  {_bar(share)}")
    console.print("  most frequent: " + ", ".join(f"{code} ({count:,})" for code, count in use.top_codes[:5]))


def _print_classes(
    console: Terminal, counts: list[int] | dict[int, int], names: tuple[str, ...] | None
) -> None:
    by_label = dict(counts if isinstance(counts, dict) else enumerate(counts))
    least, most = min(by_label.values()), max(by_label.values())
    listed = f"{len(by_label):,}"
    if isinstance(counts, dict):
        listed = f"labels up to {max(counts):,}, but only {len(counts):,} distinct"
    samples = f"{counted(least, 'sample')} each" if least == most else f"{least:,} to {most:,} samples"
    console.print(f"  classes: {listed}, with {samples}")
    largest = sorted(by_label, key=lambda label: -by_label[label])[:_CLASSES_SHOWN]
    for label in largest:
        name = str(label) if names is None else names[label]
        console.print(f"    {name[:24]:<24} {by_label[label]:>9,}  {_bar(by_label[label] / max(1, most))}")
    if len(by_label) > len(largest):
        console.print(f"    ... and {len(by_label) - len(largest):,} more")


def _bar(share: float) -> str:
    return "█" * round(share * _BAR_WIDTH)
