"""Token-EDA: for each sample synonyms, swapped patches, or neither.

SeiT, https://arxiv.org/abs/2303.11114, section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.geometry import probability
from tokenstore.augment.on_codes import PatchSwap, SynonymReplacement

__all__ = ["TokenEDA"]


class TokenEDA(nn.Module):
    """The replacement of codes by synonyms, or the swap of two patches, or neither, drawn for each sample.

    A sample (H, W) has synonyms with probability `synonym_p`, swapped patches with `swap_p`, and never both.
    `synonyms` (K, M) are as for `SynonymReplacement`; with None, for tokens that have no nearest codes, only
    patches are swapped. The patches' side is drawn from 0 to below a quarter of the grid's shorter side, 0 to
    7 of 32, as in the published runs. Raises ValueError for probabilities that are not from 0 to 1, or have a
    sum above 1, and as `SynonymReplacement` does.
    """

    def __init__(
        self, synonyms: Tensor | npt.NDArray[Any] | None, synonym_p: float = 0.25, swap_p: float = 0.25
    ) -> None:
        super().__init__()
        self.synonym_p, self.swap_p = probability("synonym_p", synonym_p), probability("swap_p", swap_p)
        if synonym_p + swap_p > 1:
            raise ValueError(f"expected probabilities with a sum up to 1, found {synonym_p} and {swap_p}")
        self.synonyms = None if synonyms is None else SynonymReplacement(synonyms)
        self.swap = PatchSwap(shortest=0)

    def forward(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the codes (B, ..., H, W). Raises CodecError as `SynonymReplacement` does."""
        chance = torch.rand(len(codes), generator=generator, device=generator.device)
        if self.synonyms is not None:
            codes = self.synonyms.replaced(codes, chance < self.synonym_p, generator)
        swaps = (chance >= self.synonym_p) & (chance < self.synonym_p + self.swap_p)
        return self.swap.swapped(codes, swaps, generator)

    @override
    def extra_repr(self) -> str:
        return f"synonym_p={self.synonym_p}, swap_p={self.swap_p}"
