"""A tokenizer as conversion uses it: arrays of pixels in, arrays of codes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.base import Tokenizer


class Encoder:
    """A tokenizer at one image size: pixels (n, H, W, 3) uint8 to codes (n, *grid)."""

    def __init__(self, tokenizer: Tokenizer, image_size: int | None) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size or tokenizer.image_size
        self.grid = tokenizer.grid((3, self.image_size, self.image_size))
        self.dtype = code_dtype(max(tokenizer.codebook_sizes))

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        codes = self.tokenizer.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2)).cpu().numpy()
        expected, size = (len(pixels), *self.grid), max(self.tokenizer.codebook_sizes)
        if codes.shape != expected or codes.min() < 0 or codes.max() >= size:
            raise TokenizerError(
                f"{self.tokenizer.name}: expected codes {expected} from 0 to {size - 1}, "
                f"found {codes.shape} from {codes.min()} to {codes.max()}"
            )
        return codes.astype(self.dtype)
