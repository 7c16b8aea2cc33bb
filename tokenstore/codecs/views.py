"""The views of an image: boxes of it, which a sample's codes show one after another, and where they meet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import CodecError

__all__ = ["ALIGNED", "MAX_VIEWS", "ROLES", "Box", "Views", "box_problem"]

Box: TypeAlias = tuple[int, int, int, int, int]
"""The top, left, height and width of a view in pixels of the resized image, and 1 if it is then mirrored."""

ROLES = ("same", "mirrored", "second", "apart")
"""The references of a view: the best aligned view of the same orientation, the best aligned mirrored one, the
second best of the same orientation, and, if none of that orientation is aligned, the best other one of it."""
ALIGNED = 0.25
"""The most, in cells, that the middles of the cells of aligned views are apart along an axis."""
MAX_VIEWS = 256
"""The most views of a sample."""
_LARGEST_PIXEL = 2**20


@dataclass(frozen=True)
class Views:
    """The views of every sample of a store: how many, and the box of each where all samples have the same."""

    count: int
    boxes: tuple[Box, ...] | None = None
    """The box of each view; None if boxes differ from sample to sample, or are unknown."""

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MAX_VIEWS:
            raise CodecError(f"expected 2 to {MAX_VIEWS} views, found {self.count}")
        if self.boxes is None:
            return
        if len(self.boxes) != self.count:
            raise CodecError(f"expected {self.count} boxes of views, found {len(self.boxes)}")
        problem = box_problem(np.array(self.boxes, object))  # of whole numbers of any size
        if problem is not None:
            raise CodecError(problem)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the views that `to_json` wrote; raises CodecError for another value."""
        match value:
            case int() if type(value) is int:
                return cls(value)
            case list() if all(
                isinstance(box, list) and len(box) == 5 and all(type(part) is int for part in box)
                for box in value
            ):
                return cls(len(value), tuple((box[0], box[1], box[2], box[3], box[4]) for box in value))
        raise CodecError(
            f"expected the number of views, or a box of 5 integers for each, found {value!r:.200}"
        )

    def to_json(self) -> int | list[list[int]]:
        """Return the boxes, or the number of views without boxes, as a JSON value."""
        return self.count if self.boxes is None else [list(box) for box in self.boxes]

    @property
    def central(self) -> int:
        """The view that evaluations see: of those not mirrored, the one nearest the middle of all boxes.

        Of several the largest one, and then the first. It is view 0 where boxes are unknown, or all mirrored.
        """
        boxes = np.array(self.boxes or [(0, 0, 1, 1, 0)], np.int64)
        ends = boxes[:, :2] + boxes[:, 2:4]
        off = np.abs(boxes[:, :2] + ends - boxes[:, :2].min(0) - ends.max(0)).sum(1)
        area = boxes[:, 2] * boxes[:, 3]
        upright = [view for view in range(len(boxes)) if not boxes[view, 4]]
        return min(upright, key=lambda view: (off[view], -area[view]), default=0)

    def cells(self, view: int, other: int, grid: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the cell of the view `other` (L,) that shows the middle of each cell of `view`, or -1.

        `grid` has the cells of a view; the last two axes are rows and columns of its box. A grid of one axis
        has no places in the image: each cell is then that of the same number.
        """
        cells = np.arange(math.prod(grid))
        if len(grid) <= 1:
            return cells
        if self.boxes is None:
            raise CodecError("expected views with boxes, found none")
        rows = _indices(self.boxes[view], self.boxes[other], grid[-2], axis=0)
        columns = _indices(self.boxes[view], self.boxes[other], grid[-1], axis=1)
        plane = np.where((rows[:, None] < 0) | (columns < 0), -1, rows[:, None] * grid[-1] + columns).reshape(
            -1
        )
        frames = cells.reshape(-1, plane.size)[:, :1]
        return np.where(plane < 0, -1, frames + plane).reshape(-1)

    def references(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the earlier views that predict each view best, in the order of `ROLES`; -1 for none.

        Views are aligned if the middles of their cells are at most `ALIGNED` cells apart. Without boxes
        there are no references.
        """
        if self.boxes is None:
            return ((-1,) * len(ROLES),) * self.count
        return tuple(self._references_of(view, grid) for view in range(self.count))

    def _references_of(self, view: int, grid: tuple[int, ...]) -> tuple[int, ...]:
        assert self.boxes is not None
        aligned: tuple[list[int], list[int]] = ([], [])
        apart = []
        earlier = [(self._mismatch(view, other, grid), other) for other in range(view)]
        for (hidden, *shifts), other in sorted(earlier):
            if hidden == 1:
                continue
            if max(shifts) <= ALIGNED:
                aligned[self.boxes[view][4] != self.boxes[other][4]].append(other)
            elif self.boxes[view][4] == self.boxes[other][4]:
                apart.append(other)
        same, mirrored = aligned
        between = [] if same else sorted(apart, key=lambda other: self._side(view, other, grid))[:1]
        chosen = (same[:1], mirrored[:1], same[1:2], between)
        return tuple(role[0] if role else -1 for role in chosen)

    def _mismatch(self, view: int, other: int, grid: tuple[int, ...]) -> tuple[float, ...]:
        """Return the share of a view's cells that another lacks, and how far apart, in cells, others are."""
        assert self.boxes is not None
        hidden = float((self.cells(view, other, grid) < 0).mean())
        if len(grid) <= 1:
            return hidden, 0.0
        shifts = [
            abs(_within(self.boxes[view], self.boxes[other], side, axis) - 0.5)
            + abs(self.boxes[view][2 + axis] / self.boxes[other][2 + axis] - 1)
            for axis, side in enumerate(grid[-2:])
        ]
        return hidden, *shifts

    def _side(self, view: int, other: int, grid: tuple[int, ...]) -> int:
        """Count the axes along which the cells of another view lie behind those of the view that they show.

        Then the next cell before would tell more, but contexts are the next ones behind (`view_offsets`).
        """
        assert self.boxes is not None
        boxes = self.boxes[view], self.boxes[other]
        return sum(_within(*boxes, side, axis) < 0.5 for axis, side in enumerate(grid[-2:]))


def box_problem(boxes: npt.NDArray[Any]) -> str | None:
    """Return what is wrong with boxes (..., 5); None for right ones (FORMAT.md, M36)."""
    each = boxes.reshape(-1, 5)
    if each.dtype != object:
        each = each.astype(np.int64)
    places, sizes, mirrored = each[:, :2], each[:, 2:4], each[:, 4]
    wrong = (places < 0).any(1) | (sizes < 1).any(1) | (sizes > _LARGEST_PIXEL).any(1)
    wrong |= (places > _LARGEST_PIXEL - sizes).any(1)  # subtle: sums of numbers of 64 bits overflow
    wrong |= (mirrored != 0) & (mirrored != 1)
    if not wrong.any():
        return None
    found = each[int(wrong.argmax())].tolist()
    return (
        "expected the top, left, height and width of a view in pixels, and 0 or 1 for mirrored, "
        f"found {found}"
    )


def _indices(box: Box, other: Box, side: int, axis: int) -> npt.NDArray[np.int64]:
    """Return the index of the cell of `other`, along one axis, at the middle of each of `box`; -1 outside."""
    index = np.arange(side)
    if axis == 1 and box[4]:
        index = index[::-1]
    middle = 2 * side * (box[axis] - other[axis]) + (2 * index + 1) * box[2 + axis]
    cell = middle // (2 * other[2 + axis])
    inside = (cell >= 0) & (cell < side)
    if axis == 1 and other[4]:
        cell = side - 1 - cell
    return np.where(inside, cell, -1)


def _within(box: Box, other: Box, side: int, axis: int) -> float:
    """Return where in a cell of `other` the middle of the first cell of `box` lies along one axis, 0 to 1.

    The axis has the direction of `box`.
    """
    middle = side * (box[axis] - other[axis]) / other[2 + axis] + box[2 + axis] / other[2 + axis] / 2
    within = middle - math.floor(middle)
    return 1 - within if axis == 1 and box[4] else within
