"""The figures of stores as the template names them: texts, bars, tables and charts, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenstore.audit.report import store_charts as charts
from tokenstore.audit.report.figures import StoreFigures
from tokenstore.audit.report.page import percent
from tokenstore.audit.stats import MILLION
from tokenstore.texts import human_bytes, printable

CLASSES_LISTED = 1000
"""The most classes that a table lists."""


def store_views(stores: Sequence[StoreFigures]) -> list[dict[str, Any]]:
    """Return what the template shows of each store; raises ArgumentError without matplotlib."""
    return [
        _view(store, letter if len(stores) > 1 else "") for store, letter in zip(stores, "AB", strict=False)
    ]


def _view(store: StoreFigures, letter: str) -> dict[str, Any]:
    return {
        "letter": letter,
        "name": printable(store.info.location.rstrip("/").rsplit("/", 1)[-1]),
        "headline": _headline(store),
        "tiles": _tiles(store),
        "facts": _facts(store),
        "sizes": _sizes(store),
        "parts": [
            (part, nbytes, nbytes / max(1, store.stats.nbytes))
            for part, nbytes in store.stats.nbytes_by_part.items()
        ],
        "rates": _rates(store),
        "shown": store.pictures,
        "has_originals": any(each.original is not None for each in store.pictures.sheet),
        "quality": _quality(store),
        "bits": _bits(store),
        "codebook": _codebook(store),
        "entropy": charts.entropy_maps(store),
        "labels": _labels(store),
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
    }


def _headline(store: StoreFigures) -> str:
    manifest, audit = store.info.manifest, store.stats
    grid = " × ".join(map(str, manifest.grid))
    splits = ", ".join(f"{split.samples:,} in {name}" for name, split in audit.splits.items())
    of_classes = (
        "" if audit.class_names is None else f" of {_counted(len(audit.class_names), 'class', 'classes')}"
    )
    samples = f"{_counted(audit.samples, 'sample')}{of_classes}"
    views = "" if manifest.views is None else f", {manifest.views.count} views of each"
    return f"{samples} ({splits}): grids of {grid} codes by {printable(manifest.tokenizer.name)}{views}"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _tiles(store: StoreFigures) -> list[tuple[str, str, str]]:
    """Return the names, values and remarks of the figures that come first."""
    audit = store.stats
    tiles = [
        ("size", human_bytes(audit.nbytes), f"{audit.nbytes / max(1, audit.samples):,.0f} bytes a sample")
    ]
    if audit.source_nbytes:
        share = percent(audit.nbytes / audit.source_nbytes, 2)
        tiles.append(("of the images", share, f"which take {human_bytes(audit.source_nbytes)}"))
    split = max(audit.splits.values(), key=lambda each: each.samples, default=None)
    if split is not None and split.samples:
        saved = f"fixed width takes {split.fixed_width_bits}, order-0 entropy is {split.entropy_bits:.2f}"
        tiles.append(("bits a code", f"{split.bits_per_code:.2f}", saved))
        used = sum(use.used for use in split.codebooks) / max(1, sum(use.size for use in split.codebooks))
        perplexity = sum(use.perplexity for use in split.codebooks) / len(split.codebooks)
        tiles.append(("codes used", percent(used, 0), f"perplexity {perplexity:,.0f}"))
    measured = [
        each for each in ([] if store.quality is None else store.quality.splits.values()) if each.psnr
    ]
    if measured:
        best = max(measured, key=lambda each: each.samples)
        tiles.append(("PSNR", f"{best.psnr:.1f} dB", f"SSIM {best.ssim:.3f}, mean of {best.samples:,}"))
    if store.duplicates is not None:
        again = sum(count for _, _, count in store.duplicates.exact)
        between = sum(count for one, two, count in store.duplicates.exact if one != two)
        tiles.append(("duplicates", f"{again:,}", f"by codes, {between:,} of them between splits"))
    return tiles


def _facts(store: StoreFigures) -> list[tuple[str, str]]:
    manifest = store.info.manifest
    identity = manifest.tokenizer
    facts = [
        ("place", store.info.location),
        ("tokenizer", identity.name + (f", named {identity.spec}" if identity.spec else "")),
        ("fingerprint", identity.fingerprint or "none: the tokenizer is unknown"),
        ("codec", store.stats.codec),
        ("grid", " × ".join(map(str, manifest.grid))),
        ("codebook", " + ".join(f"{size:,}" for size in manifest.codebook_sizes) + " codes"),
        ("made from", f"{manifest.source_kind or 'unknown'}"),
    ]
    if manifest.source_location is not None:
        facts.append(("source", manifest.source_location))
    if manifest.preprocessing is not None:
        steps = manifest.preprocessing
        facts.append(("images", f"{steps.width} × {steps.height} pixels, {steps.resize}, {steps.filter}"))
    facts.append(("written by", f"{manifest.created_by}, format version {manifest.format_version}"))
    if manifest.history:
        facts.append(("history", ", then ".join(done.operation for done in manifest.history[-8:])))
    if store.stats.million_nbytes is not None:
        facts.append((f"{MILLION:,} samples", f"about {human_bytes(store.stats.million_nbytes)}"))
    return [(name, printable(value)) for name, value in facts]


def _sizes(store: StoreFigures) -> list[tuple[str, int, float]]:
    """Return the names of the store and of its images, their bytes, and their share of the larger."""
    audit = store.stats
    if not audit.source_nbytes:
        return []
    most = max(audit.source_nbytes, audit.nbytes)
    return [
        ("source images", audit.source_nbytes, audit.source_nbytes / most),
        ("this store", audit.nbytes, audit.nbytes / most),
    ]


def _rates(store: StoreFigures) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Return each split's bits a code as stored, by order 0 and at a fixed width, and their shares."""
    rates = []
    for name, split in store.stats.splits.items():
        if split.samples:
            fixed = float(split.fixed_width_bits)
            bits = (
                ("stored", split.bits_per_code),
                ("order-0 entropy", split.entropy_bits),
                ("fixed width", fixed),
            )
            most = max(value for _, value in bits) or 1.0
            rates.append((name, [(what, value, value / most) for what, value in bits]))
    return rates


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
    return f"Codes were counted in a part of the samples, chunks evenly spaced over each split: {counted}."
