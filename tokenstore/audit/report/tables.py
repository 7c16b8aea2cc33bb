"""The tables of a report: ranges of aligned columns, skipped samples by reason, duplicates by their codes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.column_use import RunningSpread
from tokenstore.format import LABELS, SKIPPED_SCHEMA, SKIPPED_TABLE, TOKENS, table_batches
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.checked_files import checked_file
from tokenstore.texts import printable
from tokenstore.writing.editing.dedupe import Deduped, dedupe

MOST_READ = 2**16
"""The samples of a column whose values are read, about: whole chunks, evenly spaced."""
MOST_REASONS = 50
"""The reasons of skipped samples that are listed."""
EXAMPLES = 6
"""The pairs of duplicates that are shown."""

_AT_ONCE = 2**10
"""The samples that are read together; soft labels of 65,536 classes then take 268 MB."""


@dataclass(frozen=True)
class ColumnRange:
    """The values of one aligned column of a split; of texts and lists, their lengths."""

    name: str
    kind: str
    """The dtype and shape of one sample, such as float32[4]."""
    samples: int
    """The samples whose values were read."""
    least: float | None
    most: float | None
    mean: float | None
    of_lengths: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def column_ranges(split: SplitReader) -> list[ColumnRange]:
    """Return the range of each aligned column but codes and labels; raises DamageError.

    Soft labels are read as probabilities.
    """
    names = [name for name in split.columns if name not in (TOKENS, LABELS)]
    return [_range(split, name) for name in names]


def _range(split: SplitReader, name: str) -> ColumnRange:
    column, reader = split.column(name), split.array(name).streamed()
    running, samples = RunningSpread(), 0
    for start, stop in _spans(len(split), reader.layout.chunk_samples):
        values = column.values(reader.read_range(start, stop))
        samples += stop - start
        running.add(_lengths(values) if column.is_ragged else values[np.isfinite(values)])
    spread = running.spread
    least, most, mean = (None, None, None) if spread is None else (spread.least, spread.greatest, spread.mean)
    return ColumnRange(name, str(column), samples, least, most, mean, column.is_ragged)


def _lengths(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.array([len(value) for value in values], np.int64)


def _spans(samples: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield spans [start, stop) of whole chunks: all of few samples, of many some that are evenly spaced."""
    chunks = -(-samples // chunk)
    picked = min(chunks, max(1, MOST_READ // chunk))
    for number in range(picked):
        start = number * chunks // picked * chunk
        for first in range(start, min(start + chunk, samples), _AT_ONCE):
            yield first, min(first + _AT_ONCE, start + chunk, samples)


@dataclass(frozen=True)
class SkippedSamples:
    """The samples of a split's source that the store does not have, by reason."""

    samples: int
    reasons: list[tuple[str, int, str]]
    """The reasons, with their samples and the name of the first one, the most frequent first."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        reasons = [
            {"reason": reason, "samples": count, "first": first} for reason, count, first in self.reasons
        ]
        return {"samples": self.samples, "reasons": reasons}


def skipped_samples(store: TokenStore, split: str) -> SkippedSamples:
    """Count a split's skipped samples by reason, in which numbers count as equal; raises DamageError."""
    summary = store.manifest.splits[split]
    if not summary.skipped:
        return SkippedSamples(0, [])
    path, counts = f"{split}/{SKIPPED_TABLE}", Counter[str]()
    first: dict[str, tuple[str, str]] = {}
    with checked_file(store.files, path) as file:
        where = f"{store.files.storage}/{path}"
        for batch in table_batches(file, SKIPPED_SCHEMA, summary.skipped, where):
            rows = zip(batch.column("source").to_pylist(), batch.column("reason").to_pylist(), strict=True)
            for source, reason in rows:
                kind = re.sub(r"\d+", "#", reason.replace(source, "..."))[:200]
                counts[kind] += 1
                if kind not in first and len(first) < 10 * MOST_REASONS:
                    first[kind] = (printable(reason), printable(source))
    listed = [(*first.get(kind, (kind, "")), count) for kind, count in counts.most_common(MOST_REASONS)]
    return SkippedSamples(summary.skipped, [(reason, count, source) for reason, source, count in listed])


@dataclass(frozen=True)
class DuplicateFigures:
    """The samples of a store whose codes another one has, and pairs with nearly the same."""

    near: float | None
    """The least share of equal codes of near pairs; None if they were not looked for."""
    exact: list[tuple[str, str, int]]
    """The split of the first sample, that of the later one, and the number of later samples."""
    near_pairs: list[tuple[str, str, int]]
    is_complete: bool
    """False if there are more near pairs than were listed."""
    removed: dict[str, int]
    """The samples of each split that `tokenstore.dedupe` would remove."""
    examples: list[tuple[str, int, str, int, float]] = field(default_factory=list)
    """Some pairs: split and row of both samples, and their share of equal codes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        counts = ("first_split", "second_split", "pairs")
        pair = ("first_split", "first_row", "second_split", "second_row", "share")
        return {
            "near": self.near,
            "exact": [dict(zip(counts, each, strict=True)) for each in self.exact],
            "near_pairs": [dict(zip(counts, each, strict=True)) for each in self.near_pairs],
            "is_complete": self.is_complete,
            "removed": self.removed,
            "examples": [dict(zip(pair, each, strict=True)) for each in self.examples],
        }


def duplicate_figures(
    store: TokenStore, near: float | None, on_progress: Callable[[str, int, int], None]
) -> DuplicateFigures:
    """Find duplicates as `tokenstore.dedupe` does, within splits and between them; raises DamageError."""
    result = dedupe(store, near=near, on_progress=on_progress)
    pairs = result.duplicates
    return DuplicateFigures(
        near,
        [(*names, count) for names, count in pairs.counts(pairs.exact).items()],
        [(*names, count) for names, count in pairs.counts(pairs.near).items()],
        pairs.near.is_complete,
        dict(result.removed),
        _examples(result),
    )


def _examples(result: Deduped) -> list[tuple[str, int, str, int, float]]:
    """Return a few pairs: exact ones between splits first, then exact ones, then near ones."""
    found = result.duplicates
    starts, chosen = found.starts, []
    for pairs in (found.exact, found.near):
        first, second = (np.searchsorted(starts, part, "right") - 1 for part in (pairs.first, pairs.second))
        order = np.argsort(first == second, kind="stable")[:EXAMPLES]
        for place in order.tolist():
            one, two = int(first[place]), int(second[place])
            chosen.append(
                (
                    found.splits[one].name,
                    int(pairs.first[place] - starts[one]),
                    found.splits[two].name,
                    int(pairs.second[place] - starts[two]),
                    float(pairs.shares[place]),
                )
            )
    return chosen[:EXAMPLES]
