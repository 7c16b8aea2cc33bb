"""The figures of stores as the template names them: texts, bars, tables and charts, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenstore.audit.overview import Figure
from tokenstore.audit.report import store_charts as charts
from tokenstore.audit.report.figures import StoreFigures
from tokenstore.format import LABELS, ROOT
from tokenstore.texts import printable

CLASSES_LISTED = 1000
"""The most classes that a table lists."""


def store_views(stores: Sequence[StoreFigures]) -> list[dict[str, Any]]:
    """Return what the template shows of each store; raises ArgumentError without matplotlib."""
    return [
        _view(store, letter if len(stores) > 1 else "") for store, letter in zip(stores, "AB", strict=False)
    ]


def _view(store: StoreFigures, letter: str) -> dict[str, Any]:
    files = store.info.manifest.files
    return {
        "letter": letter,
        "name": printable(store.info.location.rstrip("/").rsplit("/", 1)[-1]),
        "overview": store.stats.overview,
        "tiles": _tiles(store),
        "shown": store.pictures,
        "has_originals": any(each.original is not None for each in store.pictures.sheet),
        "quality": _quality(store),
        "bits": _bits(store),
        "codebook": _codebook(store),
        "entropy": charts.entropy_maps(store),
        "labels": _labels(store),
        "unread_labels": [
            name
            for name, split in store.stats.splits.items()
            if split.class_counts is None and split.samples and f"{name}/{LABELS}/{ROOT}" in files
        ],
        "unread_splits": [name for name in store.info.manifest.splits if name not in store.splits],
        "columns": [(name, column) for name, split in store.splits.items() for column in split.columns],
        "skipped": [
            (name, *reason) for name, split in store.splits.items() for reason in split.skipped.reasons
        ],
        "skipped_samples": sum(split.skipped.samples for split in store.splits.values()),
        "duplicates": store.duplicates,
        "orders": _orders(store),
        "verification": store.verification,
        "sampled": _sampled(store),
        "reasons": store.reasons,
        "damage": store.damage,
    }


def _tiles(store: StoreFigures) -> list[Figure]:
    """Return the first figures of the overview, and those that only a report has."""
    tiles = list(store.stats.overview.figures)
    measured = [
        each for each in ([] if store.quality is None else store.quality.splits.values()) if each.psnr
    ]
    if measured:
        best = max(measured, key=lambda each: each.samples)
        tiles.append(Figure("PSNR", f"{best.psnr:.1f} dB", f"SSIM {best.ssim:.3f}, mean of {best.samples:,}"))
    if store.duplicates is not None:
        again = sum(count for _, _, count in store.duplicates.exact)
        between = sum(count for one, two, count in store.duplicates.exact if one != two)
        tiles.append(Figure("duplicates", f"{again:,}", f"by codes, {between:,} of them between splits"))
    return tiles


def _quality(store: StoreFigures) -> dict[str, Any] | None:
    if store.quality is None:
        return None
    return {"splits": store.quality.splits, "chart": charts.quality_chart(store)}


def _bits(store: StoreFigures) -> dict[str, Any] | None:
    if store.predictability is None:
        return None
    return {"splits": store.predictability, "chart": charts.bits_chart(store)}


def _codebook(store: StoreFigures) -> dict[str, Any]:
    rows = []
    for name, split in store.stats.splits.items():
        for number, use in enumerate(split.codebooks[:32]):
            rows.append((name, number, use))
    return {
        "rows": rows if any(split.samples for split in store.stats.splits.values()) else [],
        "several": len(store.info.manifest.codebook_sizes) > 1,
        "chart": charts.use_chart(store),
    }


def _labels(store: StoreFigures) -> dict[str, Any] | None:
    """Return the balance of classes: a chart, a row for each class, and classes without samples."""
    splits = store.stats.splits
    counts = {
        name: dict(
            split.class_counts if isinstance(split.class_counts, dict) else enumerate(split.class_counts)
        )
        for name, split in splits.items()
        if split.class_counts is not None
    }
    if not counts:
        return None
    names = store.stats.class_names
    labels = sorted(set().union(*counts.values()) | set(range(0 if names is None else len(names))))
    rows = [
        (
            label,
            str(label) if names is None or label >= len(names) else printable(names[label]),
            [each.get(label, 0) for each in counts.values()],
        )
        for label in labels
    ]
    empty = {name: sum(1 for label in labels if not each.get(label, 0)) for name, each in counts.items()}
    return {
        "splits": list(counts),
        "rows": rows[:CLASSES_LISTED],
        "classes": len(rows),
        "empty": empty,
        "ranges": {name: _range(each.get(label, 0) for label in labels) for name, each in counts.items()},
        "chart": charts.balance_chart(
            {name: [each.get(label, 0) for label in labels] for name, each in counts.items()}
        ),
    }


def _range(counts: Iterable[int]) -> tuple[int, int]:
    listed = list(counts)
    return min(listed), max(listed)


def _orders(store: StoreFigures) -> list[tuple[str, str, Any]]:
    """Return the split, the order and the quality of each order that was measured."""
    return [
        (name, order, quality)
        for name, split in store.stats.splits.items()
        if split.shuffle is not None
        for order, quality in split.shuffle.orders.items()
    ]


def _sampled(store: StoreFigures) -> str:
    if not store.is_sampled:
        return ""
    counted = ", ".join(
        f"{split.counted_samples:,} of {split.samples:,} in {name}"
        for name, split in store.stats.splits.items()
    )
    which = {
        (True, False): "chunks evenly spaced over each split",
        (True, True): "those of chunks evenly spaced over each split that can be read",
        (False, True): "chunks that can be read",
    }[store.is_spaced, bool(store.damage)]
    return f"Codes were counted in a part of the samples, {which}: {counted}."
