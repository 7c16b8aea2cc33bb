"""The charts of a store's report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tokenstore.audit.report.charts import Chart, Line, heat_map, histogram, line_chart, spread
from tokenstore.audit.report.figures import StoreFigures

_MOST_CURVES = 8


def use_chart(store: StoreFigures) -> Chart | None:
    """Draw how often codes are used, by rank, on a log scale; None without codes."""
    lines: list[Line] = []
    for name, split in store.splits.items():
        for number, curve in enumerate(split.curves):
            if curve.ranks and len(lines) < _MOST_CURVES:
                book = f", codebook {number}" if len(split.curves) > 1 else ""
                lines.append(Line(curve.ranks, curve.shares, f"{name}{book}"))
    if not lines:
        return None
    first, middle = lines[0], len(lines[0].x) // 2
    text = (
        f"Use of codes by rank. In {first.name} the most used code has {100 * first.y[0]:.2g} % of all "
        f"codes, that of rank {first.x[middle]:,} has {100 * first.y[middle]:.2g} %, and the last of "
        f"{first.x[-1]:,} has {100 * first.y[-1]:.2g} %."
    )
    return line_chart(lines, text, x="rank of the code", y="share of all codes", log="xy")


def entropy_maps(store: StoreFigures) -> list[tuple[str, int, Chart]]:
    """Draw the entropy of each position of each split's grids, with the samples it was measured on."""
    drawn = []
    for name, split in store.splits.items():
        if split.entropy is not None and split.entropy.samples > 1:
            bits = split.entropy.bits
            row, column = np.unravel_index(int(bits.argmax()), bits.shape)
            text = (
                f"Entropy of each grid position in {name}: from {bits.min():.2f} to {bits.max():.2f} bits, "
                f"the most in row {row}, column {column}."
            )
            drawn.append((name, split.entropy.samples, heat_map(bits, text, bar="bits")))
    return drawn


def quality_chart(store: StoreFigures) -> Chart | None:
    """Draw the PSNR of the samples that were compared; None if they are few."""
    values = (
        [] if store.quality is None else [each for split in store.quality.psnr.values() for each in split]
    )
    if len(values) < 8:
        return None
    counts, edges = np.histogram(values, min(30, len(values) // 2))
    text = f"PSNR of {len(values):,} reconstructions: from {min(values):.1f} to {max(values):.1f} dB."
    return histogram(counts.tolist(), edges.tolist(), text, x="PSNR, dB")


def bits_chart(store: StoreFigures) -> Chart | None:
    """Draw how many bits a code samples take; None if they are few."""
    lines = []
    for name, split in (store.predictability or {}).items():
        counts, edges = split.histogram()
        if sum(counts) > 8:
            middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
            lines.append(Line(middles, [count / sum(counts) for count in counts], name))
    if not lines:
        return None
    means = ", ".join(
        f"{split.bits_per_code:.2f} in {name}" for name, split in (store.predictability or {}).items()
    )
    text = f"Bits a code of each sample; the mean is {means}."
    return line_chart(lines, text, x="bits a code", y="share of samples", percent=True)


def balance_chart(counts: Mapping[str, Sequence[int]]) -> Chart | None:
    """Draw the samples of classes, the largest class first; None if all have as many."""
    lines = []
    for name, each in counts.items():
        ordered = np.sort(np.asarray(each, np.int64))[::-1]
        if len(ordered) > 1 and ordered[0] != ordered[-1]:
            places, values = spread(ordered)
            lines.append(Line(places, values, name))
    if not lines:
        return None
    ranges = ", ".join(f"{min(each):,} to {max(each):,} in {name}" for name, each in counts.items())
    return line_chart(
        lines, f"Samples of each class, the largest first: {ranges}.", x="classes by size", y="samples"
    )
