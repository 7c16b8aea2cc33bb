"""The vectors of tokens that are not one code each: several codes of a position, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.codebooks import check_codes, check_dtype
from tokenstore.augment.embedding import TokenVectors, deviation_of
from tokenstore.augment.requantise import Requantise
from tokenstore.errors import did_you_mean

__all__ = ["Combination", "NumberVectors", "RequantiseSeveral", "SeveralCodebooks"]

Combination: TypeAlias = Literal["sum", "concatenate"]
"""The ways in which the vectors of a position's codes become one."""


class SeveralCodebooks(TokenVectors):
    """The lookup of n codes a position: codes (B, n, *grid) to embeddings (B, C, *grid) float32.

    `codebooks` (n, K, D) are copied to a buffer; `sizes` are the codes of each, by default K. By "sum" the
    vectors of a position are added, as those of residual codebooks are, and C is D. By "concatenate" each has
    channels of its own, and C is n * D. Raises ValueError for codebooks of another rank, sizes that do not
    fit, and another combination.
    """

    codebooks: Tensor

    def __init__(
        self, codebooks: Tensor, sizes: Sequence[int] | None = None, combination: Combination = "sum"
    ) -> None:
        super().__init__()
        tables = torch.as_tensor(codebooks).detach().to(torch.float32, copy=True).contiguous()
        if tables.ndim != 3 or not tables.numel():
            raise ValueError(f"codebooks: expected vectors (n, K, D), found shape {tuple(tables.shape)}")
        self.codebook_sizes = (tables.shape[1],) * len(tables) if sizes is None else tuple(sizes)
        if len(self.codebook_sizes) != len(tables) or not all(
            0 < size <= tables.shape[1] for size in self.codebook_sizes
        ):
            raise ValueError(
                f"sizes: expected {len(tables)} numbers of codes up to {tables.shape[1]}, found {sizes}"
            )
        if combination not in get_args(Combination):
            near = did_you_mean(combination, get_args(Combination))
            raise ValueError(
                f"combination: expected one of {list(get_args(Combination))}, found {combination!r}{near}"
            )
        self.combination = combination
        self.register_buffer("codebooks", tables)

    @property
    @override
    def channels(self) -> int:
        count, _, length = self.codebooks.shape
        return length if self.combination == "sum" else count * length

    @property
    def tables(self) -> list[Tensor]:
        """The vectors (K, D) of each codebook, without those that fill up shorter ones."""
        return [table[:size] for table, size in zip(self.codebooks, self.codebook_sizes, strict=True)]

    @property
    @override
    def deviation(self) -> float:
        deviations = [deviation_of(table) for table in self.tables]
        if self.combination == "sum":  # of independent numbers
            return float(torch.tensor(deviations).square().sum().sqrt())
        return deviation_of(torch.cat([table.flatten() for table in self.tables]))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the embeddings of codes, channel-first.

        Raises CodecError for codes that are not integers and, on the CPU, for a code out of range; ValueError
        for another number of codebooks.
        """
        check_dtype(codes)
        count = len(self.codebook_sizes)
        if codes.ndim < 3 or codes.shape[1] != count:
            raise ValueError(
                f"expected codes (B, {count}, *grid) of {count} codebooks, found {tuple(codes.shape)}"
            )
        if codes.device.type == "cpu":
            for plane, size in zip(codes.unbind(1), self.codebook_sizes, strict=True):
                check_codes(plane, size)
        vectors = [
            F.embedding(plane.long(), table).movedim(-1, 1)
            for plane, table in zip(codes.unbind(1), self.codebooks, strict=True)
        ]
        if self.combination == "concatenate":
            return torch.cat(vectors, 1)
        return torch.stack(vectors).sum(0)

    @override
    def requantiser(self) -> RequantiseSeveral:
        """Return the module that gives the codes of the nearest vectors, by Euclidean distance."""
        return RequantiseSeveral(self)

    @override
    def read_out(self) -> tuple[Tensor, Tensor, float]:
        """Return a read-out by Euclidean distance, over the usual length of an embedding."""
        tables, count = self.tables, len(self.tables)
        length = float(sum(table.square().sum(1).mean() for table in tables)) ** 0.5
        rows = torch.cat(tables)
        biases = -rows.square().sum(1) / 2
        if self.combination == "concatenate":  # each codebook's in channels of its own
            own = [
                F.pad(table, (number * table.shape[1], (count - 1 - number) * table.shape[1]))
                for number, table in enumerate(tables)
            ]
            rows = torch.cat(own)
        return rows / length, biases / length, length

    @override
    def extra_repr(self) -> str:
        count, size, length = self.codebooks.shape
        return f"{count} codebooks of up to {size} codes of {length} channels, {self.combination}"


class RequantiseSeveral(nn.Module):
    """The way from embeddings (B, C, *grid) back to codes (B, n, *grid) int64 of several codebooks.

    Each codebook gives the code nearest in Euclidean distance: of its own channels, or, where vectors are
    added, of what the codebooks before it left, as residual quantisers do.
    """

    def __init__(self, vectors: SeveralCodebooks) -> None:
        super().__init__()
        self.adds = vectors.combination == "sum"
        self.channels = vectors.channels
        self.nearest = nn.ModuleList(Requantise(table, "euclidean") for table in vectors.tables)

    @torch.no_grad()
    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the nearest codes. Raises ValueError for embeddings of another shape."""
        if embeddings.ndim < 2 or embeddings.shape[1] != self.channels:
            raise ValueError(
                f"expected embeddings (B, {self.channels}, *grid), found {tuple(embeddings.shape)}"
            )
        if not self.adds:
            parts = embeddings.chunk(len(self.nearest), 1)
            return torch.stack([near(part) for near, part in zip(self.nearest, parts, strict=True)], 1)
        rest, planes = embeddings.float(), []
        for near in self.nearest:
            planes.append(near(rest))
            rest = rest - F.embedding(planes[-1], near.codebook).movedim(-1, 1)  # type: ignore[arg-type]
        return torch.stack(planes, 1)


class NumberVectors(TokenVectors):
    """Tokens that are numbers (B, C, *grid) already, scaled to a root mean square of about 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.codebook_sizes = ()
        self._channels = channels

    @property
    @override
    def channels(self) -> int:
        return self._channels

    @property
    @override
    def deviation(self) -> float:
        return 1.0

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the numbers as they are; raises ValueError for others than floats (B, C, *grid)."""
        if not numbers.is_floating_point() or numbers.ndim < 3 or numbers.shape[1] != self._channels:
            raise ValueError(
                f"expected floats (B, {self._channels}, *grid), found {tuple(numbers.shape)} {numbers.dtype}"
            )
        return numbers

    @override
    def requantiser(self) -> None:
        """Return None: numbers are not quantised."""
        return

    @override
    def read_out(self) -> tuple[Tensor, Tensor, float]:
        """Return the identity."""
        return torch.eye(self._channels), torch.zeros(self._channels), self._channels**0.5

    @override
    def extra_repr(self) -> str:
        return f"{self._channels} channels"
