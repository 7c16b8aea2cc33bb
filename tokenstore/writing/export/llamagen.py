"""The layout of LlamaGen's code trees: two `.npy` files a sample, of its codes and its label.

    imagenet256_codes/0.npy     int64 (1, V, L): the codes of V views, row by row
    imagenet256_labels/0.npy    int64 (1,)

The number in a folder's name is the side of the images. With several splits each has a folder of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from tokenstore.codecs import Box, Column, Views
from tokenstore.errors import StoreError
from tokenstore.format import LABELS, TOKENS
from tokenstore.sources.layouts.llamagen import SLIGHT, SLIGHT_FOLDER, WIDE, ten_crops
from tokenstore.writing.export.array_files import codebook_file, npy_array, npy_bytes
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["LlamaGen"]

_UNIT_ROWS = 1000
_DOWNSAMPLING = 16
"""The pixels of a code's side in LlamaGen's VQ-16, for stores that do not say the side of their images."""


class LlamaGen(PlainLayout, Layout):
    """Two small files a sample: `imagenet256_codes/0.npy` and `imagenet256_labels/0.npy`."""

    name: ClassVar[str] = "llamagen"

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return None if name in (TOKENS, LABELS) else "it has codes and labels alone"

    @override
    def check(self, exported: Exported) -> tuple[str, ...]:
        for split, contents in exported.splits.items():
            if LABELS not in contents.names:
                raise StoreError(f"{split}: the layout {self.name} needs labels, found none")
        manifest = exported.manifest
        if len(manifest.codebook_sizes) > 1:
            raise StoreError(
                f"the layout {self.name} has one codebook, found {len(manifest.codebook_sizes)}. Choose "
                "another"
            )
        notes = ["the classes' names are in tokenstore-export.json alone"] if manifest.class_names else []
        if manifest.views is not None and not _are_views(manifest.views, _side(exported)):
            notes.append(
                "readers of this layout take two views for a flip pair and ten for ten crops, and the "
                "store's are others"
            )
        elif manifest.views is not None and manifest.views.boxes == _crops(_side(exported), SLIGHT):
            notes.append(
                f"readers of this layout know crops of images enlarged {SLIGHT} times by a folder whose name "
                f"ends in {SLIGHT_FOLDER}: put the folders into one"
            )
        if manifest.preprocessing is None:
            notes.append(
                f"images of {_side(exported)} pixels are assumed, {_DOWNSAMPLING} for each code's side"
            )
        return tuple(notes)

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        side = _side(exported)
        for split, contents in exported.splits.items():
            place = f"{split}/" if len(exported.splits) > 1 else ""
            folders = (f"{place}imagenet{side}_codes", f"{place}imagenet{side}_labels")
            for start in range(0, len(contents), _UNIT_ROWS):
                stop = min(start + _UNIT_ROWS, len(contents))
                yield Unit(folders, split, start, stop, (TOKENS, LABELS), is_tree=True)

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        codes, labels = (folder / path for path in unit.paths)
        codes.mkdir(parents=True)
        labels.mkdir(parents=True)
        row, views = unit.start, _views(exported, unit.split)
        for values in stream(unit.columns):
            tokens = values[TOKENS].reshape(len(values[TOKENS]), 1, views, -1).astype(np.int64)
            of_rows = values[LABELS].astype(np.int64).reshape(-1, 1)
            for sample, label in zip(tokens, of_rows, strict=True):
                (codes / f"{row}.npy").write_bytes(npy_bytes(sample))
                (labels / f"{row}.npy").write_bytes(npy_bytes(label))
                row += 1

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        codes, labels = (folder / path for path in unit.paths)
        rows, shape = range(unit.start, unit.stop), exported.splits[unit.split].kind(TOKENS).shape
        tokens = np.stack([npy_array((codes / f"{row}.npy").read_bytes()) for row in rows])
        of_rows = np.stack([npy_array((labels / f"{row}.npy").read_bytes()) for row in rows])
        expected = (len(rows), 1, _views(exported, unit.split), math.prod(exported.manifest.grid))
        if tokens.dtype != np.int64 or tokens.shape != expected or of_rows.shape != (len(rows), 1):
            raise ValueError(f"found codes {tokens.dtype} {tokens.shape} and labels {of_rows.shape}")
        yield {TOKENS: tokens.reshape(len(rows), *shape), LABELS: of_rows[:, 0]}

    @override
    def extras(self, exported: Exported) -> dict[str, bytes]:
        return dict(codebook_file(exported))


def _are_views(views: Views, side: int) -> bool:
    """Return whether views are those that the layout's readers expect."""
    flips = ((0, 0, side, side, 0), (0, 0, side, side, 1))
    return views.boxes in (flips, *(_crops(side, factor) for factor in (WIDE, SLIGHT)))


def _crops(side: int, factor: float) -> tuple[Box, ...]:
    """Return the boxes of ten crops of an image enlarged by a factor."""
    return ten_crops(side, int(side * factor))


def _views(exported: Exported, split: str) -> int:
    """Return the number of views of a sample; 1 for a store without."""
    shape = exported.splits[split].kind(TOKENS).shape
    return shape[0] if len(shape) > len(exported.manifest.grid) else 1


def _side(exported: Exported) -> int:
    """Return the side of the images in pixels."""
    manifest = exported.manifest
    if manifest.preprocessing is not None:
        return manifest.preprocessing.height
    return math.isqrt(math.prod(manifest.grid)) * _DOWNSAMPLING
