"""The model that the trainer trains, as it sees it: an encoder, a codebook and a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tokenstore.tokenizers.image_tokenizer import ImageTokenizer

__all__ = ["VQConfig", "VQModel", "new_model"]


class VQConfig(Protocol):
    """The shape of a model: a frozen dataclass of JSON values."""

    @property
    def codebook_size(self) -> int:
        """The number of codes."""

    @property
    def image_size(self) -> int:
        """The side in pixels that photographs are brought to."""

    def build(self) -> Any:
        """Return a VQModel of this shape, with new weights."""


class VQModel(Protocol):
    """A torch module over pixels (B, 3, H, W) from -1 to 1; latents and vectors are of length one."""

    codebook: Tensor
    """The vectors (K, D), a buffer."""

    @property
    def partners(self) -> Tensor | None:
        """The code (K,) of each code's exchanged vector; None for a codebook without exchange."""

    def closed(self, vectors: Tensor) -> Tensor:
        """Return the codebook (K, D) that vectors (K, D) stand for."""

    def latents(self, pixels: Tensor) -> Tensor:
        """Return latents (B, D, h, w) of pixels."""

    def nearest(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) of latents."""

    def embed(self, codes: Tensor) -> Tensor:
        """Return vectors (B, D, h, w) of codes."""

    def pixels(self, embeddings: Tensor) -> Tensor:
        """Return pixels of vectors."""

    def save(self, path: Path) -> None:
        """Write the model to a weights file."""

    def tokenizer(self) -> ImageTokenizer:
        """Return the tokenizer of this model."""

    def parameters(self) -> Any:
        """Return the parameters, as a torch module does."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the codebook by name, as a torch module does."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take weights and codebook by name, as a torch module does."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Change whether gradients are computed, as a torch module does."""

    def eval(self) -> Self:
        """Change to evaluation, as a torch module does."""


def new_model(config: VQConfig, seed: int, device: torch.device) -> VQModel:
    """Return a model of a shape with initial weights that the seed decides, on a device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their initial weights from the global generator
        model: nn.Module = config.build()
    placed: Any = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    checked: VQModel = placed
    return checked
