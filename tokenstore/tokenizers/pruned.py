"""The tokenizer of a pruned store, whose remaining codes have new numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.format import Column, Symmetries, symmetries_within
from tokenstore.sources.images import Decoder, ImageOptions
from tokenstore.tokenizers.base import FileTokenizer, NumberTokenizer, SymmetricTokenizer, Tokenizer

_ROWS = 1024
"""The codes whose nearest kept code is computed at once."""


class PrunedTokenizer:
    """A Tokenizer over the codes of a pruned store.

    `kept_codes` holds for each codebook the inner tokenizer's own code of every code in the store. Encoding
    takes the nearest kept code, by cosine similarity, for a code that was not kept. Name and fingerprint are
    the inner tokenizer's. Raises TokenizerError where the kept codes are not codes of the tokenizer.
    """

    def __init__(self, inner: Tokenizer, kept_codes: Sequence[Sequence[int]]) -> None:
        self.inner = inner
        self.kept_codes = tuple(tuple(codes) for codes in kept_codes)
        _check_kept(inner, self.kept_codes)
        self.name, self.fingerprint, self.image_size = inner.name, inner.fingerprint, inner.image_size
        self.codebook_sizes = tuple(map(len, self.kept_codes))
        self._codes = [torch.tensor(codes, dtype=torch.int64) for codes in self.kept_codes]

    @cached_property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The vectors of the kept codes, (K, D) or (n, K, D); shorter codebooks are filled up with zeros."""
        tables = _tables(self.inner)
        if tables is None:
            return None
        rows = np.zeros((len(tables), max(self.codebook_sizes), tables.shape[2]), np.float32)
        for plane, codes in enumerate(self.kept_codes):
            rows[plane, : len(codes)] = tables[plane, list(codes)]
        return rows if len(rows) > 1 else rows[0]

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The float type of the arithmetic that decides codes."""
        return self.inner.dtype

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of one sample's codes."""
        return self.inner.grid(input_shape)

    def to(self, device: str | torch.device) -> Self:
        """Return the tokenizer on another device."""
        return type(self)(self.inner.to(device), self.kept_codes)

    def encode(self, inputs: Tensor) -> Tensor:
        """Encode inputs to codes (B, *grid) int64 in the store's numbers.

        Raises TokenizerError where a code was not kept and the tokenizer has no vectors to compare.
        """
        codes = self.inner.encode(inputs).clone()
        for plane, own in enumerate(self._planes(codes)):
            new = self._new_codes[plane].to(own.device)[own]
            missing = int((new < 0).sum())
            if missing:
                own_count = len(self._codes[plane])
                raise TokenizerError(
                    f"{self.name}: {missing} of {own.numel()} codes are not among the {own_count} that the "
                    "pruned store keeps, and the tokenizer has no vectors to find the nearest by. Encode "
                    "images of the store, or use one whose codebook was not pruned"
                )
            own.copy_(new)
        return codes

    def decode(self, codes: Tensor, **columns: Tensor) -> Tensor:
        """Rebuild inputs from the store's codes (B, *grid); `columns` are a FileTokenizer's."""
        return self.inner.decode(self.own_codes(codes), **columns)

    def own_codes(self, codes: Tensor) -> Tensor:
        """Return the inner tokenizer's code, int64, of each of the store's codes (B, *grid).

        Raises TokenizerError for codes that are not integers, and for one out of range.
        """
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise TokenizerError(f"{self.name}: expected codes of an integer dtype, found {codes.dtype}")
        own = codes.to(torch.int64, copy=True)
        for plane, (new, old) in enumerate(zip(self._planes(own), self._codes, strict=True)):
            low, high = (int(new.min()), int(new.max())) if new.numel() else (0, 0)
            if low < 0 or high >= len(old):
                where = f" of codebook {plane}" if len(self._codes) > 1 else ""
                raise TokenizerError(
                    f"{self.name}: expected codes{where} in 0..{len(old) - 1}, found {low}..{high}"
                )
            new.copy_(old.to(new.device)[new])
        return own

    def _planes(self, codes: Tensor) -> list[Tensor]:
        """Return views of each codebook's codes."""
        if len(self._codes) == 1:
            return [codes]
        if codes.ndim < 2 or codes.shape[1] != len(self._codes):
            raise TokenizerError(
                f"{self.name}: expected codes (B, {len(self._codes)}, ...), found {tuple(codes.shape)}"
            )
        return list(codes.unbind(1))

    @cached_property
    def _new_codes(self) -> list[Tensor]:
        """The store's code of every code of the tokenizer, for each codebook; -1 for none."""
        tables = _tables(self.inner)
        new_codes = []
        for plane, (codes, size) in enumerate(zip(self.kept_codes, self.inner.codebook_sizes, strict=True)):
            new = np.full(size, -1, np.int64)
            new[list(codes)] = np.arange(len(codes))
            lost = np.flatnonzero(new < 0)
            if tables is not None and len(lost):
                new[lost] = _nearest(tables[plane, lost], tables[plane, list(codes)])
            new_codes.append(torch.from_numpy(new))
        return new_codes


class PrunedSymmetricTokenizer(PrunedTokenizer):
    """A PrunedTokenizer with the symmetries of the inner tokenizer that lead from kept codes to kept ones."""

    inner: SymmetricTokenizer

    @property
    def symmetries(self) -> Symmetries:
        """The permutations of the kept codes by name."""
        return symmetries_within(self.inner.symmetries, [np.asarray(codes) for codes in self.kept_codes])


class PrunedFileTokenizer(PrunedTokenizer):
    """A PrunedTokenizer that looks at files: a FileTokenizer over the codes of a pruned store."""

    inner: FileTokenizer

    def decoder(self, options: ImageOptions) -> Decoder:
        """Return the decoder of the inner tokenizer."""
        return self.inner.decoder(options)

    @property
    def columns(self) -> Mapping[str, Column]:
        """The aligned arrays of the inner tokenizer."""
        return self.inner.columns

    def column_values(self, inputs: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the values of each of `columns` for a batch of inputs."""
        return self.inner.column_values(inputs)


class PrunedNumberTokenizer(PrunedFileTokenizer):
    """A PrunedFileTokenizer whose codes are numbers on a scale, as those of the inner tokenizer are."""

    inner: NumberTokenizer  # type: ignore[assignment]

    def numbers(self, codes: Tensor, **columns: Tensor) -> Tensor:
        """Return the numbers (B, C, h, w) of the inner tokenizer's codes."""
        return self.inner.numbers(self.own_codes(codes), **columns)

    def nearest_codes(self, numbers: Tensor, **columns: Tensor) -> Tensor:
        """Return the kept codes (B, *grid) int64 whose numbers are nearest to numbers (B, C, h, w)."""
        codes = self.inner.nearest_codes(numbers, **columns).clone()
        for plane, rising in zip(self._planes(codes), self._codes, strict=True):
            own = rising.to(plane.device)
            above = torch.searchsorted(own, plane.contiguous()).clamp(max=len(own) - 1)
            below = (above - 1).clamp(min=0)
            plane.copy_(torch.where((own[above] - plane).abs() < (plane - own[below]).abs(), above, below))
        return codes


def prune(tokenizer: Tokenizer, kept_codes: Sequence[Sequence[int]]) -> PrunedTokenizer:
    """Return the tokenizer over the codes of a pruned store; a FileTokenizer stays one.

    Symmetries that lead from kept codes to kept codes stay, too.
    """
    if isinstance(tokenizer, FileTokenizer):
        of_numbers = isinstance(tokenizer, NumberTokenizer)
        return (PrunedNumberTokenizer if of_numbers else PrunedFileTokenizer)(tokenizer, kept_codes)
    kind = PrunedSymmetricTokenizer if isinstance(tokenizer, SymmetricTokenizer) else PrunedTokenizer
    return kind(tokenizer, kept_codes)


def _check_kept(tokenizer: Tokenizer, lists: tuple[tuple[int, ...], ...]) -> None:
    sizes = tokenizer.codebook_sizes
    if len(lists) != len(sizes) or not all(lists):
        raise TokenizerError(
            f"{tokenizer.name}: expected kept codes of {len(sizes)} codebooks, found {list(map(len, lists))}"
        )
    for codes, size in zip(lists, sizes, strict=True):
        if min(codes) < 0 or max(codes) >= size or len(set(codes)) < len(codes):
            raise TokenizerError(
                f"{tokenizer.name}: expected kept codes in 0..{size - 1}, each once, found {len(codes)} in "
                f"{min(codes)}..{max(codes)}; the store was pruned from another tokenizer's codes"
            )


def _tables(tokenizer: Tokenizer) -> npt.NDArray[np.float32] | None:
    """Return the codebooks (n, K, D), with n = 1 for a tokenizer of one codebook."""
    codebook = tokenizer.codebook
    return codebook[None] if codebook is not None and codebook.ndim == 2 else codebook


def _nearest(vectors: npt.NDArray[np.float32], table: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the row of `table` (K, D) with the largest cosine similarity to each of `vectors` (m, D)."""
    unit = _unit(table)
    blocks = np.split(vectors, range(_ROWS, len(vectors), _ROWS))
    return np.concatenate([(_unit(block) @ unit.T).argmax(1) for block in blocks])


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows = vectors.astype(np.float64)
    norms: npt.NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(np.float64).tiny)
