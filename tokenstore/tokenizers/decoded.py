"""Codes to pixels, as arrays: the one way from stored codes to the images that a tokenizer gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.base import Tokenizer

__all__ = ["decoded_images"]


def decoded_images(
    tokenizer: Tokenizer, codes: npt.NDArray[Any], beside: Mapping[str, npt.NDArray[Any]] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode codes (B, *grid) to images (B, H, W, 3) uint8, or to video (B, T, H, W, 3).

    `beside` are the aligned columns that the tokenizer keeps beside the codes, if any. Raises TokenizerError
    if decoding gives anything but such images.
    """
    columns = {name: torch.from_numpy(values) for name, values in (beside or {}).items()}
    images = tokenizer.decode(torch.from_numpy(codes.astype(np.int64)), **columns)
    if not isinstance(images, torch.Tensor):
        raise TokenizerError(
            f"{tokenizer.name}: expected images as a torch.Tensor of decoding, found {type(images).__name__}"
        )
    if images.dtype != torch.uint8 or images.ndim not in (4, 5) or images.shape[-3] != 3:
        raise TokenizerError(
            f"{tokenizer.name}: expected images (B, 3, H, W) or video (B, T, 3, H, W) uint8 of decoding, "
            f"found {tuple(images.shape)} {images.dtype}"
        )
    pixels: npt.NDArray[np.uint8] = images.movedim(-3, -1).cpu().numpy()
    return pixels
