"""What a tokenizer is: images (or any other array) to grids of codes, and back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch


class Tokenizer(Protocol):
    """Turns a batch of inputs into codes and codes back into inputs.

    The grid of one sample has any rank: (H, W) for images, (L,) for lists of tokens, (T, H, W) for
    video, and (n, ...) with the codebook as first axis where a position has n > 1 codes.
    """

    @property
    def name(self) -> str:
        """The name that goes into a store's manifest."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the weights, the codebook and all that decides codes."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook: (K,), or one number for each of several codebooks."""

    @property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The codebook's vectors, (K, D) or (n, K, D); None for a tokenizer without vectors."""

    @property
    def image_size(self) -> int:
        """The side in pixels that images are brought to unless the user says otherwise."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The grid of one sample's codes for one input, (3, H, W) for an image.

        Raises TokenizerError where inputs of that shape cannot be encoded.
        """

    def to(self, device: str | torch.device) -> Tokenizer:
        """The tokenizer on another device."""

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Codes (B, *grid) int64 of a batch; images are (B, 3, H, W) uint8."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Inputs (B, 3, H, W) uint8 for images, rebuilt from codes (B, *grid) of any integer dtype."""
