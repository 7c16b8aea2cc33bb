"""Cosmos' discrete image tokenizers (DI8x8, DI16x16), as the TorchScript programs that they are published as.

NVIDIA 2025, https://arxiv.org/abs/2501.03575. subtle: loading such a file runs code of whoever made it, so
nothing is loaded unless the user said that it may be. Codes are finite scalars of 8, 8, 8, 5, 5 and 5 levels,
numbered from 0 in a store, whether or not the program counts from 1; pixels are floats in -1..1.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.model_folders import reason, whole_positions

FORMAT = "tokenstore.cosmos.1"
LEVELS = (8, 8, 8, 5, 5, 5)
"""The levels of the published discrete tokenizers: 64,000 codes."""
ENCODER, DECODER = "encoder.jit", "decoder.jit"
DEFAULT_IMAGE_SIZE = 256
_TRIED_SIDE = 64
"""The side of the image of noise that is encoded to learn how a program counts."""
_PART_NBYTES = 1 << 22


class Programs(nn.Module):
    """The two programs of a tokenizer."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class CosmosTokenizer(ImageTokenizer):
    """The Tokenizer over two TorchScript programs."""

    name = "cosmos-di"
    network: Programs
    compiles = False

    def __init__(self, encoder: nn.Module, decoder: nn.Module, digests: dict[str, str]) -> None:
        """Encode an image of noise; raise TokenizerError unless its codes are those of its vectors."""
        super().__init__(Programs(encoder, decoder))
        self.implicit_codebook = ImplicitCodebook("fsq", LEVELS)
        self.codebook_sizes = (self.implicit_codebook.size,)
        self.codebook = self.implicit_codebook.table()
        self._first = 0
        """The number of the first code, as the program counts."""
        self._index_dtype = torch.int64
        self._learn()
        self.name = f"cosmos-di{self.stride}x{self.stride}"
        self.image_size = whole_positions(DEFAULT_IMAGE_SIZE, self.stride)
        head = json.dumps([FORMAT, digests, self.implicit_codebook.to_dict()])
        self.fingerprint = hashlib.sha256(head.encode()).hexdigest()

    @torch.no_grad()
    def _learn(self) -> None:
        """Set the stride and the number of the first code."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, 3, _TRIED_SIDE, _TRIED_SIDE)
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        outputs = list(_tensors(self.network.encoder(self._pixels(image))))
        indices = next((each for each in outputs if not each.is_floating_point() and each.ndim == 3), None)
        vectors = next((each for each in outputs if each.is_floating_point() and each.ndim == 4), None)
        if indices is None or vectors is None or vectors.shape[1] != len(LEVELS):
            raise TokenizerError(
                f"expected an image encoder that gives indices (B, h, w) and vectors (B, {len(LEVELS)}, h, w)"
                f", found {[(tuple(each.shape), str(each.dtype)) for each in outputs]}"
            )
        if indices.shape[1:] != vectors.shape[2:] or not indices.numel() or _TRIED_SIDE % indices.shape[1]:
            raise TokenizerError(
                f"expected a grid of {_TRIED_SIDE} pixels, found indices {tuple(indices.shape)} and vectors "
                f"{tuple(vectors.shape)}"
            )
        own = _codes_of_vectors(vectors.float())
        first = set((indices.long() - own).flatten().tolist())
        if len(first) != 1 or not first <= {0, 1}:
            raise TokenizerError(
                f"expected indices that follow from vectors of {LEVELS} levels, counted from 0 or 1, found "
                "others; this is no discrete image tokenizer of Cosmos that is known here"
            )
        self._first, self._index_dtype = first.pop(), indices.dtype
        self.stride = _TRIED_SIDE // indices.shape[1]

    def _pixels(self, images: Tensor) -> Tensor:
        return to_pixels(images).to(self._a_weight.dtype)

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        outputs = _tensors(self.network.encoder(self._pixels(images)))
        indices = next(each for each in outputs if not each.is_floating_point() and each.ndim == 3)
        return indices.long() - self._first

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        outputs = _tensors(self.network.decoder((codes + self._first).to(self._index_dtype)))
        pixels = next(each for each in outputs if each.is_floating_point() and each.ndim == 4)
        return to_images((pixels.float() + 1) / 2)


def _codes_of_vectors(vectors: Tensor) -> Tensor:
    """Return the codes (B, h, w) of vectors (B, D, h, w) that are levels already."""
    codes, radix = torch.zeros_like(vectors[:, 0], dtype=torch.int64), 1
    for channel, levels in enumerate(LEVELS):
        half = levels // 2
        codes += radix * ((vectors[:, channel] * half).round().long() + half)
        radix *= levels
    return codes


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of what a program returned, one by one."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Iterable) and not isinstance(output, str):
        for part in output:
            yield from _tensors(part)


def _program(path: Path) -> nn.Module:
    """Load a TorchScript file, which runs its code; raise TokenizerError where it is none."""
    if not path.is_file():
        raise TokenizerError(f"{path}: expected a TorchScript file, found nothing there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is no other reader of such files
            program: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged file is answered with nearly any exception
        raise TokenizerError(
            f"{path}: expected a TorchScript file, found a damaged one or another kind of file "
            f"({reason(error)}); fetch it again"
        ) from error
    if not any(tensor.is_floating_point() for tensor in program.state_dict().values()):
        raise TokenizerError(f"{path}: expected a network with weights, found none")
    return program


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_NBYTES):
            digest.update(part)
    return digest.hexdigest()


def load(argument: str | None) -> CosmosTokenizer:
    """Load the tokenizer of a local folder, which runs the code in it: the caller has asked the user.

    Raises TokenizerError where the folder holds no such programs, or they are none of a known tokenizer.
    """
    folder = Path(argument or "").expanduser()
    if not argument or not folder.is_dir():
        raise TokenizerError(f"{argument}: expected a local folder with {ENCODER} and {DECODER}, found none")
    encoder, decoder = (_program(folder / name) for name in (ENCODER, DECODER))
    digests = {name: _digest(folder / name) for name in (ENCODER, DECODER)}
    try:
        tokenizer = CosmosTokenizer(encoder, decoder, digests)
        image = torch.zeros((1, 3, _TRIED_SIDE, _TRIED_SIDE), dtype=torch.uint8)
        rebuilt = tokenizer.decode(tokenizer.encode(image))
    except TokenizerError as error:
        raise TokenizerError(f"{folder}: {error}") from error
    except Exception as error:  # a program of others may raise anything
        raise TokenizerError(
            f"{folder}: expected programs of RGB images, found ones that cannot take them ({reason(error)})"
        ) from error
    if rebuilt.shape != image.shape:
        raise TokenizerError(
            f"{folder}: expected an image {tuple(image.shape)}, found {tuple(rebuilt.shape)}"
        )
    return tokenizer
