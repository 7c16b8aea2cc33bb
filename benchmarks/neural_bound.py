"""A bound for context models: the bits that a small neural network needs for a code, given its neighbours.

A network like this is too slow to be a codec; it says how much there is to gain. Its cross-entropy alone
counts, not the bytes of its weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = 16
_BATCH = 4096
_LEARNING_RATE = 8e-3
_WARM_UP = 0.05
_WEIGHT_DECAY = 0.1
_DROPOUT = 0.1
_NEIGHBOUR_DROPOUT = 0.05
# Vectors as large as nn.Embedding draws them cost 0.06 bits on real codes.
_EMBEDDING_SCALE = 0.05
_HIDDEN, _EMBEDDING = 192, 32
_PREVIOUS = 6
"""Neighbours of a code."""


@dataclass(frozen=True)
class Contexts:
    """Codes with a margin of one code more around them, and where each code and its neighbours lie."""

    outside: int
    padded: Tensor
    positions: Tensor
    neighbours: Tensor
    """Steps from a code to its neighbours, all of them before it."""

    @classmethod
    def of(cls, codes: npt.NDArray[Any], outside: int) -> Contexts:
        """Pad codes and list their neighbours.

        Codes (n, L) have the six before as neighbours. Codes (n, *, H, W) have left, up, up-left, up-right,
        two to the left and two up.
        """
        if codes.ndim == 2:
            margins, steps = ((0, 0), (_PREVIOUS, 0)), np.arange(-1, -1 - _PREVIOUS, -1)
        else:
            codes = codes.reshape(-1, *codes.shape[-2:])
            row = codes.shape[2] + 3
            margins, steps = ((0, 0), (2, 0), (2, 1)), np.array([-1, -row, -row - 1, -row + 1, -2, -2 * row])
        padded = np.pad(codes.astype(np.int32), margins, constant_values=outside).reshape(-1)
        inside = np.flatnonzero(padded != outside)
        return cls(outside, *map(torch.from_numpy, (padded, inside, steps)))

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return neighbours (B, 6) and codes (B,) at some of the positions."""
        at = self.positions[positions]
        return self.padded[at[:, None] + self.neighbours].long(), self.padded[at].long()


class NeighbourNetwork(nn.Module):
    """Logits of a code (B, K) from its neighbours (B, 6), each looked up in a table of its own."""

    def __init__(self, codebook_size: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.tables = nn.Embedding(_PREVIOUS * (codebook_size + 1), embedding)
        nn.init.normal_(self.tables.weight, std=_EMBEDDING_SCALE)
        self.hidden = nn.Linear(_PREVIOUS * embedding, hidden)
        self.dropout = nn.Dropout(_DROPOUT)
        self.logits = nn.Linear(hidden, codebook_size)
        self.register_buffer("first", torch.arange(_PREVIOUS) * (codebook_size + 1))

    def forward(self, neighbours: Tensor) -> Tensor:
        """Return logits (B, K) of neighbours (B, 6)."""
        vectors = self.tables(neighbours + self.first).flatten(1)
        return self.logits(self.dropout(F.gelu(self.hidden(vectors))))


def neural_bound_bits(
    fit_codes: npt.NDArray[Any],
    score_codes: npt.NDArray[Any],
    codebook_size: int,
    epochs: int = EPOCHS,
    seed: int = 0,
    threads: int = 1,
    note: Callable[[str], None] = print,
) -> float:
    """Return the bits a code of `score_codes` under a network fitted to `fit_codes`, both (n, *grid).

    Axes of the grid before its last two are taken for further samples. No choice is made by `score_codes`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = NeighbourNetwork(codebook_size, _HIDDEN, _EMBEDDING)
            _fit(network, Contexts.of(fit_codes, codebook_size), epochs, note)
        bits = _score(network, Contexts.of(score_codes, codebook_size))
    finally:
        torch.set_num_threads(before)
    note(f"neural bound: {bits:.3f} bits on the codes scored")
    return bits


def _fit(network: NeighbourNetwork, contexts: Contexts, epochs: int, note: Callable[[str], None]) -> None:
    count = len(contexts.positions)
    steps = epochs * -(-count // _BATCH)
    warm_up = max(1, round(_WARM_UP * steps))
    optimiser = torch.optim.AdamW(
        network.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, (1 + math.cos(math.pi * step / steps)) / 2)
    )
    weights = sum(weight.numel() for weight in network.parameters())
    note(f"neural bound: {weights:,} weights, {count:,} codes, {epochs} epochs of {steps // epochs:,} steps")
    started = time.perf_counter()
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for positions in torch.randperm(count).split(_BATCH):
            neighbours, codes = contexts.batch(positions)
            hidden = torch.rand(neighbours.shape) < _NEIGHBOUR_DROPOUT
            neighbours[hidden] = contexts.outside
            loss = F.cross_entropy(network(neighbours), codes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(positions)
        bits, seconds = total / count / math.log(2), time.perf_counter() - started
        note(f"neural bound: epoch {epoch + 1} of {epochs}, {bits:.3f} bits while fitting, {seconds:.0f} s")


@torch.inference_mode()
def _score(network: NeighbourNetwork, contexts: Contexts) -> float:
    network.eval()
    count = len(contexts.positions)
    total = 0.0
    for positions in torch.arange(count).split(_BATCH):
        neighbours, codes = contexts.batch(positions)
        total += F.cross_entropy(network(neighbours), codes, reduction="sum").item()
    return total / count / math.log(2)
