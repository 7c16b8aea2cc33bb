"""One modality of aligned data: an array a sample, in a folder of `.npy` files or in tar files of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.folders import files_ending
from tokenstore.sources.layouts.npy_members import ListArrays
from tokenstore.sources.layouts.npy_stacks import ArrayKind, read_many
from tokenstore.sources.listings import SavedListings, list_files
from tokenstore.sources.names import NameBuilder, digest, printable, sliced

__all__ = ["Modality", "class_texts", "open_modality"]

_NPY, _TAR = ".npy", ".tar"


@dataclass(frozen=True)
class Modality(ABC):
    """The arrays of all samples, of one shape, in the order of their keys."""

    where: str
    keys: pa.ChunkedArray
    """The names of samples, with their class folders, `pa.binary()`."""
    kind: ArrayKind

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Return arrays (stop - start, *shape) of samples; raise SourceError for damaged ones."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes when samples are added, removed or put elsewhere."""


@dataclass(frozen=True)
class ModalityFiles(Modality):
    """A modality whose samples are files in a folder, in class folders or not."""

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        keys = sliced(self.keys, start, stop).to_pylist()
        paths = [f"{self.where}/{os.fsdecode(key)}{_NPY}" for key in keys]
        return self.kind.stacked(list(read_many(paths)))

    @override
    def fingerprint(self) -> str:
        return digest(Path(self.where).name, self.keys, self.kind.dtype.str, repr(self.kind.shape))


@dataclass(frozen=True)
class ModalityTars(Modality):
    """A modality whose samples are members of tar files."""

    files: tuple[SourceFile, ...]
    numbers: npt.NDArray[np.int32]
    """The index of each sample's tar file."""
    offsets: npt.NDArray[np.int64]
    """The offset at which each sample's values begin."""

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        nbytes = self.kind.nbytes - len(self.kind.head)
        values = np.empty((stop - start, *self.kind.shape), self.kind.dtype)
        numbers = self.numbers[start:stop]
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            ranges = [(offset, nbytes) for offset in self.offsets[start + rows].tolist()]
            for row, data in zip(rows.tolist(), self.files[number].read_ranges(ranges), strict=True):
                if isinstance(data, SampleError):
                    raise SourceError(f"{self.files[number]}: sample {start + row}: {data}")
                values[row] = np.frombuffer(data, self.kind.dtype).reshape(self.kind.shape)
        return values.astype(self.kind.dtype.newbyteorder("="), copy=False)

    @override
    def fingerprint(self) -> str:
        names = repr([file.name for file in self.files])
        facts = f"{self.kind.dtype.str}{self.kind.shape}"
        return digest(Path(self.where).name, names, self.keys, self.numbers, self.offsets, facts)


def open_modality(folder: Path, listings: SavedListings | None) -> Modality:
    """Open the arrays in a folder: its tar files, or its `.npy` files and those of its class folders.

    Raises SourceError for a folder without arrays, for members of several types or shapes, and for names that
    come twice.
    """
    tars = files_ending(folder, (_TAR,))
    if tars:
        return _open_tars(folder, [LocalFile.of(path) for path in tars], listings)
    builder = NameBuilder()
    try:
        builder.extend(_keys(folder))
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    keys = builder.finish()
    if not len(keys):
        raise SourceError(f"{folder}: expected {_NPY} files, or {_TAR} files of them, found none")
    path = f"{folder}/{os.fsdecode(keys[0].as_py())}{_NPY}"
    (first,) = read_many([path])
    return ModalityFiles(str(folder), keys, ArrayKind.of(first[1], first[0]))


def class_texts(keys: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return the class folder of each sample, `pa.binary()`; None where samples lie in none."""
    has_folder = pc.match_substring(keys, "/")
    if not pc.all(has_folder).as_py():
        return None
    return pc.replace_substring_regex(keys, "/.*$", "")


def _keys(folder: Path) -> Iterator[bytes]:
    """Yield the names of a folder's arrays without their ending, sorted, class folder by class folder."""
    ending = _NPY.encode()
    with os.scandir(os.fsencode(folder)) as entries:
        listed = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(b".")]
    direct = sorted(name for name, is_folder in listed if not is_folder and name.endswith(ending))
    below = sorted(name for name, is_folder in listed if is_folder)
    if direct and below:
        raise SourceError(
            f"{folder}: file {printable(direct[0])!r} lies beside the folder {printable(below[0])!r}; "
            "expected files in class folders, or no such folders"
        )
    yield from (name.removesuffix(ending) for name in direct)
    for name in below:
        with os.scandir(os.fsencode(folder) + b"/" + name) as entries:
            inside = sorted(entry.name for entry in entries if entry.name.endswith(ending))
        for file in inside:
            yield name + b"/" + file.removesuffix(ending)


def _open_tars(folder: Path, files: list[LocalFile], listings: SavedListings | None) -> ModalityTars:
    tables = [listing.table for listing in list_files(files, ListArrays(), listings)]
    table = pa.concat_tables(tables)
    if not len(table):
        raise SourceError(f"{folder}: no {_NPY} members in its tar files")
    sizes, dtypes = _shapes(table["shape"]), pc.unique(table["dtype"]).to_pylist()
    if len(sizes) > 1 or len(dtypes) > 1:
        raise SourceError(
            f"{folder}: expected arrays of one type and shape, found {dtypes[:3]} of {sizes[:3]}"
        )
    keys = pc.replace_substring_regex(pc.binary_slice(table["member"], 0, -len(_NPY)), r"^(\./+)+", "")
    if len(pc.unique(keys)) < len(keys):
        counts = pc.value_counts(keys.combine_chunks()).to_pylist()
        twice = next(each["values"] for each in counts if each["counts"] > 1)
        raise SourceError(f"{folder}: sample {printable(twice)!r} occurs twice in its tar files")
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(each) for each in tables])
    kind = ArrayKind(sizes[0], np.dtype(dtypes[0]), b"")
    return ModalityTars(str(folder), keys, kind, tuple(files), numbers, table["offset"].to_numpy())


def _shapes(column: pa.ChunkedArray) -> list[tuple[int, ...]]:
    """Return the different shapes in a column of lists."""
    ranks = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(ranks) > 1:
        return [(0,) * rank for rank in ranks]
    flat = pc.list_flatten(column).to_numpy().reshape(len(column), ranks[0])
    return [tuple(shape) for shape in np.unique(flat, axis=0).tolist()]
