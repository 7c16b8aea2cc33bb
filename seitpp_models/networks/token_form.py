"""The form of a store's tokens: what networks, and the augmentation before them, take of its codes.

A grid of one codebook's codes is taken as it is. A list of codes is a grid of one row. Several codes a
position are planes (B, n, H, W), and so are the digits of an implicit codebook's codes. Codes that are
numbers on a scale, as those of `dct`, are the numbers (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from tokenstore.augment import Combination, NumberVectors, SeveralCodebooks, TokenVectors, token_vectors
from tokenstore.errors import Parameter, TokenizerError
from tokenstore.format import IMPLICIT_KINDS, ImplicitCodebook, Manifest
from tokenstore.tokenizers import NumberTokenizer, Tokenizer
from tokenstore.tokenizers.store_tokenizer import tokenizer_of

if TYPE_CHECKING:
    from tokenstore.reading import TokenStore

__all__ = ["ArrangedTokens", "TokenForm", "form_of", "form_of_tokenizer"]

_LEARNED_CHANNELS = 32
"""The channels of learned vectors where the codes' own vectors do not give them, as of the published ones."""


@dataclass(frozen=True)
class TokenForm:
    """The tokens of a store, or of a tokenizer, as networks take them."""

    where: str
    """The place of the codes, for messages."""
    grid: tuple[int, int]
    """The rows and columns of positions; a list of L tokens has 1 and L."""
    code_sizes: tuple[int, ...]
    """The number of codes of each codebook, as the store has them."""
    codebook: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """The vectors (K, D) or (n, K, D); None if there are none, or if `digits` or `numbers` give them."""
    digits: ImplicitCodebook | None = None
    """The rule that splits codes into digits, each of which is a code of its own; None for other codes."""
    numbers: NumberTokenizer | None = field(default=None, repr=False)
    """The tokenizer that gives the numbers which codes stand for; None if codes are no numbers."""
    channels_of_numbers: int = 0
    columns: tuple[str, ...] = ()
    """The columns of a store that the numbers depend on."""
    is_list: bool = False
    """True for lists of tokens, whose neighbours are not neighbours in an image."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The number of codes of each plane that a network takes."""
        return self.code_sizes if self.digits is None else self.digits.levels

    @property
    def codebook_size(self) -> int | tuple[int, ...]:
        """The `codebook_size` of a network that learns vectors of the codes."""
        return self.codebook_sizes[0] if len(self.codebook_sizes) == 1 else self.codebook_sizes

    @property
    def learned_channels(self) -> int:
        """The channels of the vectors that a network learns: the codebook's of one, else at least 32."""
        length = 0 if self.codebook is None else self.codebook.shape[-1]
        if len(self.codebook_sizes) == 1 and length:
            return length
        return max(_LEARNED_CHANNELS, length)

    def vectors(self, combination: Combination = "sum") -> TokenVectors:
        """Return the vectors of the tokens; several of a position are combined by `combination`.

        Digits always have channels of their own. Raises ModelError if the codes have no vectors.
        """
        if self.numbers is not None:
            return NumberVectors(self.channels_of_numbers)
        if self.digits is not None:
            return SeveralCodebooks(_tables(self.digits), self.digits.levels, "concatenate")
        if self.codebook is None:
            vectors, plain = Parameter("codebook"), Parameter("augment", "none")
            codes = Parameter("input", "codes")
            raise ModelError(
                f"{self.where}: expected the vectors of the codes, the tokenizer's codebook, found none; "
                "convert the images with a tokenizer that has one, or ready codes with the vectors of their "
                f"codebook by {vectors}. Codes alone are learned from with {codes} and {plain}",
                parameters=[vectors, codes, plain],
            )
        if self.codebook.ndim == 2:
            return token_vectors(self.codebook)
        return SeveralCodebooks(torch.from_numpy(np.array(self.codebook)), self.code_sizes, combination)

    def vectors_of(self, channels: int) -> TokenVectors:
        """Return the vectors that have `channels`, combined as they must be for it.

        Raises ModelError if the codes have no vectors, or others.
        """
        kinds: tuple[Combination, ...] = ("sum", "concatenate")
        found = [self.vectors(kind) for kind in kinds]
        for vectors in found:
            if vectors.channels == channels:
                return vectors
        raise ModelError(
            f"{self.where}: expected vectors of {channels} channels, which the network takes, found vectors "
            f"of {' or '.join(dict.fromkeys(str(vectors.channels) for vectors in found))}"
        )

    def of_whole_codes(self) -> TokenForm:
        """Return the form without digits: codes as they are, with the vectors of all codes."""
        return self if self.digits is None else replace(self, digits=None, codebook=self.digits.table())

    def arranged(self, *, as_codes: bool, scales: Sequence[float] = ()) -> ArrangedTokens:
        """Return the module from the store's codes to the tokens that a network takes.

        `as_codes` leaves codes as they are where they are numbers. By `scales` each channel of numbers is
        divided.
        """
        numbers = None if as_codes else self.numbers
        return ArrangedTokens(
            self.is_list,
            () if self.digits is None else self.digits.levels,
            None if numbers is None else numbers.numbers,
            () if numbers is None else self.columns,
            scales,
        )


class ArrangedTokens(nn.Module):
    """The module from a store's codes (B, *grid), and `columns` of it, to what a network takes.

    The result is codes (B, H, W) or (B, n, H, W) of an integer dtype, or numbers (B, C, H, W) float32.
    """

    def __init__(
        self,
        is_list: bool,
        levels: Sequence[int] = (),
        numbers: Callable[..., Tensor] | None = None,
        columns: Sequence[str] = (),
        scales: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.is_list, self.levels, self.columns = is_list, tuple(levels), tuple(columns)
        self._numbers, self._scales = numbers, tuple(scales)

    @property
    def is_identity(self) -> bool:
        """True if codes are taken as they are."""
        return not (self.is_list or self.levels or self._numbers is not None)

    def forward(self, codes: Tensor, *values: Tensor) -> Tensor:
        """Return the tokens of codes; `values` are those of the columns, in their order."""
        if self._numbers is not None:
            found = self._numbers(codes, **dict(zip(self.columns, values, strict=True)))
            if not self._scales:
                return found
            return found / torch.tensor(self._scales, device=found.device)[:, None, None]
        if self.is_list:
            codes = codes.unsqueeze(-2)
        if not self.levels:
            return codes
        rest, planes = codes.long(), []
        for levels in self.levels:
            planes.append(rest % levels)
            rest = rest // levels
        return torch.stack(planes, 1)

    def of_batch(self, codes: Tensor, *columns: Tensor, generator: torch.Generator) -> Any:
        """Return a loader's batch with the tokens in place of codes, and without the columns of numbers."""
        count = len(columns) - len(self.columns)
        tokens = self(codes, *columns[count:])
        return (tokens, *columns[:count]) if count else tokens


def form_of(store: TokenStore) -> TokenForm:
    """Return the form of a store's tokens.

    Raises ModelError for grids that are neither (H, W) nor (L,) of positions.
    """
    manifest = store.manifest
    digits = manifest.tokenizer.implicit_codebook if manifest.tokenizer.kept_codes is None else None
    codebook = None if _splits(digits) else store.codebook
    numbers = _number_tokenizer(manifest) if codebook is None and digits is None else None
    return _form(store.files.storage.url, manifest.grid, manifest.codebook_sizes, codebook, digits, numbers)


def form_of_tokenizer(tokenizer: Tokenizer, grid: tuple[int, ...]) -> TokenForm:
    """Return the form of the tokens (*grid) of a tokenizer; raises ModelError as `form_of` does."""
    digits: ImplicitCodebook | None = getattr(tokenizer, "implicit_codebook", None)
    codebook = None if _splits(digits) else tokenizer.codebook
    numbers = tokenizer if isinstance(tokenizer, NumberTokenizer) else None
    return _form(tokenizer.name, grid, tokenizer.codebook_sizes, codebook, digits, numbers)


def _form(
    where: str,
    grid: tuple[int, ...],
    sizes: tuple[int, ...],
    codebook: npt.NDArray[np.float32] | None,
    digits: ImplicitCodebook | None,
    numbers: NumberTokenizer | None,
) -> TokenForm:
    positions = grid if len(sizes) == 1 else grid[1:]
    if len(positions) not in (1, 2):
        several = "" if len(sizes) == 1 else f" of {len(sizes)} codebooks"
        raise ModelError(
            f"{where}: expected grids (H, W) or lists (L,) of tokens, found {positions}{several}"
        )
    rows, columns = (1, *positions) if len(positions) == 1 else positions
    return TokenForm(
        where,
        (rows, columns),
        sizes,
        codebook,
        digits if _splits(digits) else None,
        numbers,
        0 if numbers is None else len(sizes),
        () if numbers is None else tuple(getattr(numbers, "columns", ())),
        is_list=len(positions) == 1,
    )


def _splits(digits: ImplicitCodebook | None) -> bool:
    """Return True if codes of an implicit codebook have several digits."""
    return digits is not None and len(digits.levels) > 1


def _number_tokenizer(manifest: Manifest) -> NumberTokenizer | None:
    """Return the tokenizer of a store whose codes are numbers; None if they are not, or it is unknown."""
    try:
        tokenizer = tokenizer_of(manifest)
    except TokenizerError:
        return None
    return tokenizer if isinstance(tokenizer, NumberTokenizer) else None


def _tables(digits: ImplicitCodebook) -> Tensor:
    """Return the values (n, K, 1) of each digit, filled up with zeros."""
    count = len(digits.levels)
    tables = torch.zeros(count, max(digits.levels), 1)
    for number, levels in enumerate(digits.levels):
        values = IMPLICIT_KINDS[digits.kind](levels, count)
        tables[number, :levels, 0] = torch.from_numpy(np.asarray(values, np.float32))
    return tables


def scales_of(squares: npt.NDArray[np.float64], count: int) -> tuple[float, ...]:
    """Return the scale of each channel by the sums of squares (C,) of `count` numbers, to six digits."""
    roots = np.sqrt(squares / max(count, 1))
    return tuple(float(f"{root:.6g}") if root > 0 and math.isfinite(root) else 1.0 for root in roots)
