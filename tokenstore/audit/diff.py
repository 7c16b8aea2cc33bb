"""The differences of two stores: what their manifests say, their columns, and samples that only one has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.format import LABELS, TOKENS
from tokenstore.machine import available_cores, in_order
from tokenstore.reading import SplitReader, Subset, TokenStore
from tokenstore.reading.open import StorePath, as_store, takes_options
from tokenstore.writing.choices import checked_jobs
from tokenstore.writing.editing.label_files import told_apart

__all__ = ["Difference", "StoreDiff", "diff"]

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""A progress callback: the step's name, the samples that are done, and all of them."""
Digests: TypeAlias = npt.NDArray[np.uint64]

_BLOCK_NBYTES = 2**22
"""The bytes of values that are hashed together."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_ROWS_SHOWN = 3
"""The rows that a difference shows."""
_SHOWN = 5
"""The names of classes that a difference shows."""
_FIELDS = (
    *("tokenizer", "grid", "codebook_sizes", "views", "preprocessing", "source_kind", "source_location"),
    "ignore_index",
)


@dataclass(frozen=True)
class Difference:
    """A fact in which two stores differ."""

    what: str
    """The fact, such as `grid` or `train: samples`."""
    first: str
    second: str

    def to_dict(self) -> dict[str, str]:
        """Return the fields as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class StoreDiff:
    """The differences of two stores."""

    first: str
    """The place of the first store."""
    second: str
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """True if the stores have the same facts and samples, though maybe other bytes."""
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        rows = [each.to_dict() for each in self.differences]
        return {"first": self.first, "second": self.second, "same": self.same, "differences": rows}


def diff(
    first: StorePath | TokenStore,
    second: StorePath | TokenStore,
    *,
    samples: bool = True,
    jobs: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> StoreDiff:
    """Return what differs between two stores: tokenizer, grid, symmetries, classes, splits, columns, samples.

    Samples are compared by a digest of their codes and all columns that both stores have in the same form,
    with `samples=False` not at all; neither their order nor their numbers in the source count. Labels are
    compared by the names of their classes, if both stores have names. Memory is 8 bytes a sample and store.
    `jobs` blocks are read at a time, by default one a core. `storage_options` are those of the stores, as far
    as they are remote. `on_progress` is called with a step's name, the samples done and in all.

    Raises ArgumentError for `jobs` below 1, DamageError, and the errors of `tokenstore.open`.
    """
    threads = checked_jobs(jobs, available_cores())
    one, two = (
        as_store(store, storage_options if takes_options(store) else None) for store in (first, second)
    )
    found = [*_of_manifests(one, two), *_of_splits(one, two)]
    if samples and all(getattr(one.manifest, name) == getattr(two.manifest, name) for name in _SHAPES):
        for name in one.splits:
            if name in two.splits:
                found += _of_samples(one[name], two[name], threads, on_progress)
    places = one.files.storage.url, two.files.storage.url
    return StoreDiff(*places, tuple(found))


_SHAPES = ("grid", "codebook_sizes", "views")
"""The fields without which samples cannot be compared."""


def _of_manifests(one: TokenStore, two: TokenStore) -> Iterator[Difference]:
    for name in _FIELDS:
        values = getattr(one.manifest, name), getattr(two.manifest, name)
        if values[0] != values[1]:
            yield Difference(name, *map(_text, values))
    classes = one.class_names, two.class_names
    if classes[0] != classes[1]:
        yield Difference("classes", _classes(*classes), _classes(*classes[::-1]))
    for name in ("codebook", "synonyms"):
        was, now = (_array(getattr(store, name)) for store in (one, two))
        if was != now:
            yield Difference(name, was, now)
    was, now = map(_symmetries, (one, two))
    if was != now:
        yield Difference("symmetries", was, now)


def _text(value: object) -> str:
    return "none" if value is None else f"{value}"


def _array(values: npt.NDArray[Any] | None) -> str:
    return (
        "none" if values is None else f"{values.shape}, {hashlib.sha256(values.tobytes()).hexdigest()[:12]}"
    )


def _symmetries(store: TokenStore) -> str:
    names = store.manifest.symmetries
    return f"{', '.join(names)}: {_array(store.files.permutations)}" if names else "none"


def _classes(names: tuple[str, ...] | None, others: tuple[str, ...] | None) -> str:
    """Return what a store's classes are, beside those of another store."""
    if names is None:
        return "no names"
    own = [name for name in names if name not in (others or ())]
    if not own:
        return f"{len(names):,}, in another order" if set(names) == set(others or ()) else f"{len(names):,}"
    more = ", ..." if len(own) > _SHOWN else ""
    return f"{len(names):,}, of which only here {', '.join(own[:_SHOWN])}{more}"


def _of_splits(one: TokenStore, two: TokenStore) -> Iterator[Difference]:
    for name in dict.fromkeys([*one.splits, *two.splits]):
        if name not in one.splits or name not in two.splits:
            has = ("there" if name in store.splits else "not there" for store in (one, two))
            yield Difference(f"split {name}", *has)
            continue
        splits = one[name], two[name]
        summaries = one.manifest.splits[name], two.manifest.splits[name]
        for what in ("samples", "skipped"):
            numbers = [getattr(summary, what) for summary in summaries]
            if numbers[0] != numbers[1]:
                yield Difference(f"{name}: {what}", *(f"{number:,}" for number in numbers))
        for column in dict.fromkeys([*splits[0].columns, *splits[1].columns]):
            kinds = [_kind(split, column) for split in splits]
            if kinds[0] != kinds[1]:
                yield Difference(f"{name}: {column}", *kinds)


def _kind(split: SplitReader, column: str) -> str:
    if column not in split.columns:
        return "not there"
    layout = split.array(column).layout
    codec = f", {layout.codec.name}" if column == TOKENS else ""
    return f"{layout.column}{codec}"


def _of_samples(
    one: SplitReader, two: SplitReader, jobs: int, on_progress: OnProgress | None
) -> Iterator[Difference]:
    """Yield what differs between the samples of two splits."""
    columns = [name for name in one.columns if name in two.columns and one.column(name) == two.column(name)]

    def report(before: int, done: int) -> None:
        if on_progress is not None:
            on_progress(f"{one.name}, comparing", before + done, len(one) + len(two))

    names = one.store.manifest.class_names, two.store.manifest.class_names
    by_name = all(each is not None for each in names)
    digests = (
        _digests(one, columns, by_name, jobs, partial(report, 0)),
        _digests(two, columns, by_name, jobs, partial(report, len(one))),
    )
    if np.array_equal(digests[0], digests[1]):
        return
    only = _only(digests[0], digests[1]), _only(digests[1], digests[0])
    if not any(len(rows) for rows in only):
        row = int(np.argmax(digests[0] != digests[1]))
        yield Difference(f"{one.name}: order", "as there are", f"another from row {row:,} on")
        return
    texts = [_rows(split, rows) for split, rows in zip((one, two), only, strict=True)]
    yield Difference(f"{one.name}: samples only here", *texts)


def _rows(split: SplitReader, rows: npt.NDArray[np.int64]) -> str:
    """Return how many rows there are, and the first ones with their sources."""
    if not len(rows):
        return "none"
    shown = Subset(split, rows[:_ROWS_SHOWN]).samples_batches()
    sources = [str(source) for batch in shown for source in batch.column("source").to_pylist()]
    named = (f"{row} ({source})" for row, source in zip(rows[:_ROWS_SHOWN].tolist(), sources, strict=True))
    more = ", ..." if len(rows) > _ROWS_SHOWN else ""
    return f"{len(rows):,}: rows {', '.join(named)}{more}"


def _only(digests: Digests, others: Digests) -> npt.NDArray[np.int64]:
    """Return the rows of samples that others do not have, or not as often, in rising order."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    unique, starts = np.unique(ordered, return_index=True)
    known, counts = np.unique(others, return_counts=True)
    places = np.searchsorted(known, unique)
    found = places < len(known)
    found[found] = known[places[found]] == unique[found]
    have = np.zeros(len(unique), np.int64)
    have[found] = counts[places[found]]
    occurrence = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    is_only = occurrence >= np.repeat(have, np.diff(np.append(starts, len(ordered))))
    return np.sort(order[is_only])


def _digests(
    split: SplitReader, columns: list[str], by_name: bool, jobs: int, report: Callable[[int], None]
) -> Digests:
    """Return a digest of each sample's values (N,) uint64; raises DamageError."""
    readers = [(name, split.array(name).streamed(jobs)) for name in columns]
    names = split.store.manifest.class_names if by_name else None
    label_digests = None
    if names is not None:
        classes = (f"{occurrence} {name}".encode() for name, occurrence in told_apart(names))
        label_digests = np.array([_digest(each) for each in classes], np.uint64)
    digests = np.zeros(len(split), np.uint64)
    salts = np.random.default_rng(1).integers(0, 2**64, len(readers), np.uint64)
    step = max(1, _BLOCK_NBYTES // max(reader.layout.column.nbytes for _, reader in readers))

    def computed(start: int) -> int:
        stop = min(start + step, len(split))
        for number, (name, reader) in enumerate(readers):
            values = reader.read_range(start, stop)
            if name == LABELS and label_digests is not None:
                hashes = label_digests[values]
            else:
                hashes = _hashes(values)
            part = digests[start:stop]
            part += _mixed(hashes + salts[number : number + 1])
        return stop

    for stop in in_order(computed, range(0, len(split), step), jobs):
        report(stop)
    return digests


def _hashes(values: npt.NDArray[Any]) -> Digests:
    """Return a hash of each value (n, ...), which is a number for each."""
    if values.dtype.hasobject:
        texts = (value.encode() if isinstance(value, str) else _bytes(value) for value in values)
        return np.fromiter(map(_digest, texts), np.uint64, len(values))
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    words = padded.view(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**64, words.shape[1], np.uint64) | np.uint64(1)
    sums: Digests = _mixed(words) @ weights
    return sums


def _bytes(value: Any) -> bytes:
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _mixed(hashes: Digests) -> Digests:
    mixed: Digests = (hashes ^ (hashes >> np.uint64(29))) * _ODD
    return mixed ^ (mixed >> np.uint64(32))
