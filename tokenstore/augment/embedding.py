"""Codes to the vectors of a codebook."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.errors import CodecError

__all__ = ["Codebook", "CodebookEmbedding", "check_codes"]

Codebook: TypeAlias = Tensor | npt.NDArray[Any]
"""Vectors (K, C)."""


class CodebookEmbedding(nn.Module):
    """Embeddings (B, C, *grid) float32, channel-first, of codes (B, *grid) of any integer dtype.

    `codebook` is (K, C); it is copied and stays as it is, a buffer without gradient. On the CPU a code out of
    range raises CodecError; other devices, which are not waited for, answer it in torch's way. Raises
    CodecError for codes that are no integers.
    """

    codebook: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook_vectors(codebook))

    def forward(self, codes: Tensor) -> Tensor:
        check_dtype(codes)
        if codes.device.type == "cpu":
            check_codes(codes, len(self.codebook))
        return F.embedding(codes.long(), self.codebook).movedim(-1, 1).contiguous()

    def extra_repr(self) -> str:
        return "{} codes of {} channels".format(*self.codebook.shape)


def codebook_vectors(codebook: Codebook) -> Tensor:
    """A copy (K, C) float32 of a codebook's vectors; raises ValueError where they have another shape."""
    if isinstance(codebook, np.ndarray):
        codebook = torch.from_numpy(np.array(codebook, np.float32))
    vectors = codebook.detach().to(torch.float32, copy=True).contiguous()
    if vectors.ndim != 2 or not vectors.numel():
        raise ValueError(f"codebook: expected vectors (K, C), found shape {tuple(vectors.shape)}")
    return vectors


def check_dtype(codes: Tensor) -> None:
    """Raises CodecError unless codes are integers."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise CodecError(f"expected codes of an integer dtype, found {codes.dtype}")


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Raises CodecError, naming the first one, where codes (B, *grid) are not in 0..codebook_size - 1."""
    wide = codes.long()
    wrong = (wide < 0) | (wide >= codebook_size)
    if wrong.any():
        sample, *position = (int(at) for at in wrong.nonzero()[0])
        raise CodecError(
            f"sample {sample} of the batch, position {tuple(position)}: expected a code from 0 to "
            f"{codebook_size - 1}, found {int(wide[sample, *position])}; look codes up in the codebook of "
            "the tokenizer that made them"
        )
