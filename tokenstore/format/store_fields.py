"""The facts of a store that are known before its first shard: the fields that its spec and manifest share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import Views
from tokenstore.codecs.registry import MAX_CODEBOOK_SIZE
from tokenstore.errors import CodecError, ManifestError
from tokenstore.format.fields import (
    FieldError,
    Reader,
    exactly,
    fields_of,
    integer,
    list_of,
    null_or,
    record,
    text,
)
from tokenstore.format.history import Operation, read_history
from tokenstore.format.implicit import ImplicitCodebook, read_implicit_codebook
from tokenstore.format.symmetries import SYMMETRIES, read_names

__all__ = ["ConversionPart", "Preprocessing", "StoreFields", "TokenizerIdentity", "part_positions"]


MAX_GRID_AXES = 63
"""The most axes of a grid, with one of views: an array of grids has one more, and numpy knows 64."""


@dataclass(frozen=True)
class TokenizerIdentity:
    """The tokenizer that made a store's codes: its name, and all that decides their meaning."""

    name: str
    fingerprint: str | None = None
    """The SHA-256 (hex) of weights, codebook and configuration; None for an unknown tokenizer."""
    kept_codes: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    """For each codebook of a pruned store, the tokenizer's own code of every code in the store."""
    spec: str | None = field(default=None, compare=False)
    """The user's name for the tokenizer, from the conversion."""
    device: str | None = field(default=None, compare=False)
    """The device that computed the codes, or several joined by `, `; None if codes are the same on each."""
    dtype: str | None = field(default=None, compare=False)
    """The float type that the codes were computed in, or several joined by `, `; None if they are exact."""
    compiled: bool = field(default=False, compare=False)
    """True if a compiler chose how the network computes, which may round otherwise."""
    implicit_codebook: ImplicitCodebook | None = None
    """The rule that vectors follow from; None if they are stored, or there are none."""

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.fingerprint[:12]})" if self.fingerprint else f"{self.name} (no fingerprint)"
        )

    @property
    def arithmetic(self) -> str | None:
        """The arithmetic of codes, such as `cpu float32` or `cuda float32, compiled`; None of exact codes."""
        if self.device is None and self.dtype is None:
            return None
        return f"{self.device} {self.dtype}{', compiled' if self.compiled else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without those that are None, but always with the fingerprint."""
        values: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "spec": self.spec,
            "device": self.device,
            "dtype": self.dtype,
            "compiled": self.compiled or None,
            "kept_codes": self.kept_codes and [list(codes) for codes in self.kept_codes],
            "implicit_codebook": self.implicit_codebook and self.implicit_codebook.to_dict(),
        }
        return {name: value for name, value in values.items() if name == "fingerprint" or value is not None}

    @classmethod
    def from_dict(cls, values: object, where: str) -> TokenizerIdentity:
        """Return the identity that `to_dict` wrote; raises ManifestError for other values, with `where`."""
        try:
            return read_identity(values, where)
        except FieldError as error:
            raise ManifestError(str(error)) from error


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the tokenizer's input."""

    height: int
    width: int
    resize: str
    filter: str = "bicubic"

    def __str__(self) -> str:
        filtered = "" if self.filter == Preprocessing.filter else f", {self.filter}"
        return f"{self.height}x{self.width} pixels ({self.resize}{filtered})"

    @classmethod
    def from_dict(cls, values: object, where: str) -> Preprocessing:
        """Return the steps of JSON values; raises ManifestError for other values, with `where`."""
        try:
            return _read_preprocessing(values, where)
        except FieldError as error:
            raise ManifestError(str(error)) from error


@dataclass(frozen=True)
class ConversionPart:
    """The part of a conversion that a store holds: part `number`, counted from 1, of `count` parts."""

    number: int
    count: int
    on_error: str
    """The treatment of bad samples in this part."""
    inputs: Mapping[str, Any] = field(repr=False)
    """All that decides the bytes of the whole conversion, as JSON values: the same in all its parts."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def positions(self, listed: int) -> range:
        """Return the part's positions in a split of which the whole conversion takes `listed` samples."""
        return part_positions(self.number, self.count, listed)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def part_positions(number: int, count: int, listed: int) -> range:
    """Return the positions of part `number`, counted from 1, of `count` parts of `listed` samples."""
    return range((number - 1) * listed // count, number * listed // count)


@dataclass(frozen=True)
class StoreFields:
    """The facts of a store that its spec states and its manifest repeats.

    `grid` is the shape of one sample's codes, or of those of each of its views. With several codebooks the
    first axis of the grid counts them, and `codebook_sizes` has an entry for each.
    """

    tokenizer: TokenizerIdentity
    grid: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    _: KW_ONLY
    class_names: tuple[str, ...] | None = None
    """The names of the classes by label."""
    preprocessing: Preprocessing | None = None
    source_kind: str | None = None
    source_location: str | None = None
    """The user's name for the source, from the conversion."""
    ignore_index: int | None = None
    """The value of `masks` in pixels without a class; None if unknown."""
    part: ConversionPart | None = None
    """The part of a conversion that the store holds; None for a whole one."""
    views: Views | None = None
    """The views of every sample; None where a sample is one grid of codes."""
    symmetries: tuple[str, ...] = ()
    """The names of the permutations of codes that the store has beside its codebook, in their order."""
    history: tuple[Operation, ...] = ()
    """The operations that made the store of other stores, the first of them first."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample's codes: `grid`, or (V, *grid) of V views."""
        return self.grid if self.views is None else (self.views.count, *self.grid)

    def grids(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return codes (n, *sample_shape) as single grids: (n, *grid), or (n * V, *grid) of views."""
        return codes if self.views is None else codes.reshape(-1, *self.grid)

    @property
    def codebook_size(self) -> int:
        """The largest codebook's size: every code is below it."""
        return max(self.codebook_sizes)

    def shared(self) -> dict[str, Any]:
        """Return the fields of this class by name, to make a spec of a manifest, or a manifest of a spec."""
        return {each.name: getattr(self, each.name) for each in fields(StoreFields)}

    def check(self) -> None:
        """Raise ManifestError if fields contradict each other."""
        if not self.grid:
            raise ManifestError("manifest.grid: expected at least one axis, found []")
        if len(self.sample_shape) > MAX_GRID_AXES:
            axes = MAX_GRID_AXES - (self.views is not None)
            raise ManifestError(f"manifest.grid: expected at most {axes} axes, found {len(self.grid)}")
        if not self.codebook_sizes:
            raise ManifestError("manifest.codebook_sizes: expected at least one size, found []")
        codebooks = len(self.codebook_sizes)
        if codebooks > 1 and self.grid[0] != codebooks:
            raise ManifestError(
                f"manifest.grid: with {codebooks} codebooks the first axis must be {codebooks}, "
                f"found {list(self.grid)}"
            )
        if max(self.codebook_sizes) > MAX_CODEBOOK_SIZE:
            raise ManifestError(
                f"manifest.codebook_sizes: expected at most {MAX_CODEBOOK_SIZE} codes, "
                f"found {max(self.codebook_sizes)}"
            )
        lists = self.tokenizer.kept_codes
        if lists is not None and tuple(map(len, lists)) != self.codebook_sizes:
            raise ManifestError(
                f"manifest.tokenizer.kept_codes: expected lists of {self.codebook_sizes} codes, found "
                f"{tuple(map(len, lists))}"
            )
        self._check_implicit()
        if self.part is not None and self.part.number > self.part.count:
            raise ManifestError(
                f"manifest.part: expected a number up to {self.part.count}, found {self.part.number}"
            )

    def _check_implicit(self) -> None:
        """Raise ManifestError unless an implicit codebook has the codes that the store has."""
        implicit, lists = self.tokenizer.implicit_codebook, self.tokenizer.kept_codes
        if implicit is None:
            return
        if lists is None:
            fits = self.codebook_sizes == (implicit.size,)
        else:
            fits = len(lists) == 1 and lists[0][-1] < implicit.size
        if not fits:
            raise ManifestError(
                f"manifest.tokenizer.implicit_codebook: expected one codebook of {implicit.size} codes, "
                f"found codebook_sizes {list(self.codebook_sizes)}"
                + ("" if lists is None else " of kept codes that are others")
            )

    @property
    def implicit_table(self) -> npt.NDArray[np.float32] | None:
        """The vectors (K, D) that an implicit codebook gives; None without one, or for too large a table."""
        implicit, lists = self.tokenizer.implicit_codebook, self.tokenizer.kept_codes
        return None if implicit is None else implicit.table(None if lists is None else lists[0])


def codebook_sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the codebooks whose vectors (K, D) or (n, K, D) have a shape."""
    return (shape[-2],) * (shape[0] if len(shape) == 3 else 1)


def codebook_problem(shape: tuple[int, ...], sizes: tuple[int, ...]) -> str | None:
    """Return what is wrong with the shape of the vectors of codebooks of these sizes; None for a right one.

    Several codebooks have the rows of the largest each. One codebook may have an axis of its own.
    """
    number, size = len(sizes), max(sizes)
    if shape[:-1] in ([(number, size)] if number > 1 else [(size,), (1, size)]):
        return None
    several = f" in each of {number} codebooks" if number > 1 else ""
    return f"expected vectors of {size} codes{several}, found shape {shape}"


def _rising_codes(value: object, where: str) -> tuple[int, ...]:
    codes = list_of(integer(maximum=MAX_CODEBOOK_SIZE - 1))(value, where)
    if any(second <= first for first, second in itertools.pairwise(codes)):
        raise FieldError(where, "codes in rising order", str(list(codes)))
    return codes


read_identity = record(
    TokenizerIdentity,
    {"name": text, "fingerprint": null_or(text)},
    {
        "kept_codes": list_of(_rising_codes),
        "spec": text,
        "device": text,
        "dtype": text,
        "compiled": exactly(bool),
        "implicit_codebook": read_implicit_codebook,
    },
)
"""The reader of a TokenizerIdentity; raises FieldError."""

_read_preprocessing = record(
    Preprocessing, {"height": integer(1), "width": integer(1), "resize": text, "filter": text}
)
_read_part = record(
    ConversionPart,
    {"number": integer(1), "count": integer(1), "on_error": text, "inputs": exactly(dict)},
)


def _read_views(value: object, where: str) -> Views:
    try:
        return Views.from_json(value)
    except CodecError as error:
        expected, _, actual = str(error).removeprefix("expected ").partition(", found ")
        raise FieldError(where, expected, actual) from error


_REQUIRED: dict[str, Reader[Any]] = {
    "tokenizer": read_identity,
    "grid": list_of(integer(1)),
    "codebook_sizes": list_of(integer(1, MAX_CODEBOOK_SIZE)),
    "class_names": null_or(list_of(text)),
    "preprocessing": null_or(_read_preprocessing),
    "source_kind": null_or(text),
}
_OPTIONAL: dict[str, Reader[Any]] = {
    "source_location": text,
    "ignore_index": integer(),
    "part": _read_part,
    "views": _read_views,
    SYMMETRIES: read_names,
    "history": read_history,
}


def read_store_fields(value: object, where: str) -> dict[str, Any]:
    """Return the values of StoreFields in a manifest, by name; raises FieldError."""
    return fields_of(value, where, _REQUIRED, _OPTIONAL)
