"""The exact flip of codes, by the permutation that the codes of some tokenizers move by (FORMAT.md, M43)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.codebooks import check_codes, check_dtype
from tokenstore.augment.devices import to_device
from tokenstore.augment.geometry import flipped, probability
from tokenstore.format import FLIP, Symmetries

__all__ = ["ExactFlip"]


class ExactFlip(nn.Module):
    """A flip of each sample, left to right, with probability `p`: the codes of the mirrored image.

    Codes (B, H, W), or (B, n, H, W) of n codebooks, change places, and each becomes its partner by
    `permutation` (K,) or (n, K): `store.symmetries["flip"]`. Raises ValueError for a permutation that does
    not undo itself, or a probability that is not from 0 to 1.
    """

    partners: Tensor  # K, or n, K

    def __init__(self, permutation: Tensor | npt.NDArray[Any], p: float = 0.5) -> None:
        super().__init__()
        partners = torch.as_tensor(permutation).long().clone()
        if partners.ndim not in (1, 2) or not partners.numel() or not _undoes_itself(partners):
            raise ValueError(
                "permutation: expected the partner of each code, (K,) or (n, K), each the partner of its "
                f"own, found others of shape {tuple(partners.shape)}"
            )
        self.register_buffer("partners", partners)
        self.p = probability("p", p)

    @classmethod
    def of(cls, symmetries: Symmetries, p: float = 0.5) -> ExactFlip | None:
        """Return the flip of a store's `symmetries`; None if the codes have none for it."""
        return cls(torch.from_numpy(symmetries[FLIP].copy()), p) if FLIP in symmetries else None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the samples to flip as a mask (count,) bool on the generator's device."""
        return torch.rand(count, generator=generator, device=generator.device) < self.p

    def flipped(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Flip the samples of a mask (B,), and return all codes.

        Raises CodecError for codes that are not integers and, on the CPU, for one out of range; ValueError
        for another number of codebooks.
        """
        check_dtype(codes)
        count = 1 if self.partners.ndim == 1 else len(self.partners)
        if count > 1 and (codes.ndim < 3 or codes.shape[1] != count):
            raise ValueError(
                f"expected codes (B, {count}, ...) of {count} codebooks, found {tuple(codes.shape)}"
            )
        if codes.device.type == "cpu":
            check_codes(codes, self.partners.shape[-1])
        wide = codes.long()
        if self.partners.ndim == 1:
            partners = self.partners[wide]
        else:
            planes = zip(self.partners, wide.unbind(1), strict=True)
            partners = torch.stack([own[plane] for own, plane in planes], 1)
            if codes.device.type == "cpu":
                self._check_shorter(wide, partners)
        drawn = to_device(mask, codes.device).view(-1, *[1] * (codes.ndim - 1))
        return torch.where(drawn, partners.flip(-1), wide).to(codes.dtype)

    def _check_shorter(self, codes: Tensor, partners: Tensor) -> None:
        """Raise CodecError for a code beyond its own codebook, where that is shorter than others."""
        if (partners < 0).any():
            number = int((partners < 0).nonzero()[0][1])
            check_codes(codes[:, number], int((self.partners[number] >= 0).sum()))

    def flipped_labels(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Flip the label maps (B, h, w) of a mask (B,), which move with their codes, and return all."""
        return flipped(labels, to_device(mask, labels.device))

    def forward(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the codes, some of them flipped. Raises what `flipped` raises."""
        return self.flipped(codes, self.draw(len(codes), generator))

    @override
    def extra_repr(self) -> str:
        return f"{self.partners.shape[-1]} codes, p={self.p}"


def _undoes_itself(partners: Tensor) -> bool:
    """Return whether each row is a permutation that undoes itself; -1 may fill up shorter rows."""
    for row in partners.view(-1, partners.shape[-1]):
        own = row[: int((row >= 0).sum())]
        if not len(own) or int(own.max()) >= len(own) or bool((row[len(own) :] != -1).any()):
            return False
        if not torch.equal(own[own], torch.arange(len(own), device=own.device)):
            return False
    return True
