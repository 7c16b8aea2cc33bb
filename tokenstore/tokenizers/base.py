"""The protocols of tokenizers: images (or any other array) to grids of codes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from tokenstore.format import Column
from tokenstore.sources.images import Decoder, ImageOptions


class Tokenizer(Protocol):
    """A model that turns a batch of inputs into codes, and codes back into inputs.

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

    @property
    def device(self) -> torch.device:
        """The device that computes."""

    @property
    def dtype(self) -> torch.dtype | None:
        """The float type of the arithmetic that decides codes; None where codes are exact on any device."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of one sample's codes for the shape of one input, (3, H, W) for an image.

        Raises TokenizerError if inputs of that shape cannot be encoded.
        """

    def to(self, device: str | torch.device) -> Tokenizer:
        """Return the tokenizer on another device."""

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Encode a batch, images (B, 3, H, W) uint8, to codes (B, *grid) int64."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Rebuild inputs, images (B, 3, H, W) uint8, from codes (B, *grid) of any integer dtype."""


@runtime_checkable
class FileTokenizer(Tokenizer, Protocol):
    """A tokenizer that reads files rather than their pixels.

    `encode` takes the inputs that the decoder makes of files. `decode` takes the values of `columns` besides
    the codes, as arguments of those names, (B, *shape).
    """

    def decoder(self, options: ImageOptions) -> Decoder:
        """Return the decoder that turns a file into an input."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """The aligned arrays that a store has besides the codes."""

    def column_values(self, inputs: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the values (B, *shape) of each of `columns` for a batch of inputs."""
