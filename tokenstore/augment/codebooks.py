"""A codebook's vectors as a table, and the checks of the codes that are looked up in it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.errors import CodecError

__all__ = ["Codebook", "check_codes", "check_dtype", "codebook_vectors"]

Codebook: TypeAlias = Tensor | npt.NDArray[Any]
"""The vectors (K, C) of a codebook."""


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
