"""What a source of samples is: splits in a fixed order, of images or of ready codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import SampleError

Labels: TypeAlias = npt.NDArray[np.int32]


class ImageRequest(Protocol):
    """A small picklable order for the encoded bytes of some neighbouring samples."""

    def read(self) -> Sequence[bytes | SampleError]:
        """The samples' encoded images in order; a sample that cannot be read is its error."""


class Split(Protocol):
    """The samples of one split in a fixed order, as arrays and never as one object a sample."""

    def __len__(self) -> int: ...

    def names(self, start: int, stop: int) -> pa.Array:
        """Printable source names of samples [start, stop): a `pa.string()` array."""

    def labels(self, start: int, stop: int) -> Labels | None:
        """Labels (stop - start,) int32, or None where the split has none."""

    def fingerprint(self) -> str:
        """A hex digest that changes when the listed samples or their labels change."""


class ImageSplit(Split, Protocol):
    """A split whose samples are encoded images."""

    def request(self, start: int, stop: int) -> ImageRequest:
        """How a decoding process reads samples [start, stop)."""


class MaskRequest(ImageRequest, Protocol):
    """A small picklable order for the label maps, as PNG files, of some neighbouring samples."""

    def where(self, position: int) -> str:
        """The printable path of one of them."""


@runtime_checkable
class MaskedSplit(ImageSplit, Protocol):
    """A split whose samples are encoded images, each with a label map."""

    def masks(self, start: int, stop: int) -> MaskRequest:
        """How a decoding process reads the label maps of samples [start, stop)."""


class CodeSplit(Split, Protocol):
    """A split whose samples are already codes."""

    @property
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Further aligned columns: name -> (dtype, shape of one sample)."""

    def codes(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Codes (stop - start, *grid), an unsigned integer dtype."""

    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Values (stop - start, *shape) of an aligned column."""


@dataclass(frozen=True)
class ImageSource:
    """A source of images, to be run through a tokenizer."""

    kind: str
    location: str
    splits: Mapping[str, ImageSplit]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """What the user should know about the listing: files passed over, class names alike."""


@dataclass(frozen=True)
class CodeSource:
    """A source of codes, to be stored as they are."""

    kind: str
    location: str
    splits: Mapping[str, CodeSplit]
    grid: tuple[int, ...]
    codebook_sizes: tuple[int, ...] | None = None
    """Entries of each codebook where the source says so; None to take the largest code + 1."""
    codebook_path: Path | None = None
    """A file holding the codebook's vectors, where the source has one."""
    codebook: npt.NDArray[np.float32] | None = None
    """The codebook's vectors (K, D) or (n, K, D) where the source holds them as an array."""
    synonyms: npt.NDArray[np.int32] | None = None
    """Nearest codes of each code, best first (K, M), filled up with -1."""
    class_names: tuple[str, ...] | None = None
    tokenizer_name: str = "unknown"
    notes: tuple[str, ...] = field(default=())


Source: TypeAlias = ImageSource | CodeSource
