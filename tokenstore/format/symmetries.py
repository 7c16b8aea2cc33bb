"""The symmetries of a tokenizer: permutations of its codes, by changes of the image (FORMAT.md, M42)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ManifestError
from tokenstore.format.fields import FieldError, list_of, text

__all__ = [
    "FLIP",
    "NO_SYMMETRIES",
    "SYMMETRIES",
    "Symmetries",
    "closed_codes",
    "read_names",
    "symmetries_of_rows",
    "symmetries_problem",
    "symmetries_table",
    "symmetries_within",
    "symmetry_axes",
]

SYMMETRIES: Final = "symmetries"
"""The name of the manifest's field and of the root array."""
FLIP: Final = "flip"
"""The symmetry of images that are mirrored from left to right."""

Codes: TypeAlias = npt.NDArray[np.integer[Any]]
Symmetries: TypeAlias = Mapping[str, npt.NDArray[np.int32]]
"""Permutations by name: the new code of each code, (K,) or (n, K), with -1 behind a shorter codebook."""
NO_SYMMETRIES: Final[Symmetries] = MappingProxyType({})


def symmetry_axes(rows: npt.NDArray[Any]) -> tuple[str, ...]:
    """Return the names of the axes of the array `symmetries`, (S, K) or (S, n, K)."""
    return ("symmetry", "codebook", "code") if rows.ndim == 3 else ("symmetry", "code")


def read_names(value: object, where: str) -> tuple[str, ...]:
    """Return the names of a store's symmetries; raise FieldError for none, or for one twice."""
    names = list_of(text)(value, where)
    if not names or len(set(names)) < len(names):
        raise FieldError(where, "names, each once", repr(list(names)))
    return names


def symmetries_problem(rows: npt.NDArray[Any], names: Sequence[str], sizes: tuple[int, ...]) -> str | None:
    """Return what is wrong with the array `symmetries` of codebooks of these sizes; None for a right one."""
    count, most = len(sizes), max(sizes)
    shape = (len(names), most) if count == 1 else (len(names), count, most)
    if rows.shape != shape:
        return f"expected permutations {shape} for {list(names)}, found shape {rows.shape}"
    for name, planes in zip(names, rows.reshape(len(names), count, most), strict=True):
        for number, (plane, size) in enumerate(zip(planes, sizes, strict=True)):
            codes = plane[:size]
            within = (codes >= 0) & (codes < size)
            if not within.all() or len(np.unique(codes)) < size or (plane[size:] != -1).any():
                where = f" of codebook {number}" if count > 1 else ""
                return f"{name}: expected each code{where} below {size} once, found another row"
            if name == FLIP and (codes[codes] != np.arange(size)).any():
                return f"{name}: expected a permutation that undoes itself, found another"
    return None


def symmetries_table(
    symmetries: Symmetries, sizes: tuple[int, ...]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | None]:
    """Return the names and the array (S, K) or (S, n, K) of symmetries; no names and None for none.

    Raises ManifestError for permutations that are none of codebooks of these sizes.
    """
    if not symmetries:
        return (), None
    names = tuple(symmetries)
    try:
        tables = np.stack([np.asarray(symmetries[name]) for name in names])
        rows = tables.astype(np.int32, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise ManifestError(f"symmetries: expected permutations of one shape, found {error}") from error
    problem = symmetries_problem(rows, names, sizes)
    if problem is not None:
        raise ManifestError(f"symmetries: {problem}")
    return names, rows


def symmetries_of_rows(rows: npt.NDArray[np.int32], names: Sequence[str]) -> Symmetries:
    """Return the symmetries of a store by name, from its array (S, ...), which is right."""
    return MappingProxyType(dict(zip(names, rows, strict=True)))


def closed_codes(codes: Sequence[Codes], symmetries: Symmetries) -> tuple[npt.NDArray[np.int64], ...]:
    """Return codes (k,) of each codebook with all to which symmetries take them, in rising order."""
    closed = [np.asarray(own, np.int64) for own in codes]
    for number, own in enumerate(closed):
        while True:
            further = [_plane(rows, number)[own] for rows in symmetries.values()]
            more = np.unique(np.concatenate([own, *further]))
            if len(more) == len(own):
                break
            own = more
        closed[number] = np.unique(own)
    return tuple(closed)


def symmetries_within(symmetries: Symmetries, codes: Sequence[Codes]) -> Symmetries:
    """Return the symmetries of the codes (k,) of each codebook, numbered anew in their order.

    Those that lead to a code outside are left out.
    """
    most = max(map(len, codes))
    within = {}
    for name, rows in symmetries.items():
        planes = np.full((len(codes), most), -1, np.int32)
        for number, own in enumerate(codes):
            plane = _plane(rows, number)
            numbers = np.full(len(plane), -1, np.int32)
            numbers[own] = np.arange(len(own))
            planes[number, : len(own)] = numbers[plane[own]]
            if (planes[number, : len(own)] < 0).any():
                break
        else:
            within[name] = planes if rows.ndim == 2 else planes[0]
    return MappingProxyType(within)


def _plane(rows: npt.NDArray[np.int32], number: int) -> npt.NDArray[np.int32]:
    """Return the permutation of one codebook."""
    return rows[number] if rows.ndim == 2 else rows
