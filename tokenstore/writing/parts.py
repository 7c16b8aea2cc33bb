"""The parts of one conversion: whether they are all of it, and what the whole of them is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenstore.codecs import DEFAULT_CODEC
from tokenstore.errors import ConversionError, ManifestError, Parameter, StoreError
from tokenstore.format import CODEBOOK, SYMMETRIES, SYNONYMS, Column, ConversionPart, FileRecord, Manifest
from tokenstore.format import fields as read
from tokenstore.reading import TokenStore
from tokenstore.writing.choices import choices, chosen_later, few_bad
from tokenstore.writing.spec import StoreSpec

_OWN = frozenset({"part", "source_location"})
"""The fields of a manifest in which parts of one conversion may differ."""
_SHOWN = 10
"""The missing parts that a message names."""


@dataclass(frozen=True)
class WholeConversion:
    """The conversion that parts are of, as their manifests state it."""

    codec: str
    min_decode_rate: float
    chunk_samples: int
    shard_samples: int | None
    prune_codebook: bool
    listed: Mapping[str, int]
    """The number of samples of each split that the conversion takes, in the order of the splits."""

    @property
    def rewrites(self) -> bool:
        """True if a codec or a codebook is chosen when all codes are known."""
        return self.prune_codebook or chosen_later(self.codec)

    def spec(self, first: TokenStore) -> StoreSpec:
        """Return the spec of the whole store before any rewriting; `first` is its first part."""
        return StoreSpec(
            **{**first.manifest.shared(), "part": None},
            codec=DEFAULT_CODEC if self.rewrites else self.codec,
            chunk_samples=self.chunk_samples,
            shard_samples=self.shard_samples,
            codebook=first.codebook,
            synonyms=first.synonyms,
            permutations=first.files.permutations,
        )


def whole_of(parts: Sequence[TokenStore]) -> tuple[WholeConversion, list[TokenStore]]:
    """Return the conversion of which `parts` are all parts, and the parts in order.

    Raises StoreError unless the stores are all parts of one conversion, each once, and ManifestError for one
    whose manifest contradicts itself.
    """
    ordered = _in_order(parts)
    first = ordered[0]
    for other in ordered[1:]:
        _check_same_conversion(first, other)
    whole = _whole(first)
    for store in ordered:
        _check_samples(store, whole)
    return whole, ordered


def check_bad(whole: WholeConversion, parts: Sequence[TokenStore], on_error: str | None) -> None:
    """Raise ConversionError if more samples of the parts are bad than a conversion of the whole allows.

    Any number is allowed with `on_error="skip"`, here or in one of the parts.
    """
    given = {on_error, *(part_of(store).on_error for store in parts)}
    for name, listed in whole.listed.items():
        bad = sum(store.manifest.splits[name].skipped for store in parts)
        count, reason = few_bad(listed)
        if bad > count and "skip" not in given:
            skip = Parameter("on_error", "skip")
            raise ConversionError(
                f"split {name}: {bad} samples of the parts could not be read, allowed are {count} "
                f"({reason}). Mend them and convert their parts again, or use {skip}",
                parameters=[skip],
            )
    if not any(split.samples for store in parts for split in store.manifest.splits.values()):
        raise ConversionError(
            f"{parts[0].files.storage}: no sample of any of the {len(parts)} parts could be converted"
        )


def part_of(store: TokenStore) -> ConversionPart:
    """Return the part that a store is; raise StoreError for a whole one."""
    part = store.manifest.part
    if part is None:
        named = Parameter("part")
        raise StoreError(
            f"{store.files.storage}: expected a part of a conversion, found a whole store. A part is made by "
            f"a conversion with {named}",
            parameters=[named],
        )
    return part


def columns_of(store: TokenStore, split: str) -> dict[str, Column]:
    """Return the aligned arrays of a split, tokens among them."""
    return {name: reader.layout.column for name, reader in store[split].arrays.items()}


def _in_order(parts: Sequence[TokenStore]) -> list[TokenStore]:
    if not parts:
        raise StoreError("expected the parts of a conversion to merge, found none")
    count = part_of(parts[0]).count
    by_number: dict[int, TokenStore] = {}
    for store in parts:
        part = part_of(store)
        if part.count != count:
            raise _different(parts[0], store, "number of parts", count, part.count)
        if part.number in by_number:
            raise StoreError(
                f"{store.files.storage}: part {part} is {by_number[part.number].files.storage} already. Name "
                "every part once"
            )
        by_number[part.number] = store
    if len(by_number) < count:
        numbers = (number for number in itertools.count(1) if number not in by_number)
        missing = count - len(by_number)
        shown = ", ".join(map(str, itertools.islice(numbers, min(missing, _SHOWN))))
        more = ", ..." if missing > _SHOWN else ""
        raise StoreError(
            f"expected all {count} parts of the conversion, found {len(by_number)}: missing are "
            f"{shown}{more}. Convert and name them too"
        )
    return [by_number[number] for number in range(1, count + 1)]


def _check_same_conversion(first: TokenStore, other: TokenStore) -> None:
    one, two = part_of(first).inputs, part_of(other).inputs
    for name in {**one, **two}:
        if one.get(name) != two.get(name):
            raise _different(first, other, name, one.get(name), two.get(name))
    own, others = first.manifest, other.manifest
    facts: dict[str, tuple[Any, Any]] = {
        name: (value, others.shared()[name]) for name, value in own.shared().items() if name not in _OWN
    }
    facts["created_by"] = own.created_by, others.created_by
    facts["splits"] = sorted(own.splits), sorted(others.splits)
    for name in (CODEBOOK, SYNONYMS, SYMMETRIES):
        facts[name] = _records(own, f"{name}/c/"), _records(others, f"{name}/c/")
    for name, (expected, actual) in facts.items():
        if expected != actual:
            raise _different(first, other, name, expected, actual)
    for split in own.splits:
        expected, actual = columns_of(first, split), columns_of(other, split)
        if expected != actual:
            raise _different(first, other, f"arrays of split {split}", expected, actual)


def _records(manifest: Manifest, folder: str) -> list[FileRecord]:
    return [record for path, record in manifest.files.items() if path.startswith(folder)]


def _different(first: TokenStore, other: TokenStore, name: str, expected: Any, actual: Any) -> StoreError:
    return StoreError(
        f"{other.files.storage}: not a part of the conversion that {first.files.storage} is a part of: "
        f"{name} is {expected!r:.200} there, and {actual!r:.200} here. Convert it again "
        "with the others' options"
    )


def _check_samples(store: TokenStore, whole: WholeConversion) -> None:
    where, part = store.files.storage, part_of(store)
    for name, listed in whole.listed.items():
        split, expected = store.manifest.splits[name], len(part.positions(listed))
        if split.samples + split.skipped != expected:
            raise ManifestError(
                f"{where}: expected {expected:,} samples, stored or left out, in split {name} of part "
                f"{part}, found {split.samples + split.skipped:,}"
            )
    manifest = store.manifest
    if manifest.tokenizer.kept_codes is not None:
        raise StoreError(
            f"{where}: the codebook of this part is pruned; expected the codes of the tokenizer. Convert the "
            "part again"
        )


def _whole(first: TokenStore) -> WholeConversion:
    """Return what the first part's manifest says of the whole conversion; raises ManifestError."""
    where = f"{first.files.storage}: manifest.part.inputs"
    split = read.list_of(lambda value, place: value)
    rate = read.checked("a number from 0", lambda value: type(value) in (int, float) and value >= 0)
    try:
        values = read.fields_of(
            dict(part_of(first).inputs),
            where,
            {
                "source": read.exactly(dict),
                "codec": read.checked(f"one of {choices()}", lambda value: value in choices()),
                "min_decode_rate": rate,
                "chunk_samples": read.integer(1),
                "shard_samples": read.null_or(read.integer(1)),
                "prune_codebook": read.exactly(bool),
                "limit": read.null_or(read.integer(1)),
            },
        )
        source, limit = values.pop("source"), values.pop("limit")
        splits = read.fields_of(source, f"{where}.source", {"splits": read.mapping_of(split)})["splits"]
        listed = {
            name: read.integer()(facts[0] if facts else None, f"{where}.source.splits.{name}[0]")
            for name, facts in splits.items()
        }
    except read.FieldError as error:
        raise ManifestError(str(error)) from error
    if sorted(listed) != sorted(first.manifest.splits):
        raise ManifestError(
            f"{where}: expected the splits {sorted(first.manifest.splits)}, found {sorted(listed)}"
        )
    return WholeConversion(
        **values,
        listed={name: samples if limit is None else min(limit, samples) for name, samples in listed.items()},
    )
