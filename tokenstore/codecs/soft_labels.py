"""Soft labels: the most probable classes of each sample, with their probabilities in 16 bits.

A sample is k pairs (class, q) of uint16, the most probable first: a class has the probability exp(-q / 2048).
What is left of 1 belongs to all other classes alike (FORMAT.md, section 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.zstd import Zstd
from tokenstore.errors import CodecError

__all__ = ["SoftLabels", "softmax"]

STEPS: Final = 2048
"""The steps of a probability's logarithm: a probability is right to a quarter of a thousandth."""
NO_CLASS: Final = 65535
"""The number q of a pair that stands for no class."""
_MOST_CLASSES = 2**16
_MOST_SUM = 1.01
"""The largest sum of a sample's probabilities, each of which is rounded."""


@dataclass(frozen=True)
class SoftLabels:
    """The form of soft labels over so many classes. Raises CodecError for other than 1 to 65,536 classes."""

    classes: int

    feature: ClassVar[str] = "soft_labels"
    data_type: ClassVar[None] = None

    def __post_init__(self) -> None:
        if type(self.classes) is not int or not 1 <= self.classes <= _MOST_CLASSES:
            raise CodecError(f"expected 1 to {_MOST_CLASSES} classes, found {self.classes!r:.80}")

    def __str__(self) -> str:
        return f"soft labels of {self.classes} classes"

    @property
    def codec(self) -> Zstd:
        """The codec of the pairs."""
        return Zstd()

    @property
    def attributes(self) -> dict[str, Any]:
        """The number of classes, as JSON values."""
        return {self.feature: {"classes": self.classes}}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SoftLabels:
        """Return the form that `attributes` described; raises CodecError for others."""
        match attributes:
            case {cls.feature: {"classes": int(classes)}}:
                return cls(classes)
        raise CodecError(f"expected the number of classes of soft labels, found {attributes!r:.200}")

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise CodecError unless an array of this dtype has samples (k, 2) of uint16."""
        if dtype != np.uint16 or len(shape) != 2 or shape[1] != 2 or not 1 <= shape[0] <= self.classes:
            raise CodecError(
                f"expected uint16 of (k, 2) for {self}, k up to {self.classes}, found {dtype} {shape}"
            )

    def problem(self, values: npt.NDArray[Any]) -> str | None:
        """Return what is wrong with stored pairs (n, k, 2); None for right ones."""
        q = values[..., 1]
        exists = q < NO_CLASS
        if (problem := self._unknown_class(values)) is not None:
            return problem
        if (q[:, 1:] < q[:, :-1]).any():
            return "expected the most probable classes of a sample first, found another order"
        numbered = np.where(exists, values[..., 0], self.classes + np.arange(values.shape[1]))
        if (np.diff(np.sort(numbered.astype(np.int64), axis=1), axis=1) == 0).any():
            return "expected each class of a sample once, found one twice"
        total = float(self._probabilities(q).sum(axis=1).max(initial=0.0))
        return f"expected probabilities of up to 1 in all, found {total:.3f}" if total > _MOST_SUM else None

    def quantised(self, probabilities: npt.NDArray[Any], top: int) -> npt.NDArray[np.uint16]:
        """Return the pairs (n, top, 2) of probabilities (n, classes), whose rows sum to 1."""
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        largest = np.take_along_axis(probabilities, best, axis=1).astype(np.float64)
        with np.errstate(divide="ignore"):
            q = np.minimum(np.rint(-STEPS * np.log(largest)), NO_CLASS)
        pairs: npt.NDArray[np.uint16] = np.stack([np.where(q < NO_CLASS, best, 0), q], axis=-1).astype(
            np.uint16
        )
        return pairs

    def values(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities (n, classes) float32 of stored pairs (n, k, 2); every row sums to 1.

        Raises CodecError for a class that is not there.
        """
        if (problem := self._unknown_class(stored)) is not None:
            raise CodecError(f"{self}: {problem}")
        count, top = stored.shape[:2]
        named = self._probabilities(stored[..., 1])
        others = self.classes - (named > 0).sum(axis=1)
        rest = np.maximum(0.0, 1.0 - named.sum(axis=1))
        dense = np.repeat((rest / np.maximum(1, others))[:, None], self.classes, axis=1)
        rows = np.repeat(np.arange(count), top).reshape(count, top)
        exists = named > 0
        dense[rows[exists], stored[..., 0][exists]] = named[exists]
        dense /= dense.sum(axis=1, keepdims=True)
        return dense.astype(np.float32)

    def _unknown_class(self, stored: npt.NDArray[Any]) -> str | None:
        classes = stored[..., 0][stored[..., 1] < NO_CLASS]
        largest = int(classes.max(initial=0))
        return (
            None
            if largest < self.classes
            else f"expected classes from 0 to {self.classes - 1}, found {largest}"
        )

    def _probabilities(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the probabilities of pairs; 0 for those of no class."""
        stored: npt.NDArray[np.float64] = np.where(q < NO_CLASS, np.exp(q.astype(np.float64) / -STEPS), 0.0)
        return stored


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the probabilities (n, classes) of finite logits (n, classes)."""
    shifted: npt.NDArray[np.float64] = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted
