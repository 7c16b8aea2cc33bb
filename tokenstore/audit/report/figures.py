"""The figures of one store's report: what the store says, what was counted, and what is shown as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.info import StoreInfo
from tokenstore.audit.quality import SplitQuality
from tokenstore.audit.report.observing import CodeCurve, PositionEntropy
from tokenstore.audit.report.pictures import Images, Picture
from tokenstore.audit.report.predictability import Predictability
from tokenstore.audit.report.tables import ColumnRange, DuplicateFigures, SkippedSamples
from tokenstore.audit.stats import StorageAudit
from tokenstore.audit.verify import Verification

_BINS = 30


@dataclass(frozen=True)
class QualityFigures:
    """The quality of some reconstructions, as `tokenstore.stats` measures it, and how it spreads."""

    splits: Mapping[str, SplitQuality]
    psnr: Mapping[str, list[float]]
    """The PSNR in dB of each sample that was compared, by split."""

    def histogram(self, split: str) -> tuple[list[int], list[float]]:
        """Return the numbers of a split's samples by PSNR, and the edges of the bins, one more."""
        counts, edges = np.histogram(self.psnr.get(split, []), _BINS)
        return counts.tolist(), edges.tolist()


@dataclass(frozen=True)
class SplitFigures:
    """The figures of one split beside those of its audit."""

    curves: list[CodeCurve]
    """The use of each codebook."""
    entropy: PositionEntropy | None
    """The entropy of each position; None for grids that are no plain picture."""
    columns: list[ColumnRange]
    skipped: SkippedSamples

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "curves": [curve.to_dict() for curve in self.curves],
            "position_entropy": None if self.entropy is None else self.entropy.to_dict(),
            "columns": [column.to_dict() for column in self.columns],
            "skipped": self.skipped.to_dict(),
        }


@dataclass(frozen=True)
class StorePictures:
    """The pictures of a report; all are empty if the codes cannot be decoded."""

    sheet: list[Picture] = field(default_factory=list)
    worst: list[Picture] = field(default_factory=list)
    """The samples with the lowest PSNR of those that were compared."""
    fewest_bits: list[Picture] = field(default_factory=list)
    most_bits: list[Picture] = field(default_factory=list)
    duplicates: list[tuple[Picture, Picture]] = field(default_factory=list)
    patches: list[tuple[int, float, Images]] = field(default_factory=list)
    """The most used codes, with their share of all codes and the patch that each stands for."""
    augmented: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """The images (n, H, W, 3) that augmentation makes of some samples, by its name."""

    def to_dict(self) -> dict[str, Any]:
        """Return which samples are shown, as JSON values."""
        shown = ("sheet", "worst", "fewest_bits", "most_bits")
        return {name: [picture.to_dict() for picture in getattr(self, name)] for name in shown}


@dataclass(frozen=True)
class StoreFigures:
    """All figures of one store's report.

    What cannot be had, such as pictures of a store of an unknown tokenizer, is missing with its reason in
    `reasons`, by the name of the field.
    """

    info: StoreInfo
    stats: StorageAudit
    """The audit, exactly that of `tokenstore.stats`, unless `stats.splits[...].counted_samples` are fewer."""
    splits: Mapping[str, SplitFigures]
    pictures: StorePictures
    quality: QualityFigures | None = None
    predictability: Mapping[str, Predictability] | None = None
    duplicates: DuplicateFigures | None = None
    verification: Verification | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    """The damage that was met, up to 50 findings; figures are of what could be read."""
    is_spaced: bool = False
    """True if the store has so many codes that those of evenly spaced chunks were to be counted."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The damage that was met, and what a verification found."""
        found = () if self.verification is None else map(str, self.verification.problems)
        return tuple(dict.fromkeys((*self.damage, *found)))

    @property
    def is_sampled(self) -> bool:
        """True if not all codes were counted."""
        return any(split.counted_samples < split.samples for split in self.stats.splits.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values; `manifest` is without the list of files."""
        manifest = self.info.manifest.to_dict()
        del manifest["files"]
        arrays = {name: array.to_dict() for name, array in self.info.arrays.items()}
        quality, bits = self.quality, self.predictability
        return {
            "location": self.info.location,
            "manifest": manifest,
            "arrays": arrays,
            "stats": self.stats.to_dict(),
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "quality": None
            if quality is None
            else {name: dict(vars(split)) for name, split in quality.splits.items()},
            "predictability": None
            if bits is None
            else {name: split.to_dict() for name, split in bits.items()},
            "duplicates": None if self.duplicates is None else self.duplicates.to_dict(),
            "verify": None if self.verification is None else self.verification.to_dict(),
            "shown": self.pictures.to_dict(),
            "missing": dict(self.reasons),
            "damage": list(self.damage),
        }
