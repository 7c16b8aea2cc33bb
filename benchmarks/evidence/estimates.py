"""The time that cells will take on this machine, from a few images and a few steps of each kind of cell."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenstore
from evidence.cells import Cell, Workplace, in_order, missing_inputs
from evidence.kinds import TRAININGS
from evidence.results import Result
from evidence.stores import conversion, store_place
from evidence.trainings import TRAINING_SAMPLES
from evidence.views import drawn_views
from seitpp_models.training import NetworkStep
from tokenstore.networks.threads import torch_threads
from tokenstore.sources import open_source

__all__ = ["Estimate", "estimated"]

_IMAGES = 256
_FIRST_STEP, _LAST_STEP = 3, 9
"""The steps between which time is taken: the first ones prepare, and are slower."""
_VIEWS = 100
"""The samples whose views are drawn."""
_EVALUATION = 1 / 3
"""The time of a sample in evaluation, as a share of that in a step."""


@dataclass(frozen=True)
class Estimate:
    """The time of cells of the same cost."""

    name: str
    cells: int
    seconds: float
    """The seconds of each."""


class _EnoughError(Exception):
    """The end of a measured training."""


def estimated(cells: Iterable[Cell], work: Workplace, results: Mapping[str, Result]) -> list[Estimate]:
    """Return how long the cells without a result will take, and those that they need.

    Cells whose inputs are missing are left out. The measures of cells beside each other, or on a busy
    machine, are what that gives. Raises the errors of the cells' work.
    """
    ordered = in_order(cell for cell in cells if not missing_inputs([cell], work.inputs))
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        rates: dict[str, float] = {}
        places = dict(_small_stores(ordered, work, results, Path(folder), rates))
        here = replace(work, folder=Path(folder), places=places)
        pending = [cell for cell in ordered if cell.key not in results]
        estimates = _of_stores(pending, work, rates) + _of_trainings(pending, here)
        return estimates + _of_views(pending, here) + _of_images(pending, here, rates)


def _small_stores(
    cells: Sequence[Cell],
    work: Workplace,
    results: Mapping[str, Result],
    folder: Path,
    rates: dict[str, float],
) -> Iterator[tuple[str, Path]]:
    """Give stores to measure on by the keys of cells, and note the seconds an image of each in `rates`."""
    for cell in cells:
        if cell.kind == "subset":
            whole = cell.needs["store"]
            yield cell.key, folder / whole.key if whole.key not in results else work.place(whole)
            rates[cell.key] = rates[whole.key]
        if cell.kind == "store" and cell.key in results:
            done = results[cell.key]
            rates[cell.key] = done["wall_seconds"] / sum(done["splits"].values())
            yield cell.key, work.place(cell)
        elif cell.kind == "store":
            start = time.monotonic()
            with torch_threads(work.threads):
                tokenstore.convert(target=folder / cell.key, limit=_IMAGES, **conversion(cell, work))
            store = tokenstore.open(folder / cell.key)
            rates[cell.key] = (time.monotonic() - start) / sum(len(store[name]) for name in store.splits)
            yield cell.key, folder / cell.key


def _of_stores(cells: Sequence[Cell], work: Workplace, rates: Mapping[str, float]) -> list[Estimate]:
    """Return the time of the conversions of whole sources."""
    estimates = []
    for cell in cells:
        if cell.kind == "store":
            source = open_source(work.filled(cell)["source"])
            shares = {"train": cell.decisions.get("share", 1.0)}
            images = sum(shares.get(name, 1.0) * len(split) for name, split in source.splits.items())
            estimates.append(Estimate(cell.names.arm, 1, images * rates[cell.key]))
    return estimates


def _of_trainings(cells: Sequence[Cell], work: Workplace) -> list[Estimate]:
    """Return the time of trainings: cells that differ in seeds and samples alone are measured once."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.kind in TRAININGS:
            costs = {name: value for name, value in cell.decisions.items() if name != "seed"}
            groups.setdefault(json.dumps([cell.kind, costs, str(store_place(cell, work))]), []).append(cell)
    estimates = []
    for members in groups.values():
        each = _seconds_of_step(members[0], work)
        steps = members[0].decisions["steps"]
        store = tokenstore.open(store_place(members[0], work))
        evaluated = sum(len(store[name]) for name in store.splits if name != "train")
        if members[0].kind in ("finetune", "pixels"):
            evaluated += min(len(store["train"]), TRAINING_SAMPLES)
        batches = evaluated / members[0].decisions["settings"].get("batch_size", 1)
        names = members[0].names.arm
        estimates.append(Estimate(names, len(members), each * (steps + _EVALUATION * batches)))
    return estimates


def _of_views(cells: Sequence[Cell], work: Workplace) -> list[Estimate]:
    """Return the time of drawing views, from those of a few samples."""
    estimates = []
    for cell in cells:
        if cell.kind == "views":
            split = tokenstore.open(store_place(cell, work))["train"]
            start = time.monotonic()
            with torch_threads(work.threads):
                drawn = drawn_views(cell, work, 0, _VIEWS)
            each = (time.monotonic() - start) / len(drawn)
            estimates.append(Estimate(cell.names.arm, 1, each * len(split) * cell.decisions["count"]))
    return estimates


def _seconds_of_step(cell: Cell, work: Workplace) -> float:
    """Return the seconds of a step of a training, which runs for a few of them."""
    samples = len(tokenstore.open(store_place(cell, work))["train"])
    each = -(-samples // cell.decisions["settings"].get("batch_size", 1))
    steps = max(-(-_LAST_STEP // each), round(cell.decisions["steps"] / each)) * each
    alone = Cell(cell.kind, {**cell.decisions, "steps": steps}, {"store": cell.needs["store"]}, cell.names)
    seconds: list[float] = []

    def note(step: NetworkStep) -> None:
        seconds.append(step.seconds)
        if step.step == _LAST_STEP:
            raise _EnoughError

    with _cleared(work.place(alone)), suppress(_EnoughError):
        TRAININGS[cell.kind](alone, work, note)
    return (seconds[-1] - seconds[_FIRST_STEP - 1]) / (len(seconds) - _FIRST_STEP)


def _of_images(cells: Sequence[Cell], work: Workplace, rates: Mapping[str, float]) -> list[Estimate]:
    """Return the time of evaluations of corrupted images, nearly all of which is making tokens."""
    estimates = []
    for cell in cells:
        if cell.kind == "robustness":
            values: Mapping[str, Any] = cell.decisions
            store = cell.needs["model"].needs["store"]
            split = tokenstore.open(work.place(store))["val"]
            classes = len(split.store.class_names or ()) if values["images_of_a_class"] else 0
            images = classes * values["images_of_a_class"] if classes else len(split)
            conditions = 1 + len(values["corruptions"]) * len(values["severities"])
            estimates.append(
                Estimate(f"{cell.names.arm}, corrupted", 1, images * conditions * rates[store.key])
            )
    return estimates


@contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """Remove a folder when the block ends."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
