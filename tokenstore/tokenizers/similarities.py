"""The vector of a table that is most similar to a latent: the products of all pairs, and the largest ones.

Similarities are (K, n), a table's vectors by latents. So the products are fast on a CPU (`pointwise`), and
the largest of each latent is found by comparing whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenstore.networks.pointwise import pointwise

__all__ = ["in_parts", "largest", "most_similar", "similarities"]

_PAIRS, _PAIRS_ON_CPU = 1 << 25, 1 << 19
"""The most products that are computed at once; on a CPU few enough for its cache."""
_GROUP = 32
"""The rows of which `largest` takes the maximum first."""


def most_similar(rows: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the index (N,) int64 in table (K, D) of the largest dot product with each row (N, D).

    `bias` (K,) is added to the products. Of equal ones the first counts. Rows are taken in parts, so that
    memory does not grow with N * K.
    """
    codes = []
    for part in in_parts(rows, len(table)):
        products = similarities(table, part)
        codes.append(largest(products if bias is None else products.add_(bias[:, None])))
    return torch.cat(codes)


def in_parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Yield rows (N, D) in parts of which a table of `size` vectors makes a bounded number of products."""
    pairs = _PAIRS_ON_CPU if rows.device.type == "cpu" else _PAIRS
    yield from torch.split(rows, max(1, pairs // size))


@torch.no_grad()
def similarities(table: Tensor, rows: Tensor) -> Tensor:
    """Return the dot products (K, n) of a table's vectors (K, D) with rows (n, D)."""
    return pointwise(table.contiguous(), rows)


def largest(scores: Tensor) -> Tensor:
    """Return `scores.argmax(0)` of scores (K, n), the first of equal ones, as (n,) int64.

    On a CPU torch looks for it number by number. Here it compares whole rows to the maximum of each group of
    rows, and looks for the place in the group that has the largest.
    """
    size, count = scores.shape
    if scores.device.type != "cpu" or size <= _GROUP:
        return scores.argmax(0)
    whole = size // _GROUP * _GROUP
    maxima = [scores[:whole].view(-1, _GROUP, count).amax(1)]
    if whole < size:
        maxima.append(scores[whole:].amax(0, keepdim=True))
    group = torch.cat(maxima).T.contiguous().argmax(1)
    # subtle: beyond the end the last row stands again, which is never the first of equal ones
    within = (group[:, None] * _GROUP + torch.arange(_GROUP)).clamp_max(size - 1)
    place = scores[within, torch.arange(count)[:, None]].argmax(1)
    return group * _GROUP + place
