"""The base of tokenizers of RGB images: their checks, and passes of one constant size."""

from __future__ import annotations

import copy
import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenstore.errors import TokenizerError

ACCELERATOR_BATCH = 32
"""The inputs of one pass on a GPU, always as many, so that codes don't depend on the batch."""


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

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self._threads = torch.get_num_threads()

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

    def in_passes(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """Apply a function to a batch in passes of a constant size, and join the results."""
        batch = batch.contiguous()  # subtle: by their strides torch chooses kernels, which round differently
        if self.device.type == "cpu":
            return on_threads(function, batch, self._threads)
        passes = torch.split(batch, ACCELERATOR_BATCH)
        return torch.cat([self._filled_pass(function, part) for part in passes])

    def _filled_pass(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        fill = [0] * (2 * (batch.ndim - 1)) + [0, ACCELERATOR_BATCH - len(batch)]
        return function(F.pad(batch, fill).to(self.device))[: len(batch)]


def on_threads(function: Callable[[Tensor], Tensor], batch: Tensor, threads: int) -> Tensor:
    """Apply a function to each element of a batch, as a batch of one on a thread, and join the results.

    subtle: torch's threads inside an operation wait for each other at its end, which costs a factor of
    ten where other processes use the same cores.
    """
    with _one_thread_an_operation, ThreadPoolExecutor(threads) as pool:
        # subtle: torch's modes belong to a thread
        return torch.cat(list(pool.map(torch.no_grad()(function), torch.split(batch, 1))))


class _OneThreadAnOperation:
    """A limit of one thread for each operation of torch, in the whole process, while any thread is within."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = 1

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                torch.set_num_threads(self._before)


_one_thread_an_operation = _OneThreadAnOperation()


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
