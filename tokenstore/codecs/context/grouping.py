"""The order of codes in the tree: codes with like neighbours share its upper nodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context import gradients
from tokenstore.codecs.context.tree import CodeTree

Codes = npt.NDArray[Any]
GROUPING_DIMENSIONS = 16
"""The principal components that decide the order."""


def cooccurrence_vectors(
    flat: Codes, grid: tuple[int, ...], size: int, seed: int, dimensions: int = 32
) -> npt.NDArray[np.float64]:
    """Return vectors (K, D) that are alike for codes with like neighbours.

    They are a spectral embedding of the graph in which codes side by side in a sample are neighbours.
    """
    samples = flat.reshape(len(flat), *grid)
    pairs = []
    for axis in range(max(0, len(grid) - 2), len(grid)):
        if grid[axis] > 1:
            after = np.take(samples, range(1, grid[axis]), axis=axis + 1).ravel()
            before = np.take(samples, range(grid[axis] - 1), axis=axis + 1).ravel()
            pairs.append(np.stack([after, before]))
    degrees = np.ones(size)
    vectors = np.random.default_rng(seed).standard_normal((size, min(dimensions, size)))
    if not pairs:
        return np.bincount(flat.ravel(), minlength=size)[:, None].astype(np.float64)
    left, right = np.concatenate(pairs, axis=1).astype(np.int64)
    degrees += np.bincount(left, minlength=size) + np.bincount(right, minlength=size)
    scale = 1 / np.sqrt(degrees)
    basis = np.linalg.qr(vectors * np.sqrt(degrees)[:, None])[0]
    for _ in range(12):
        product = np.zeros_like(basis)
        gradients.spread(left, right, scale, basis, product)
        basis = np.linalg.qr(product + basis)[0]
    product = np.zeros_like(basis)
    gradients.spread(left, right, scale, basis, product)
    strength, turn = np.linalg.eigh(basis.T @ product)
    strength = np.sqrt(np.clip(strength, 0, None))
    embedding: npt.NDArray[np.float64] = (basis @ turn) * strength * scale[:, None] * math.sqrt(degrees.sum())
    return embedding


def grouped_order(vectors: npt.NDArray[np.floating], tree: CodeTree) -> npt.NDArray[np.uint32]:
    """Return the codes by rank (K,), ordered so that codes of like vectors (K, D) share upper nodes.

    Groups are halved along the direction in which they vary most, at multiples of the codes below a child.
    Only the vectors' first principal components count.
    """
    order: list[int] = []
    centred = vectors - vectors.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, -GROUPING_DIMENSIONS:]
    vectors = centred @ axes

    def split(codes: npt.NDArray[np.int64], level: int) -> None:
        if len(codes) <= 1 or level >= tree.levels - 1:  # the children of the last level have no order
            order.extend(codes.tolist())
            return
        below = tree.below(level)
        if len(codes) <= below:
            split(codes, level + 1)
            return
        half = -(-len(codes) // below) // 2 * below
        centred = vectors[codes] - vectors[codes].mean(axis=0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        direction = direction * np.sign(direction[np.abs(direction).argmax()] or 1)
        ranked = codes[np.argsort(centred @ direction, kind="stable")]
        split(ranked[:half], level)
        split(ranked[half:], level)

    split(np.arange(tree.size), 0)
    return np.array(order, np.uint32)
