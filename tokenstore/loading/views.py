"""The view that a dataset gives of each sample: the one asked for, one drawn for each epoch, or all."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import Parameter
from tokenstore.format import TOKENS, VIEW_BOXES
from tokenstore.randomness import FIRST_FACTOR, GAMMA, SECOND_FACTOR, hashed_key
from tokenstore.reading import Indices, Rows

__all__ = ["HAVE_VIEWS", "View", "checked_view", "drawn_views", "views_of"]

View: TypeAlias = int | Literal["random", "all"]
HAVE_VIEWS = frozenset({TOKENS, VIEW_BOXES})
"""The columns with a value for each view of a sample."""
_VIEW_KEY = 0x7669657773
"""The part of a key that sets the draw of views apart from all else that a seed decides."""


def checked_view(view: View | None, rows: Rows) -> View | None:
    """Return what is given of the views of `rows`: by default one drawn for each epoch; None without views.

    Where some of several stores have no views, each of their samples is its one view, view 0. Raises
    ValueError for a view that samples do not have, and for all views of samples that have unequally many.
    """
    counts = [1 if manifest.views is None else manifest.views.count for manifest in rows.manifests]
    if view is None:
        return "random" if max(counts) > 1 else None
    if view == "all" and not 1 < min(counts) == max(counts):
        one = Parameter("view", "random")
        raise ValueError(
            f"view: expected equally many views of all samples, found {min(counts)} to {max(counts)} in "
            f"{rows!r}. Give {one}"
        )
    if view in ("random", "all"):
        return view if max(counts) > 1 else None
    if isinstance(view, bool | str) or not isinstance(view, int | np.integer) or not 0 <= view < min(counts):
        raise ValueError(
            f"view: expected 'random', 'all', None, or a number from 0 to {min(counts) - 1} for {rows!r}, "
            f"found {view!r}"
        )
    return int(view) if max(counts) > 1 else None


def views_of(
    view: View | None, rows: Rows, row_numbers: Indices, seed: int, epoch: int
) -> Indices | int | None:
    """Return the view (m,) of each of some samples that a dataset gives, or of all; None for all views."""
    if view == "random":
        return drawn_views(rows, row_numbers, seed, epoch)
    return None if view is None or isinstance(view, str) else view


def drawn_views(rows: Rows, row_numbers: Indices, seed: int, epoch: int) -> Indices:
    """Draw a view (m,) of each sample at `row_numbers` (m,) of `rows`, by (seed, epoch, row of its split).

    So the view does not depend on what else is drawn, nor on how samples are selected or joined.
    """
    views = np.zeros(len(row_numbers), np.int64)
    for place, places, own in rows.by_split(row_numbers):
        of_store = rows.splits[place].store.manifest.views
        if of_store is not None:
            hashed = hashed_rows((seed, epoch, _VIEW_KEY), own)
            views[places] = (hashed >> np.uint64(32)) * np.uint64(of_store.count) >> np.uint64(32)
    return views


def hashed_rows(key: tuple[int, ...], row_numbers: Indices) -> npt.NDArray[np.uint64]:
    """Return `hashed_key(*key, row)` (m,) for each row number (m,)."""
    state = np.uint64(hashed_key(*key))
    mixed: npt.NDArray[Any] = (state ^ row_numbers.astype(np.uint64)) + np.uint64(GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(FIRST_FACTOR)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(SECOND_FACTOR)
    hashed: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return hashed
