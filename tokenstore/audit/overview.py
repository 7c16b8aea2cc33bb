"""The overview of a store: what it is, and how small it is beside others.

`tokenstore stats` and the report's first screen show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenstore.audit.facts import manifest_facts
from tokenstore.texts import counted, human_bytes, percent, printable

if TYPE_CHECKING:
    from tokenstore.audit.stats import SplitAudit, StorageAudit

__all__ = ["MILLION", "Bar", "Figure", "Overview", "bits_line", "overview"]

MILLION = 10**6
"""The samples that a store's bytes are projected to."""


class Figure(NamedTuple):
    """One of the figures that come first."""

    name: str
    value: str
    remark: str


class Bar(NamedTuple):
    """A value beside others of its kind."""

    name: str
    value: float
    share: float
    """The value's share of the largest one, or of the sum of parts: 0 to 1."""


@dataclass(frozen=True)
class Overview:
    """The first figures of a store: its size beside that of its images, its parts, and plain codes."""

    headline: str
    figures: list[Figure]
    facts: dict[str, str]
    """The statements of the manifest, by the name of each fact."""
    source_share: float | None
    """The store's bytes as a share of its images'; None if those are not known."""
    sizes: list[Bar]
    """The bytes of the source images and of the store; empty if those of the images are not known."""
    parts: list[Bar]
    """The bytes of each part of the store, with their shares of all."""
    bits: Mapping[str, list[Bar]]
    """The bits a code of each split with samples: as stored, by the order-0 entropy, at fixed width."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that are not those of the audit as they are, as JSON values."""
        shares = {name: {bar.name: bar.value for bar in bars} for name, bars in self.bits.items()}
        return {
            "headline": self.headline,
            "facts": self.facts,
            "source_share": self.source_share,
            "part_shares": {bar.name: bar.share for bar in self.parts},
            "bits_per_code": shares,
        }


def overview(audit: StorageAudit) -> Overview:
    """Return the overview of an audited store."""
    share = audit.nbytes / audit.source_nbytes if audit.source_nbytes else None
    return Overview(
        _headline(audit),
        _figures(audit, share),
        _facts(audit),
        share,
        _sizes(audit),
        [Bar(part, size, size / max(1, audit.nbytes)) for part, size in audit.nbytes_by_part.items()],
        {name: _bits(split) for name, split in audit.splits.items() if split.samples},
    )


def _headline(audit: StorageAudit) -> str:
    manifest = audit.manifest
    grid = " x ".join(map(str, manifest.grid))
    splits = ", ".join(f"{split.samples:,} in {name}" for name, split in audit.splits.items())
    names = audit.class_names
    classes = "" if names is None else f" of {counted(len(names), 'class', 'classes')}"
    views = "" if manifest.views is None else f", {counted(manifest.views.count, 'view')} of each"
    return printable(
        f"{counted(audit.samples, 'sample')}{classes} ({splits}): grids of {grid} codes by "
        f"{manifest.tokenizer.name}{views}"
    )


def _figures(audit: StorageAudit, share: float | None) -> list[Figure]:
    each = f"{audit.nbytes / max(1, audit.samples):,.0f} bytes a sample"
    figures = [Figure("size", human_bytes(audit.nbytes), each)]
    if share is not None:
        figures.append(
            Figure("of the images", percent(share, 2), f"which take {human_bytes(audit.source_nbytes or 0)}")
        )
    if audit.million_nbytes is not None:
        figures.append(Figure("1 million", human_bytes(audit.million_nbytes), _million(audit)))
    split = max(audit.splits.values(), key=lambda each: each.samples, default=None)
    if split is not None and split.samples:
        figures.append(Figure("bits a code", f"{split.bits_per_code:.2f}", bits_line(split)))
        used = sum(use.used for use in split.codebooks) / max(1, sum(use.size for use in split.codebooks))
        perplexity = sum(use.perplexity for use in split.codebooks) / len(split.codebooks)
        figures.append(Figure("codes used", percent(used, 0), f"perplexity {perplexity:,.0f}"))
    return figures


def _million(audit: StorageAudit) -> str:
    """Return how large the images of a million samples are, and the share that these samples take."""
    if not audit.source_nbytes or audit.million_nbytes is None:
        return "such samples, about"
    images = audit.source_nbytes / audit.samples * MILLION
    return (
        f"such samples, about; {percent(audit.million_nbytes / images, 2)} of {human_bytes(images)} of images"
    )


def bits_line(split: SplitAudit) -> str:
    """Return what a code takes as a share of its fixed width, and of its order-0 entropy."""
    width = split.fixed_width_bits
    line = f"{percent(split.bits_per_code / max(1, width))} of fixed width {width}"
    if split.entropy_bits:
        share = percent(split.bits_per_code / split.entropy_bits)
        line += f", {share} of order-0 entropy {split.entropy_bits:.2f}"
    return line


def _facts(audit: StorageAudit) -> dict[str, str]:
    manifest = audit.manifest
    facts = {"place": audit.location, **manifest_facts(manifest), "codec": audit.codec}
    if manifest.tokenizer.fingerprint:
        facts["fingerprint"] = manifest.tokenizer.fingerprint
    return {name: printable(value) for name, value in facts.items()}


def _sizes(audit: StorageAudit) -> list[Bar]:
    if not audit.source_nbytes:
        return []
    most = max(audit.source_nbytes, audit.nbytes)
    sizes = (("source images", audit.source_nbytes), ("this store", audit.nbytes))
    return [Bar(name, nbytes, nbytes / most) for name, nbytes in sizes]


def _bits(split: SplitAudit) -> list[Bar]:
    bits = (
        ("stored", split.bits_per_code),
        ("order-0 entropy", split.entropy_bits),
        ("fixed width", float(split.fixed_width_bits)),
    )
    most = max(value for _, value in bits) or 1.0
    return [Bar(name, value, value / most) for name, value in bits]
