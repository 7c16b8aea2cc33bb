"""The protocols of sources: splits in a fixed order, of images or of ready codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.codecs import Column, Views
from tokenstore.errors import Parameter, SampleError

Labels: TypeAlias = npt.NDArray[np.int32]

UNKNOWN_TOKENIZER = "unknown"
"""The name of the tokenizer of ready codes whose source does not name it."""

_COUNTED_LABELS = 2**22
"""The labels that are counted at a time."""


class Note(str):
    """A remark for the user; `parameters` are the parameters of a call that its text names."""

    parameters: tuple[Parameter, ...]

    def __new__(cls, text: str, parameters: Iterable[Parameter] = ()) -> Self:
        """Return the text with the parameters that it names."""
        note = super().__new__(cls, text)
        note.parameters = tuple(parameters)
        return note


class ImageRequest(Protocol):
    """A small picklable request for the encoded bytes of some neighbouring samples."""

    def read(self) -> Sequence[bytes | SampleError]:
        """Return the samples' encoded images in order, and a SampleError for each that cannot be read."""


@runtime_checkable
class PlacedRequest(ImageRequest, Protocol):
    """A request that says how far away its bytes are; any other one's are near."""

    @property
    def is_remote(self) -> bool:
        """True if the bytes come over a network: they are fetched before they are needed."""

    @property
    def is_shared(self) -> bool:
        """True if the bytes are best fetched together with those of the neighbouring requests.

        The process that hands out the tasks of several decode processes fetches them, once for all.
        """


@runtime_checkable
class JoinableRequest(PlacedRequest, Protocol):
    """A request that can be read together with those of the samples behind it, which takes less time."""

    @property
    def nbytes(self) -> int:
        """The bytes of its samples."""

    def joined(self, following: Sequence[Self]) -> Self:
        """Return the request for the samples of this one and, in order, of those `following` it."""


@dataclass(frozen=True)
class FetchedRequest(ImageRequest):
    """A request whose samples were read already."""

    images: Sequence[bytes | SampleError]

    @cached_property
    def nbytes(self) -> int:
        """The bytes of the samples, which are in memory."""
        return sum(len(image) for image in self.images if isinstance(image, bytes))

    def read(self) -> Sequence[bytes | SampleError]:
        """Return the samples."""
        return self.images


class Split(Protocol):
    """The samples of one split in a fixed order, as arrays and never as one object a sample."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def names(self, start: int, stop: int) -> pa.Array:
        """Return printable source names of samples [start, stop), a `pa.string()` array."""

    def labels(self, start: int, stop: int) -> Labels | None:
        """Return labels (stop - start,) int32, or None for a split without labels."""

    def fingerprint(self) -> str:
        """Return a hex digest that changes when the listed samples or their labels change."""


class ImageSplit(Split, Protocol):
    """A split whose samples are encoded images."""

    def request(self, start: int, stop: int) -> ImageRequest:
        """Return the request by which a decoding process reads samples [start, stop)."""


@runtime_checkable
class GroupedSplit(ImageSplit, Protocol):
    """A split of groups of neighbouring samples, such as row groups, that are read from their start on."""

    def group_starts(self) -> npt.NDArray[np.int64]:
        """Return the first sample of each group, and at the end the number of samples."""


class MaskRequest(ImageRequest, Protocol):
    """A small picklable request for the label maps, as PNG files, of some neighbouring samples."""

    def where(self, position: int) -> str:
        """Return the printable path of one of the label maps."""


@runtime_checkable
class MaskedSplit(ImageSplit, Protocol):
    """A split whose samples are encoded images, each with a label map."""

    def masks(self, start: int, stop: int) -> MaskRequest:
        """Return the request by which a decoding process reads the label maps of samples [start, stop)."""


class CodeSplit(Split, Protocol):
    """A split whose samples are already codes."""

    @property
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """The further aligned columns: name -> (dtype, shape of one sample)."""

    def codes(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Return codes (stop - start, *grid), of V views (stop - start, V, *grid), of an unsigned dtype."""

    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Return values (stop - start, *shape) of an aligned column; raise KeyError for an unknown name."""


class SourceColumn(Protocol):
    """A column of values beside the samples of one split, which are neither labels nor label maps."""

    @property
    def column(self) -> Column:
        """The dtype, the shape and the form of the column's values."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values (stop - start, *shape) of samples [start, stop).

        Raises SourceError for values that cannot be read, and StorageError where storage does not answer.
        """

    def fingerprint(self) -> str:
        """Return a text that changes when values do, as far as they are known before they are read."""


Further: TypeAlias = Mapping[str, Mapping[str, SourceColumn]]
"""The further columns of a source: for each split that has some, its columns by their names in a store."""


@dataclass(frozen=True)
class ImageSource:
    """A source of images, to be run through a tokenizer."""

    kind: str
    location: str
    splits: Mapping[str, ImageSplit]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """Remarks on the listing for the user: files that were skipped, class names that are alike."""
    unused_labels: tuple[str, ...] = ()
    """Further notes: what looks like labels and is not used, each with how to use it."""
    further: Further = field(default_factory=dict)
    """The further columns of each split."""

    @property
    def images(self) -> ImageSource | None:
        """The source itself, which is one of images."""
        return self


@dataclass(frozen=True)
class CodeSource:
    """A source of codes, to be stored as they are."""

    kind: str
    location: str
    splits: Mapping[str, CodeSplit]
    grid: tuple[int, ...]
    """The shape of a sample's codes, or of each of its views."""
    codebook_sizes: tuple[int, ...] | None = None
    """The size of each codebook, where the source says it; None means that of its vectors, or the largest
    code + 1."""
    codebook_path: Path | None = None
    """The file that holds the codebook's vectors, where the source has one."""
    codebook: npt.NDArray[np.float32] | None = None
    """The codebook's vectors (K, D) or (n, K, D), where the source holds them as an array."""
    synonyms: npt.NDArray[np.int32] | None = None
    """The nearest codes of each code (K, M), best first, padded with -1."""
    class_names: tuple[str, ...] | None = None
    tokenizer_name: str = UNKNOWN_TOKENIZER
    notes: tuple[str, ...] = field(default=())
    unused_labels: tuple[str, ...] = ()
    """Further notes: what looks like labels and is not used, each with how to use it."""
    further: Further = field(default_factory=dict)
    """The further columns of each split, besides those of the split itself."""
    views: Views | None = None
    """The views of every sample, if samples have several; their boxes may be the column `view_boxes`."""

    @property
    def images(self) -> ImageSource | None:
        """None, since a source of ready codes has no images."""
        return None


Source: TypeAlias = ImageSource | CodeSource


def further_kinds(source: Source, split: str) -> dict[str, Column]:
    """Return what the further columns of a split of a source hold, by their names."""
    return {name: column.column for name, column in source.further.get(split, {}).items()}


def further_values(source: Source, split: str, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
    """Return the values of samples [start, stop) in the further columns of a split, by their names.

    Raises SourceError for values that cannot be read, and StorageError where storage does not answer.
    """
    columns = source.further.get(split, {})
    return {name: column.read(start, stop) for name, column in columns.items()}


def count_classes(source: Source) -> dict[str, int]:
    """Return the number of different labels in each split that has labels."""
    counts = {name: count_labels(split, 0, len(split)) for name, split in source.splits.items()}
    return {name: count for name, count in counts.items() if count is not None}


def count_labels(split: Split, start: int, stop: int) -> int | None:
    """Return the number of different labels of samples [start, stop), or None for a split without labels."""
    if split.labels(0, 0) is None:
        return None
    seen: npt.NDArray[np.int32] = np.empty(0, np.int32)
    for first in range(start, stop, _COUNTED_LABELS):  # so that no copy of all labels is sorted
        labels = split.labels(first, min(first + _COUNTED_LABELS, stop))
        assert labels is not None
        seen = np.union1d(seen, labels)
    return len(seen)
