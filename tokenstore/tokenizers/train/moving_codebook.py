"""The codebook that follows the encoder's vectors while it trains, and loses no code."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tokenstore.tokenizers.train.kmeans import spherical_kmeans
from tokenstore.tokenizers.train.models import VQModel

__all__ = ["ClosedMovingCodebook", "MovingCodebook", "moving_codebook"]


class MovingCodebook:
    """The moving averages of the latents assigned to each code, from which a codebook is updated in place.

    The method is that of van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, appendix A.1; all
    vectors are of length one. A code used less than `restart_share` of the mean use starts again from a
    vector of the batch.
    """

    def __init__(self, codebook: Tensor, decay: float, restart_share: float) -> None:
        self.codebook, self.decay, self.restart_share = codebook, decay, restart_share
        self.sums = codebook.clone()
        self.counts = torch.ones(len(codebook), device=codebook.device)

    def start_from(self, rows: Tensor, generator: torch.Generator) -> None:
        """Replace the codebook by one of spherical k-means over latents (N, D)."""
        codebook = self._start(rows, generator)
        self.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1.0)

    def update(self, rows: Tensor, codes: Tensor, generator: torch.Generator, *, restart: bool) -> None:
        """Move the codebook towards latents (N, D) with their codes (N,); `restart` unused codes."""
        size = len(self.codebook)
        per_code = size / len(rows)  # so that counts are about 1 whatever the batch
        counts = torch.bincount(codes, minlength=size).float() * per_code
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rows) * per_code
        self._move(sums, counts)
        if restart:
            self._restart((self.counts < self.restart_share).nonzero()[:, 0], rows, generator)
        self.codebook.copy_(self._closed(self.sums))

    def _start(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return spherical_kmeans(rows, len(self.codebook), generator)

    def _move(self, sums: Tensor, counts: Tensor) -> None:
        """Take the sums (K, D) and counts (K,) of one batch into the moving averages."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)

    def _restart(self, dead: Tensor, rows: Tensor, generator: torch.Generator) -> None:
        """Start the codes `dead` again, each from one of the rows."""
        fresh = torch.randint(len(rows), (len(dead),), generator=generator).to(rows.device)
        self.sums[dead], self.counts[dead] = rows[fresh], 1.0

    def _closed(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1)


class ClosedMovingCodebook(MovingCodebook):
    """A moving codebook that stays closed under the exchange of the halves of its vectors.

    `partners` (K,) has the code of each code's exchanged vector. A latent counts for its code and, exchanged,
    for the partner. `closed` makes vectors (K, D) a codebook. Partners die and start again together.
    """

    def __init__(
        self,
        codebook: Tensor,
        decay: float,
        restart_share: float,
        partners: Tensor,
        closed: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(codebook, decay, restart_share)
        self.partners, self._close = partners, closed
        codes = torch.arange(len(partners), device=partners.device)
        self._alone, self._firsts = codes[partners == codes], codes[partners > codes]

    @override
    def _start(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return a start by two k-means: the most symmetric latents for codes alone, all others for pairs.

        The others are folded: exchanged where that makes their greatest antisymmetric part positive, so that
        a vector and its exchanged one are not learned twice.
        """
        vectors = torch.empty_like(self.codebook)
        odd = rows - exchanged(rows)
        order = odd.square().sum(1).argsort()
        share = round(len(rows) * len(self._alone) / len(self.codebook))
        least = max(share, min(len(rows), len(self._alone)))
        symmetric = rows[order[:least]]
        symmetric = F.normalize(symmetric + exchanged(symmetric), dim=1)
        vectors[self._alone] = spherical_kmeans(symmetric, len(self._alone), generator)
        if len(self._firsts):
            others = order[share:]
            direction = odd[others].square().mean(0).argmax()
            is_folded = odd[others, direction] < 0
            folded = torch.where(is_folded[:, None], exchanged(rows[others]), rows[others])
            pairs = spherical_kmeans(folded, len(self._firsts), generator)
            vectors[self._firsts], vectors[self.partners[self._firsts]] = pairs, exchanged(pairs)
        return self._closed(vectors)

    @override
    def _move(self, sums: Tensor, counts: Tensor) -> None:
        super()._move(
            (sums + exchanged(sums)[self.partners]) / 2, (counts + counts[self.partners]) / 2
        )  # subtle: sums of two numbers are the same in both orders, so partners stay so to the last bit

    @override
    def _restart(self, dead: Tensor, rows: Tensor, generator: torch.Generator) -> None:
        first = dead[self.partners[dead] >= dead]
        super()._restart(first, rows, generator)
        other = self.partners[first]
        alone = first[other == first]
        self.sums[alone] = (self.sums[alone] + exchanged(self.sums[alone])) / 2
        self.sums[other], self.counts[other] = exchanged(self.sums[first]), 1.0

    @override
    def _closed(self, vectors: Tensor) -> Tensor:
        return self._close(vectors)


def exchanged(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) with their halves exchanged."""
    return vectors.roll(vectors.shape[-1] // 2, -1)


def moving_codebook(model: VQModel, decay: float, restart_share: float) -> MovingCodebook:
    """Return the moving codebook of a model, closed where the model's is."""
    if model.partners is None:
        return MovingCodebook(model.codebook, decay, restart_share)
    return ClosedMovingCodebook(model.codebook, decay, restart_share, model.partners, model.closed)
