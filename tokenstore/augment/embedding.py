"""The lookup of codes in a codebook, which gives embeddings."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.errors import CodecError

__all__ = ["Codebook", "CodebookEmbedding", "check_codes"]

Codebook: TypeAlias = Tensor | npt.NDArray[Any]
"""The vectors (K, C) of a codebook."""


class CodebookEmbedding(nn.Module):
    """The lookup of codes (B, *grid) of any integer dtype: embeddings (B, C, *grid) float32.

    `codebook` (K, C) is copied to a buffer, which has no gradient. Raises ValueError for a codebook of
    another rank, and for None.
    """

    codebook: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook_vectors(codebook))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the embeddings of codes, channel-first.

        Raises CodecError for codes that are not integers and, on the CPU, for a code out of range. Other
        devices report a code out of range in torch's way, since a check would wait for the device.
        """
        check_dtype(codes)
        if codes.device.type == "cpu":
            check_codes(codes, len(self.codebook))
        return F.embedding(codes.long(), self.codebook).movedim(-1, 1).contiguous()

    @override
    def extra_repr(self) -> str:
        return "{} codes of {} channels".format(*self.codebook.shape)


def codebook_vectors(codebook: Codebook | None) -> Tensor:
    """Return a copy (K, C) float32 of a codebook's vectors.

    Raises ValueError for another rank, and for None, which a store without vectors has as its codebook.
    """
    if codebook is None:
        raise ValueError(
            "codebook: expected vectors (K, C), found None: the tokenizer has no vectors, or they were not "
            "stored. Ready codes are converted with theirs by convert(codebook=...)"
        )
    if isinstance(codebook, np.ndarray):
        codebook = torch.from_numpy(np.array(codebook, np.float32))
    vectors = codebook.detach().to(torch.float32, copy=True).contiguous()
    if vectors.ndim != 2 or not vectors.numel():
        raise ValueError(f"codebook: expected vectors (K, C), found shape {tuple(vectors.shape)}")
    return vectors


def check_dtype(codes: Tensor) -> None:
    """Raise CodecError unless codes are integers."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise CodecError(f"expected codes of an integer dtype, found {codes.dtype}")


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Raise CodecError, which names the first, where codes (B, *grid) are not in 0..codebook_size - 1."""
    wide = codes.long()
    wrong = (wide < 0) | (wide >= codebook_size)
    if wrong.any():
        sample, *position = (int(at) for at in wrong.nonzero()[0])
        raise CodecError(
            f"sample {sample} of the batch, position {tuple(position)}: expected a code from 0 to "
            f"{codebook_size - 1}, found {int(wide[sample, *position])}; look codes up in the codebook of "
            "the tokenizer that made them"
        )
