"""The protocol of a layout: how samples of a store lie in files of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias

from tokenstore.codecs import Column
from tokenstore.format import Manifest
from tokenstore.reading import TokenStore
from tokenstore.writing.export.contents import SplitContents, Values

__all__ = ["Exported", "Layout", "Stream", "Unit"]

Stream: TypeAlias = Callable[..., Iterator[Values]]
"""A function from the names of columns (and, if need be, the samples of a batch) to the values of a unit."""


@dataclass(frozen=True)
class Exported:
    """The store that is exported, what of it, and the settings of its layout."""

    store: TokenStore
    splits: Mapping[str, SplitContents]
    rows_per_file: int | None = None
    compression: str | None = None
    """The compression; None for the layout's own."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the store."""
        return self.store.manifest

    def cuts(self, split: str, rows: int | None = None) -> list[tuple[int, int]]:
        """Return the samples [start, stop) of each file of a split, of `rows` samples by default."""
        samples = len(self.splits[split])
        step = self.rows_per_file or rows or max(1, samples)
        return [(start, min(start + step, samples)) for start in range(0, max(1, samples), step)]


@dataclass(frozen=True)
class Unit:
    """The files that are written together: of some columns of the samples [start, stop) of a split."""

    paths: tuple[str, ...]
    """The files by their paths in the export; of a tree, its folders."""
    split: str
    start: int
    stop: int
    columns: tuple[str, ...]
    is_tree: bool = False
    """True for a unit of a file `ROW.npy` for each sample in each of the folders."""

    @property
    def files(self) -> Iterator[str]:
        """The paths of all files."""
        if not self.is_tree:
            return iter(self.paths)
        return (f"{folder}/{row}.npy" for folder in self.paths for row in range(self.start, self.stop))

    @property
    def name(self) -> str:
        """The name of the unit in messages."""
        return self.paths[0]


class Layout(Protocol):
    """The layout of an export."""

    name: ClassVar[str]
    compressions: ClassVar[tuple[str, ...]] = ("none",)
    """The compressions, the default first."""
    cuts_files: ClassVar[bool] = False
    """True if a split may have several files."""
    takes_images: ClassVar[bool] = False
    """True if a column of pictures can be held."""

    def problem(self, name: str, column: Column) -> str | None:
        """Return why a column cannot be held; None if it can."""

    def check(self, exported: Exported) -> tuple[str, ...]:
        """Return notes for the user; raise StoreError for a store that does not fit."""

    def units(self, exported: Exported) -> Iterator[Unit]:
        """Yield the units of an export, always the same in the same order."""

    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        """Write a unit's files below a folder; `stream` gives each column's values once."""

    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        """Yield the values of a unit's columns from its files below a folder.

        Raises any error for a file that is not as it was written.
        """

    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        """Return the small files that go with the others, by path; they are written last."""


@dataclass(frozen=True)
class PlainLayout:
    """The parts of a layout that most have in common."""

    compressions: ClassVar[tuple[str, ...]] = ("none",)
    cuts_files: ClassVar[bool] = False
    takes_images: ClassVar[bool] = False

    def problem(self, name: str, column: Column) -> str | None:
        """Return None: every column can be held."""
        return None

    def check(self, exported: Exported) -> tuple[str, ...]:
        """Return no note."""
        return ()

    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        """Return no file."""
        return {}
