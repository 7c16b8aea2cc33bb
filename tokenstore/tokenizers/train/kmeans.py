"""The k-means of codebooks: by Euclidean distance, and by cosine similarity over unit vectors.

The two are not one function. They draw differently from their generators (one draw a vector from running
sums, one `multinomial` a vector), and codebooks that were learned with either have to come out the same
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenstore.tokenizers.quantisers import nearest

__all__ = ["OnSteps", "kmeans", "kmeans_start", "spherical_kmeans"]

START_VECTORS = 8
"""The vectors for each code that k-means++ chooses from, if MOST_START_VECTORS allow so many."""
MOST_START_VECTORS = 1 << 16
"""The most vectors that k-means++ chooses from."""
DEAD_SHARE = 10
"""A code is dead when its share of vectors is this many times less than an even share."""
SETTLING = 10
"""In the last of so many parts of all steps, no dead code starts again."""
SLOWING = 30
"""The steps after which the means go over twice as many batches as at first, then three times, and so on."""
SMALLEST = 1e-12
"""The count of vectors below which a code keeps its vector."""
REPORTED_VECTORS = 256
"""The first vectors that are chosen between two calls of the progress callback."""
SPHERICAL_ROUNDS = 5
"""The rounds of spherical k-means."""
SPHERICAL_START_VECTORS = 64
"""The vectors for each code that spherical k-means uses, a random part of all."""
BLOCK_NUMBERS = 2**25
"""The most similarities that are computed at once."""

OnSteps: TypeAlias = Callable[[int, int], None]
"""A progress callback: called with the steps done and all steps."""


def _silence(*_: object) -> None: ...


def kmeans_start(rows: Tensor, size: int, generator: torch.Generator, on_steps: OnSteps = _silence) -> Tensor:
    """Choose vectors (size, D) far from each other by k-means++, from a random part of rows (N, D)."""
    count = max(size, min(START_VECTORS * size, MOST_START_VECTORS))
    part = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    draws = torch.rand(size, generator=generator).to(rows.device)
    vectors = [part[0]]
    distance = (part - vectors[0]).square().sum(1)
    for number in range(1, size):
        vectors.append(part[_weighted(distance, draws[number : number + 1])[0]])
        distance = distance.minimum((part - vectors[-1]).square().sum(1))
        if number % REPORTED_VECTORS == 0:
            on_steps(number, size)
    return torch.stack(vectors)


def _weighted(weights: Tensor, draws: Tensor) -> Tensor:
    """Return indices (n,) drawn in proportion to weights (N,), from draws (n,) in [0, 1)."""
    sums = weights.cumsum(0)
    return torch.searchsorted(sums, draws * sums[-1], right=True).clamp_max(len(weights) - 1)


def kmeans(
    rows: Tensor,
    table: Tensor,
    iterations: int,
    batch_size: int,
    generator: torch.Generator,
    on_steps: OnSteps = _silence,
) -> Tensor:
    """Refine a codebook `table` (K, D) towards a small mean squared error over rows (N, D), and return it.

    Each step takes a batch. A code is the mean of the vectors nearest to the code, over ever more of the
    latest batches. A code without such vectors for long starts again at a vector far from its code.
    """
    size, table = len(table), table.clone()
    sums, counts = torch.zeros_like(table), table.new_zeros(size)
    idle, patience = torch.zeros_like(counts), -(-DEAD_SHARE * size // min(batch_size, len(rows)))
    for step in range(iterations):
        batch = rows
        if batch_size < len(rows):
            batch = rows[torch.randint(len(rows), (batch_size,), generator=generator).to(rows.device)]
        codes = nearest(batch, table)
        uses = torch.bincount(codes, minlength=size)
        memory = 1 - 1 / (1 + step / SLOWING)
        sums.mul_(memory).index_add_(0, codes, batch)
        counts.mul_(memory).add_(uses)
        table = torch.where(counts[:, None] > SMALLEST, sums / counts[:, None], table)
        idle = torch.where(uses > 0, 0, idle + 1)
        dead = (idle >= patience).nonzero()[:, 0]
        if len(dead) and step < iterations - iterations // SETTLING:
            draws = torch.rand(len(dead), generator=generator).to(rows.device)
            table[dead] = batch[_weighted((batch - table[codes]).square().sum(1), draws)]
            sums[dead], counts[dead], idle[dead] = table[dead], 1.0, 0.0
        on_steps(step + 1, iterations)
    codes = nearest(rows, table)
    counts = torch.bincount(codes, minlength=size)[:, None]
    means = torch.zeros_like(table).index_add_(0, codes, rows) / counts
    return torch.where(counts > 0, means, table)


def spherical_kmeans(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return unit vectors (size, D) for unit vectors `rows` (N, D), from a start by k-means++."""
    thinned = torch.randperm(len(rows), generator=generator)[: SPHERICAL_START_VECTORS * size]
    rows = rows[thinned.to(rows.device)]
    block = max(1, BLOCK_NUMBERS // size)
    first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    vectors = [rows[first]]
    distance = 1 - (rows @ vectors[0].T)[:, 0]
    for _ in range(size - 1):
        weights = distance.clamp_min(1e-9).cpu()  # subtle: the generator is one of the CPU
        pick = torch.multinomial(weights, 1, generator=generator).to(rows.device)
        vectors.append(rows[pick])
        distance = torch.minimum(distance, 1 - (rows @ rows[pick].T)[:, 0])
    codebook = torch.cat(vectors)
    for _ in range(SPHERICAL_ROUNDS):
        codes = torch.cat([(part @ codebook.T).argmax(1) for part in torch.split(rows, block)])
        sums = torch.zeros_like(codebook).index_add_(0, codes, rows)
        codebook = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), codebook)
    return codebook
