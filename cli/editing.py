"""The progress and the last line of commands that make a store of other stores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .console import counted, echo, finished, human_bytes

if TYPE_CHECKING:
    from tokenstore.format import SplitSummary
    from tokenstore.writing.editing.new_store import EditedStore

Report = Callable[["EditedStore"], None]
"""A function that prints what has become of an operation."""


@contextlib.contextmanager
def edited(how: str, unit: str = "samples") -> Iterator[tuple[Callable[[str, int, int], Any], Report]]:
    """Show the progress of an operation, counted in `unit`, and at its end the store that it reported."""
    from .progress import step_bars

    started = time.monotonic()
    results: list[EditedStore] = []
    with step_bars(unit) as on_progress:
        yield on_progress, results.append
    for result in results:
        if result.already_complete:
            echo(f"{result.location}: already {how}")
            continue
        place, splits = result.location, result.manifest.splits
        facts = f"{how}, holds {samples_by_split(splits)}, {human_bytes(result.nbytes)}"
        finished(place, facts, started, ("tokenstore", "info", place), ("tokenstore", "verify", place))


def samples_by_split(splits: Mapping[str, SplitSummary]) -> str:
    """Return the samples of a store, in all and of each split."""
    return counted_by_split({name: split.samples for name, split in splits.items()})


def counted_by_split(samples: Mapping[str, int]) -> str:
    """Return numbers of samples, in all and of each split."""
    each = ", ".join(f"{name} {count:,}" for name, count in samples.items())
    return f"{counted(sum(samples.values()), 'sample')} ({each})"
