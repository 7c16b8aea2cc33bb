"""The protocols of tokenizers, images (or any other array) to grids of codes and back; and a base for them.

`TokenizerBase` has defaults for all of the protocol but a few members. `check_tokenizer` says which members
an object lacks.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tokenstore.errors import TokenizerError
from tokenstore.format import Column, ImplicitCodebook, Symmetries, codebook_sizes
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


@runtime_checkable
class SymmetricTokenizer(Tokenizer, Protocol):
    """A tokenizer whose codes of a changed image are a look-up away from those of the image."""

    @property
    def symmetries(self) -> Symmetries:
        """The permutations of codes by name: with `flip`, codes(mirror x) = flip[mirror(codes(x))]."""


@runtime_checkable
class NumberTokenizer(Tokenizer, Protocol):
    """A tokenizer whose codes are numbers on a scale, such as quantised coefficients, and have no vectors."""

    def numbers(self, codes: torch.Tensor, **columns: torch.Tensor) -> torch.Tensor:
        """Return the numbers (B, C, h, w) float32 of codes (B, *grid), on the codes' device.

        `columns` are the values (B, *shape) of a FileTokenizer's columns, by their names.
        """

    def nearest_codes(self, numbers: torch.Tensor, **columns: torch.Tensor) -> torch.Tensor:
        """Return the codes (B, *grid) int64 whose numbers are nearest to numbers (B, C, h, w)."""


@runtime_checkable
class CompilableTokenizer(Tokenizer, Protocol):
    """A tokenizer with a network that torch.compile may compile."""

    @property
    def is_compiled(self) -> bool:
        """True if the network is compiled, by which a few codes may differ."""

    def compiled(self) -> Tokenizer:
        """Return the tokenizer with its network compiled; raise TokenizerError where it cannot be."""


class TokenizerBase(ABC):
    """A base for a tokenizer of one's own, which needs `name`, `encode` and `codebook` or `codebook_sizes`.

    A class that is a torch module too has its fingerprint, device and dtype from its weights; any other class
    needs a `fingerprint`. `decode` is needed to look at images again. All else has a default.

        class Mine(TokenizerBase, torch.nn.Module):
            name = "mine"
            codebook_sizes = (1024,)

            def encode(self, inputs):
                return self.network(inputs.float() / 255).argmax(1)
    """

    name: str
    codebook: npt.NDArray[np.float32] | None = None
    """The codebook's vectors, (K, D) or (n, K, D); None for a tokenizer without vectors."""
    implicit_codebook: ImplicitCodebook | None = None
    """The rule that vectors follow from, which a store keeps instead of a table; None for other vectors."""
    image_size: int = 256
    """The side in pixels that images are brought to unless the user says otherwise."""
    _fingerprint: str | None = None

    @abstractmethod
    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Encode a batch, images (B, 3, H, W) uint8, to codes (B, *grid) int64."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Rebuild images (B, 3, H, W) uint8 from codes (B, *grid); raise TokenizerError, by default."""
        raise TokenizerError(f"{type(self).__name__}: expected a method decode(codes), found none")

    @property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of a module's weights, or what was set.

        Raises TokenizerError for a tokenizer that has neither. The weights are read each time: a network may
        have learned or loaded others since.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        weights = self.state_dict() if isinstance(self, nn.Module) else {}
        if not weights:
            raise TokenizerError(
                f"{type(self).__name__}: expected a fingerprint, a SHA-256 (hex) over all that decides "
                "codes, found none"
            )
        from tokenstore.tokenizers.image_tokenizer import weights_fingerprint  # which needs this module

        exact = {  # numpy has no bfloat16, whose values all are float32's too
            name: weight.float() if weight.dtype == torch.bfloat16 else weight
            for name, weight in weights.items()
        }
        return weights_fingerprint(f"{self.name} {self.codebook_sizes}", exact)

    @fingerprint.setter
    def fingerprint(self, value: str) -> None:
        self._fingerprint = value

    @cached_property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The sizes of the codebooks, by default those of `codebook` or `implicit_codebook`."""
        if self.implicit_codebook is not None:
            return (self.implicit_codebook.size,)
        if self.codebook is None:
            raise TokenizerError(f"{type(self).__name__}: expected codebook or codebook_sizes, found neither")
        return codebook_sizes(self.codebook.shape)

    @property
    def device(self) -> torch.device:
        """The device of a module's weights, or the CPU."""
        weight = self._a_weight
        return torch.device("cpu") if weight is None else weight.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The float type of a module's weights, or float32; None says that codes are exact on any device."""
        weight = self._a_weight
        return torch.float32 if weight is None else weight.dtype

    @property
    def _a_weight(self) -> torch.Tensor | None:
        weights = self.state_dict().values() if isinstance(self, nn.Module) else ()
        return next((weight for weight in weights if weight.is_floating_point()), None)

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of one sample's codes for the shape of one input: by encoding a black one."""
        with torch.no_grad():
            codes = self.encode(torch.zeros((1, *input_shape), dtype=torch.uint8, device=self.device))
        check_encoded(self.name, codes)
        return tuple(codes.shape[1:])

    def to(self, device: str | torch.device) -> Self:
        """Return the tokenizer on another device; raise TokenizerError where it is no torch module."""
        if isinstance(self, nn.Module):
            return nn.Module.to(copy.deepcopy(self), device)
        if torch.device(device) != self.device:
            raise TokenizerError(f"{type(self).__name__}: expected a method to(device), found none")
        return self


def check_tokenizer(tokenizer: object) -> None:
    """Raise TokenizerError, with all that is missing or wrong, unless an object is a tokenizer."""
    where = type(tokenizer).__name__
    own, of_files = _members(Tokenizer), _members(FileTokenizer)
    reads_files = any(hasattr(tokenizer, name) for name in of_files)
    missing = [name for name in own + of_files * reads_files if not hasattr(tokenizer, name)]
    if missing:
        what = "a tokenizer that reads files" if reads_files else "a tokenizer"
        raise TokenizerError(
            f"{where}: expected {what}, which has {', '.join(missing)} too; found none of these. "
            "tokenstore.tokenizers.TokenizerBase has defaults for most"
        )
    for name, (expected, fits) in _VALUES.items():
        value = getattr(tokenizer, name)
        if not fits(value):
            raise TokenizerError(f"{where}: expected {name} to be {expected}, found {value!r:.100}")


def check_encoded(name: str, codes: object) -> None:
    """Raise TokenizerError unless a tokenizer's codes are a tensor of integers."""
    if not isinstance(codes, torch.Tensor):
        raise TokenizerError(f"{name}: expected codes as a torch.Tensor, found {type(codes).__name__}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TokenizerError(f"{name}: expected codes of an integer dtype, found {codes.dtype}")


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text", lambda value: isinstance(value, str) and bool(value)),
    "fingerprint": ("a text", lambda value: isinstance(value, str) and bool(value)),
    "codebook_sizes": (
        "a tuple of positive whole numbers",
        lambda value: isinstance(value, tuple) and bool(value) and all(map(_is_whole, value)),
    ),
    "codebook": (
        "an array (K, D) or (n, K, D), or None",
        lambda value: value is None or (isinstance(value, np.ndarray) and value.ndim in (2, 3)),
    ),
    "image_size": ("a positive whole number", _is_whole),
    **dict.fromkeys(("grid", "to", "encode", "decode"), ("a method", callable)),
}
"""The members whose values are checked: what is expected, and whether a value fits."""
