"""The kinds of cells, and the function that runs a cell of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from evidence.cells import Cell, EvidenceError, Workplace
from evidence.pixels import train_on_pixels
from evidence.results import Result, code_commit, finished
from evidence.robustness import evaluate_corrupted
from evidence.stores import make_store, make_subset
from evidence.trainings import OnStep, train
from evidence.views import make_views

__all__ = ["KINDS", "TRAININGS", "run_cell"]

TRAININGS: Mapping[str, Callable[[Cell, Workplace, OnStep | None], dict[str, Any]]] = {
    "pretrain": train,
    "finetune": train,
    "segment": train,
    "pixels": train_on_pixels,
}
"""The kinds of cells that take steps."""
KINDS: Mapping[str, Callable[[Cell, Workplace], dict[str, Any]]] = {
    "store": make_store,
    "subset": make_subset,
    "views": make_views,
    "robustness": evaluate_corrupted,
    **{kind: lambda cell, work, run=function: run(cell, work, None) for kind, function in TRAININGS.items()},
}
"""The function of each kind, which does the work of a cell, or goes on with it, and returns its facts."""


def run_cell(cell: Cell, work: Workplace) -> Result:
    """Do the work of a cell, or go on with it, and return its result.

    Raises EvidenceError for an unknown kind, and the errors of the work.
    """
    if cell.kind not in KINDS:
        raise EvidenceError(f"{cell.names}: expected one of {', '.join(KINDS)}, found {cell.kind}")
    work.folder.mkdir(parents=True, exist_ok=True)
    commit, start = code_commit(), time.monotonic()  # subtle: the files may change while a cell runs
    facts = KINDS[cell.kind](cell, work)
    return finished(cell, work, {**facts, "wall_seconds": round(time.monotonic() - start, 1)}, commit)
