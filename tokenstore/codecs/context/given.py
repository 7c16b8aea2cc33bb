"""Views that are coded given earlier ones: which, by what model, and the codes that they are given.

The model of such views has grids with one axis more: the frames before the last are the codes of the
references, each moved to the cells of the view, and the last frame is the view.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.model import ContextModel
from tokenstore.codecs.context.streams import Streams, check_grid
from tokenstore.codecs.views import Views
from tokenstore.errors import CodecError

__all__ = ["NO_CODE", "GivenViews", "decoded_model", "encoded_model", "framed", "framed_grid"]

Codes = npt.NDArray[Any]

NO_CODE = -1
"""The code of a given position at which no reference has a cell."""
MAX_REFERENCES = 4


def framed_grid(grid: tuple[int, ...], codebooks: int, references: int) -> tuple[int, ...]:
    """Return the grid of a view and its references: the axis of frames stands behind that of codebooks."""
    books = 1 if codebooks > 1 else 0
    return (*grid[:books], references + 1, *grid[books:])


@dataclass(frozen=True, eq=False)
class GivenViews:
    """The views of a store, the views that each is coded given, and the model of those with references."""

    views: Views
    references: tuple[tuple[int, ...], ...]
    """For each view, the earlier views in each frame; NO_CODE for a frame without one."""
    model: ContextModel | None = None
    """The model of the views with references; None if no view has any."""
    _streams: dict[tuple[int, ...], Streams] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        frames = {len(row) for row in self.references}
        if len(self.references) != self.views.count or len(frames) != 1 or max(frames) > MAX_REFERENCES:
            raise CodecError(
                f"expected the references of {self.views.count} views, equally many each and up to "
                f"{MAX_REFERENCES}, found {self.references!r:.200}"
            )
        for view, row in enumerate(self.references):
            if not all(NO_CODE <= reference < view for reference in row):
                raise CodecError(f"expected references of view {view} before it, or -1, found {list(row)}")
        if (self.model is not None) != any(self.is_given(view) for view in range(self.views.count)):
            raise CodecError("expected a model of views exactly where a view has references")

    @classmethod
    def of(cls, views: Views) -> Self:
        """Return views that are each coded alone."""
        return cls(views, ((),) * views.count)

    @property
    def frames(self) -> int:
        """The number of references that a view can have."""
        return len(self.references[0])

    @property
    def _planes(self) -> int:
        return 1 if self.model is None else len(self.model.planes)

    def is_given(self, view: int) -> bool:
        """Return whether a view is coded given others."""
        return max(self.references[view], default=NO_CODE) > NO_CODE

    def streams(self, grid: tuple[int, ...]) -> Streams:
        """Return the streams of views with references over a grid, made once; raises CodecError."""
        if self.model is None:
            raise CodecError("expected a model of views, found none")
        if grid not in self._streams:
            planes = len(self.model.planes)
            framed = framed_grid(grid, planes, self.frames)
            given = self.frames * (math.prod(grid) // planes)
            self._streams[grid] = Streams(self.model, framed, given)
        return self._streams[grid]

    def encode(self, codes: Codes, grid: tuple[int, ...], alone: Streams) -> tuple[bytes, Codes]:
        """Return the streams of views (n, V, L) back to back, sample by sample, and their lengths (n * V,).

        `alone` codes the views without references. Raises CodecError for a code that is not below its
        codebook's size.
        """
        count = self.views.count
        lengths = np.empty((len(codes), count), np.int64)
        parts: list[list[bytes]] = [[] for _ in codes]
        for view in range(count):
            if self.is_given(view):
                frames = framed(self.views, self.references, view, codes, grid, self._planes)
                data, lengths[:, view] = self.streams(grid).encode(frames.reshape(len(codes), -1))
            else:
                data, lengths[:, view] = alone.encode(np.ascontiguousarray(codes[:, view]))
            stops = np.cumsum(lengths[:, view]).tolist()
            for part, start, stop in zip(parts, [0, *stops], stops, strict=False):
                part.append(data[start:stop])
        return b"".join(data for part in parts for data in part), lengths.reshape(-1)

    def decode(
        self,
        addresses: Codes,
        lengths: Codes,
        numbers: Codes,
        out: Codes,
        grid: tuple[int, ...],
        alone: Streams,
    ) -> int:
        """Decode views, by their numbers (m,) in `addresses` and `lengths`, into `out` (m, L).

        The references of a view are decoded with it, each once. Returns the first of the m views of a sample
        in which there is a stream that no encoder wrote, or -1.
        """
        count = self.views.count
        needed = np.unique(numbers)
        for view in range(count - 1, 0, -1):
            own = needed[needed % count == view]
            steps = [view - at for at in self.references[view] if at > NO_CODE]
            needed = np.unique(np.concatenate([needed, *(own - step for step in steps)]))
        codes = np.empty((len(needed), out.shape[1]), np.int32)
        for view in range(count):
            rows = np.flatnonzero(needed % count == view)
            if not len(rows):
                continue
            part = np.empty((len(rows), out.shape[1]), np.int32)
            streams, given = alone, None
            if self.is_given(view):
                streams = self.streams(grid)
                references = [
                    None if at == NO_CODE else codes[np.searchsorted(needed, needed[rows] - view + at)]
                    for at in self.references[view]
                ]
                given = _shifted(self.views, self.references[view], view, references, grid, self._planes)
                given = given.reshape(len(rows), -1)
            wrong = streams.decode(addresses[needed[rows]], lengths[needed[rows]], part, given)
            if wrong >= 0:
                return int((numbers // count == needed[rows[wrong]] // count).argmax())
            codes[rows] = part
        out[...] = codes[np.searchsorted(needed, numbers)]
        return -1

    def check_grid(self, grid: tuple[int, ...], codebook_sizes: tuple[int, ...]) -> None:
        """Raise CodecError if the model is made for other grids or codebooks, or if boxes are missing."""
        if self.model is None:
            return
        planes = len(codebook_sizes)
        check_grid(self.model, framed_grid(grid, planes, self.frames))
        sizes = tuple(plane.size for plane in self.model.planes)
        if sizes != codebook_sizes:
            raise CodecError(f"expected a model of views of {codebook_sizes} codes, found one of {sizes}")
        self.views.cells(0, 0, grid[1:] if planes > 1 else grid)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return what `to_json` wrote; raises CodecError for another value."""
        if not isinstance(value, dict) or value.keys() != {"boxes", "references", "model"}:
            raise CodecError(f"expected views of boxes, references and model, found {value!r:.200}")
        rows = value["references"]
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and all(type(each) is int for each in row) for row in rows
        ):
            raise CodecError(f"expected a list of references for each view, found {rows!r:.200}")
        views = Views.from_json(value["boxes"])
        return cls(views, tuple(map(tuple, rows)), decoded_model(value["model"]))

    def to_json(self) -> dict[str, Any]:
        """Return the views, their references and the model as JSON values."""
        references = [list(row) for row in self.references]
        return {"boxes": self.views.to_json(), "references": references, "model": encoded_model(self.model)}


def framed(
    views: Views,
    references: Sequence[tuple[int, ...]],
    view: int,
    codes: Codes,
    grid: tuple[int, ...],
    planes: int,
) -> Codes:
    """Return a view with its references before it (n, planes, frames + 1, cells) int32.

    `codes` (n, V, L) are those of all views.
    """
    known = [codes[:, at] if at > NO_CODE else None for at in references[view]]
    own = codes[:, view].reshape(len(codes), planes, 1, -1).astype(np.int32)
    return np.concatenate([_shifted(views, references[view], view, known, grid, planes), own], axis=2)


def _shifted(
    views: Views,
    references: tuple[int, ...],
    view: int,
    codes: list[Codes | None],
    grid: tuple[int, ...],
    planes: int,
) -> Codes:
    """Return the codes of a view's references, moved to its cells (n, planes, frames, cells) int32.

    `codes` has for each frame the codes (n, L) of the reference, or None without one.
    """
    spatial = grid[1:] if planes > 1 else grid
    samples = next(len(each) for each in codes if each is not None)
    cells = math.prod(spatial)
    shifted = np.full((samples, planes, len(references), cells), NO_CODE, np.int32)
    for frame, (reference, own) in enumerate(zip(references, codes, strict=True)):
        if own is not None:
            places = views.cells(view, reference, spatial)
            inside = np.flatnonzero(places >= 0)
            shifted[:, :, frame, inside] = own.reshape(samples, planes, cells)[:, :, places[inside]]
    return shifted


def encoded_model(model: ContextModel | None) -> str | None:
    """Return a model's bytes in base64."""
    return None if model is None else base64.b64encode(model.to_bytes()).decode("ascii")


def decoded_model(text: object) -> ContextModel | None:
    """Return the model of `encoded_model`; raises CodecError for another value."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise CodecError(f"tokenstore.context: expected a base64 model, found {text!r:.40}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CodecError(f"tokenstore.context: expected a model in base64: {error}") from error
    return ContextModel.from_bytes(data)
