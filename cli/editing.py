"""The progress and the last line of commands that make a store of other stores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .console import echo, hint, human_bytes

if TYPE_CHECKING:
    from tokenstore.writing.editing.new_store import EditedStore

Report = Callable[["EditedStore"], None]
"""A function that prints what has become of an operation."""


@contextlib.contextmanager
def edited(how: str) -> Iterator[tuple[Callable[[str, int, int], Any], Report]]:
    """Show the progress of an operation in the block, and at its end the store that it reported."""
    from .progress import step_bars

    started = time.monotonic()
    results: list[EditedStore] = []
    with step_bars() as on_progress:
        yield on_progress, results.append
    for result in results:
        if result.already_complete:
            echo(f"{result.location}: already {how}")
            continue
        sizes = ", ".join(f"{name} {split.samples:,}" for name, split in result.manifest.splits.items())
        took = time.monotonic() - started
        echo(f"{result.location}: {how}, {sizes} samples, {human_bytes(result.nbytes)}; {took:.1f} s")
        hint(f"tokenstore info {result.location}; tokenstore verify {result.location}")
