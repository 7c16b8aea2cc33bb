"""The base of tokenizers of RGB images: their checks, and passes of one constant size."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.passes import (
    ACCELERATOR_BATCH,
    Pass,
    compiled_pass,
    full_passes,
    lay_weights,
    on_threads,
    refuse_compiling,
)


class ImageTokenizer(ABC):
    """A tokenizer over a torch network, for images whose sides are multiples of `stride`.

    A kind of tokenizer implements `encode_pass` and `decode_pass`. Codes don't depend on the batch of an
    image: a pass always has the same number of images, one on a CPU, where passes run side by side on as many
    threads as torch has.
    """

    name: str
    fingerprint: str
    codebook_sizes: tuple[int, ...]
    codebook: npt.NDArray[np.float32] | None
    image_size: int
    stride: int
    """The side in pixels of the part of an image that is one position of the grid."""
    compiles: bool = True
    """False for a tokenizer whose codes no network computes that torch could compile."""
    accelerator_batch: int = ACCELERATOR_BATCH
    """The inputs of one pass on a GPU."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self._threads = torch.get_num_threads()
        self._backend: str | None = None
        self._compiled: dict[str, Pass] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": {}}  # compiled functions belong to a process, and to this network

    @abstractmethod
    def encode_pass(self, images: Tensor) -> Tensor:
        """Encode images (b, 3, H, W) uint8 on the tokenizer's device to codes (b, *grid) int64."""

    @abstractmethod
    def decode_pass(self, codes: Tensor) -> Tensor:
        """Rebuild images (b, 3, H, W) uint8 from codes (b, *grid) int64, on the tokenizer's device."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self._a_weight.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The float type of the weights."""
        return self._a_weight.dtype

    @property
    def _a_weight(self) -> Tensor:
        tensors: Mapping[str, Tensor] = self.network.state_dict()
        return next(tensor for tensor in tensors.values() if tensor.is_floating_point())

    def to(self, device: str | torch.device) -> Self:
        """Return the tokenizer on another device."""
        tokenizer = copy.copy(self)
        tokenizer.network = copy.deepcopy(self.network).to(device)
        lay_weights(tokenizer.network, torch.device(device))
        return tokenizer

    @property
    def is_compiled(self) -> bool:
        """True for a tokenizer that `compiled` returned."""
        return self._backend is not None

    def compiled(self, backend: str = "inductor") -> Self:
        """Return the tokenizer with its network compiled by torch.compile, for a `backend` of torch.

        A network is compiled when it is first used, for each size of images, which takes seconds to minutes.
        A few codes may differ from those of the plain network, by rounding.

        Raises TokenizerError for a tokenizer that `compiles` is False of.
        """
        if not self.compiles:
            refuse_compiling(self.name)
        tokenizer = copy.copy(self)
        tokenizer._backend = backend
        return tokenizer

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of an image (3, H, W); raise TokenizerError if it cannot be encoded."""
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise TokenizerError(
                f"{self.name}: expected an image (3, H, W), found shape {tuple(input_shape)}"
            )
        if any(side < self.stride or side % self.stride for side in input_shape[1:]):
            height, width = (max(round(side / self.stride), 1) * self.stride for side in input_shape[1:])
            raise TokenizerError(
                f"{self.name}: expected height and width to be multiples of {self.stride}, found "
                f"{tuple(input_shape[1:])}; resize to {height}x{width} or crop"
            )
        positions = tuple(side // self.stride for side in input_shape[1:])
        return positions if len(self.codebook_sizes) == 1 else (len(self.codebook_sizes), *positions)

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) uint8 to codes (B, *grid) int64; raise TokenizerError otherwise."""
        if inputs.dtype != torch.uint8 or inputs.ndim != 4:
            raise TokenizerError(
                f"{self.name}: expected images (B, 3, H, W) uint8, found {tuple(inputs.shape)} {inputs.dtype}"
            )
        grid = self.grid(tuple(inputs.shape[1:]))
        if not len(inputs):
            return torch.empty((0, *grid), dtype=torch.int64, device=self.device)
        return self.in_passes(self.encode_pass, inputs)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Rebuild images (B, 3, H, W) uint8 from codes (B, *grid); raise TokenizerError for other codes."""
        check_codes(self.name, codes, self.codebook_sizes)
        if not len(codes):
            height, width = (side * self.stride for side in codes.shape[-2:])
            return torch.empty((0, 3, height, width), dtype=torch.uint8, device=self.device)
        return self.in_passes(self.decode_pass, codes.to(torch.int64))

    def in_passes(self, function: Pass, batch: Tensor) -> Tensor:
        """Apply a function to a batch in passes of a constant size, and join the results."""
        function = self._as_compiled(function)
        if self.device.type == "cpu":
            # subtle: by their strides torch chooses kernels, which round differently
            return on_threads(function, batch.contiguous(), self._threads)
        return full_passes(function, batch, self.device, self.accelerator_batch)

    def _as_compiled(self, function: Pass) -> Pass:
        """Return a method of this tokenizer compiled, if its network is."""
        if self._backend is None:
            return function
        name = function.__name__
        if name not in self._compiled:
            self._compiled[name] = compiled_pass(function, self.name, self._backend)
        return self._compiled[name]


def check_codes(name: str, codes: Tensor, sizes: tuple[int, ...]) -> None:
    """Raise TokenizerError unless codes are (B, H, W), or (B, n, H, W) of n codebooks, each in its range."""
    expected = "(B, H, W)" if len(sizes) == 1 else f"(B, {len(sizes)}, H, W)"
    whole = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    if (
        not whole
        or codes.ndim != expected.count(",") + 1
        or (len(sizes) > 1 and codes.shape[1] != len(sizes))
    ):
        raise TokenizerError(
            f"{name}: expected codes {expected} of an integer dtype, found {tuple(codes.shape)} {codes.dtype}"
        )
    if not codes.numel():
        return
    codes = codes.to(torch.int64)  # torch has no min of some unsigned dtypes
    for plane, size in zip([codes] if len(sizes) == 1 else codes.unbind(1), sizes, strict=True):
        low, high = int(plane.min()), int(plane.max())
        if low < 0 or high >= size:
            raise TokenizerError(f"{name}: expected codes in 0..{size - 1}, found {low}..{high}")


def weights_fingerprint(head: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 (hex) over a text and every tensor's name, dtype, shape and bytes, sorted by name.

    The text says all else that decides codes: the kind of tokenizer and its configuration.
    """
    digest = hashlib.sha256(f"{head}\n".encode())
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()


def to_images(unit: Tensor) -> Tensor:
    """Return floats in 0..1 as uint8 images; values outside are clipped."""
    return (unit.float() * 255).round().clamp(0, 255).to(torch.uint8)
