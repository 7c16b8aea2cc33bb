"""The contexts of a code: the neighbours that predict it, as offsets and as positions of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import MAX_CONTEXTS

Array = npt.NDArray[Any]

OFFSETS_1D = ((-1,), (-2,), (-3,), (-4,), (-5,), (-6,))
OFFSETS_2D = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-2, 1), (-2, -1), (-1, -2))

AROUND_1D = ((0,), (1,), (-1,), (2,), (-2,))
AROUND_2D = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
OWN_CONTEXTS = 4
"""The contexts of a view among its own codes, if it is coded given others."""
FIRST_AROUND = {"same": 4, "mirrored": 3, "second": 1, "apart": 4}
"""The contexts of each role's reference, if all roles occur (`codecs.views.ROLES`)."""


def context_offsets(grid: tuple[int, ...], plane: int, planes: int) -> npt.NDArray[np.int8]:
    """Return the offsets (m, rank), along the grid's axes, to the codes that predict one; nearest first.

    They lead to earlier places of the row and of the rows before; to the same place and its neighbours in the
    frame before; and to the same place in up to four codebooks before.
    """
    spatial = grid[1:] if planes > 1 else grid
    rank = len(spatial)
    flat = OFFSETS_1D if rank == 1 else OFFSETS_2D
    lead = (0,) * max(0, rank - 2)
    offsets = [(*lead, *offset) for offset in flat]
    if rank > 2:
        before = (*lead[:-1], -1)
        frame = [(*before, dy, dx) for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))]
        offsets = [*offsets[:4], *frame, *offsets[4:6]]
    if planes > 1:
        earlier = [(-step, *(0,) * rank) for step in range(1, min(plane, 4) + 1)]
        beside = [(-1, *(0,) * (rank - 1), 1), (-1, *(0,) * max(0, rank - 2), 1, 0)][
            : 2 if plane and rank > 1 else 0
        ]
        offsets = [*earlier, *((0, *offset) for offset in offsets[:6]), *beside]
    inside = [o for o in offsets if all(abs(step) < side for step, side in zip(o, grid, strict=True))]
    return np.array(inside or offsets[:1], np.int8)


def view_offsets(
    grid: tuple[int, ...], plane: int, planes: int, roles: Sequence[str]
) -> npt.NDArray[np.int8]:
    """Return the offsets (m, rank) to the codes that predict a code of a view, given its references.

    `grid` has the axis of frames: the references of these `roles`, and then the view. The nearest own codes
    come first, then the same place and those around it in each reference: by `FIRST_AROUND` for each role,
    then one more for each in turn, as many as there is room for.
    """
    books = 1 if planes > 1 else 0
    spatial = (*grid[:books], *grid[books + 1 :])
    own = [
        (*offset[:books], 0, *offset[books:])
        for offset in context_offsets(spatial, plane, planes)[:OWN_CONTEXTS].tolist()
    ]
    rank = len(grid) - books - 1
    around = AROUND_1D if rank == 1 else AROUND_2D
    first = [(frame, at) for frame, role in enumerate(roles) for at in range(FIRST_AROUND[role])]
    rest = [(frame, at) for at in range(len(around)) for frame in range(len(roles))]
    places = [place for place in dict.fromkeys(first + rest) if place[1] < len(around)]
    offsets = [
        (*(0,) * books, frame - len(roles), *(0,) * max(0, rank - 2), *_around(around, roles[frame])[at])
        for frame, at in sorted(places[: MAX_CONTEXTS - len(own)])
    ]
    inside = [o for o in offsets if all(abs(step) < side for step, side in zip(o, grid, strict=True))]
    return np.array([*own, *inside], np.int8)


def _around(around: tuple[tuple[int, ...], ...], role: str) -> tuple[tuple[int, ...], ...]:
    """Return the places around a cell in a reference, the most telling first."""
    if role != "apart" or around is AROUND_1D:
        return around
    return tuple(sorted(around, key=lambda offset: min(offset) < 0))  # stable: those behind come first


def neighbours(contexts: Sequence[Array], grid: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """Return the positions of every position's contexts (L, contexts), and L for those outside the grid.

    `contexts` are the offsets (m, rank) of every codebook. The first axis of a grid of several codebooks
    counts them.
    """
    length = math.prod(grid)
    positions = np.stack(np.unravel_index(np.arange(length), grid), axis=1)
    table = np.full((length, max(map(len, contexts))), length, np.uint32)
    per_plane = length // len(contexts)
    for number, offsets in enumerate(contexts):
        here = slice(number * per_plane, (number + 1) * per_plane)
        for context, offset in enumerate(offsets):
            places = positions[here] + offset
            inside = ((places >= 0) & (places < grid)).all(axis=1)
            table[here, context][inside] = np.ravel_multi_index(tuple(places[inside].T), grid)
    return table
