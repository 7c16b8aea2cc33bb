"""Ready codes in tar files: a `.npy` member a sample, with labels and columns as beside images.

    {key}.tokens.npy, {key}.cls, {key}.json, {key}.txt ...

`sources.tar` opens tar files, and comes here where samples are codes and not images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import Labels, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.files import SourceFile, reading
from tokenstore.sources.layouts.pickles import pickle_advice
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit
from tokenstore.sources.names import digest, printable, printable_names, sliced
from tokenstore.sources.tar_columns import Values, tar_columns
from tokenstore.sources.tar_headers import walk_headers
from tokenstore.texts import shortened

__all__ = ["no_images", "tar_codes"]

_NPY = "npy"
_CODES = "codes"
_LOOKED_AT = 64
"""The members whose endings an error lists."""


@dataclass(frozen=True)
class TarRows(CodeRows):
    """The codes in the members of some tar files."""

    column: SourceColumn
    members: Values

    @property
    @override
    def where(self) -> str:
        return (
            f"{self.members.files[0]}, and those after it"
            if self.members.files[1:]
            else str(self.members.files[0])
        )

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.column.column.shape

    @override
    def __len__(self) -> int:
        return len(self.members.cells)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.column.read(start, stop)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        files = pa.array([printable(os.fsencode(file.name)) for file in self.members.files], pa.string())
        files = files.take(pa.array(self.members.shards[start:stop]))
        names = printable_names(sliced(self.members.members, start, stop))
        return pc.binary_join_element_wise(files, names, "/")

    @override
    def fingerprint(self) -> str:
        files = repr([file.name for file in self.members.files])
        return digest(self.members.members, self.members.shards, files, self.column.fingerprint())


def no_images(reason: str, tar: SourceFile) -> SourceError:
    """Return the error for tar files without images, with what their members are instead."""
    with reading(tar) as file:
        members = zip(range(_LOOKED_AT), walk_headers(file, tar), strict=False)
        names = [printable(member.name) for _, member in members if member.is_file]
    advice = pickle_advice(name.rpartition("/")[2] for name in names)
    if advice is not None:
        return SourceError(f"{reason}; found {advice}")
    endings = list(dict.fromkeys("." + name.rpartition("/")[2].partition(".")[2] for name in names))
    parameter = Parameter("token_column", next((each[1:] for each in endings if each.endswith(_NPY)), None))
    if parameter.value is None:
        return SourceError(reason)
    return SourceError(
        f"{reason}; found members {shortened(endings)}. {parameter} takes codes from these",
        parameters=[parameter],
    )


def tar_codes(
    codes: Mapping[str, tuple[str, Values] | None], labels: Mapping[str, Labels], where: str
) -> dict[str, Any]:
    """Return the splits and the grid of tar files of codes: for each split the ending of members, and values.

    Raises SourceError for splits without codes, and for members of several shapes.
    """
    found = {split: each for split, each in codes.items() if each is not None}
    endings = sorted({ending for ending, _ in found.values()})
    if len(found) < len(codes) or len(endings) > 1:
        raise SourceError(f"{where}: expected members of codes of one name in all splits, found {endings}")
    columns = tar_columns({_CODES: endings[0]}, {split: [each] for split, (_, each) in found.items()}, where)
    kind = next(iter(columns.values()))[_CODES].column
    if kind.is_ragged:
        raise SourceError(f"{where}: members .{endings[0]}: expected arrays of one shape, found several")
    check_shape(kind.dtype, (1, *kind.shape), f"{where}: members .{endings[0]}")
    splits = {
        split: LayoutSplit(TarRows(columns[split][_CODES], each), labels.get(split))
        for split, (_, each) in found.items()
    }
    return {"splits": splits, "grid": kind.shape}
