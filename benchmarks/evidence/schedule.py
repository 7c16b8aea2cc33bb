"""The running of cells: those without a result, after those that they need, some beside each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from evidence.cells import Cell, EvidenceError, Workplace, in_order, missing_inputs
from evidence.kinds import run_cell
from evidence.results import RESULTS, Result, add_result, read_results, refuse_other_inputs
from tokenstore.errors import TokenstoreError
from tokenstore.files import write_file
from tokenstore.locks import PlaceLock

__all__ = ["Outcome", "run_cells", "work_on"]

CELL, RESULT, LOG = "cell.json", "result.json", "output.log"
_WORKER = Path(__file__).with_name("worker.py")
_POLL_SECONDS = 0.2
_LAST_LINES = 5


@dataclass(frozen=True)
class Outcome:
    """The end of a cell's work."""

    cell: Cell
    result: Result | None
    """The result; None if the work failed, or waits for something."""
    problem: str = ""
    """The reason why there is no result."""


def run_cells(
    cells: Sequence[Cell],
    work: Workplace,
    *,
    jobs: int = 1,
    on_begin: Callable[[Cell], None] = lambda _: None,
    on_end: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run cells and those that they need, and return the outcomes of all that had no result in `work`.

    `jobs` cells run beside each other, each in a process; with 0 jobs they run in this process. Cells without
    their inputs, and cells that need such a cell or a failed one, are left out. Ctrl-C and SIGTERM let
    trainings write their checkpoints.

    Raises EvidenceError if another process works in the folder, or if a result there was made from other
    inputs.
    """
    with _locked(work.folder):
        path = work.folder / RESULTS
        results = read_results(path)
        pending = []
        for cell in in_order(cells):
            if cell.key in results:
                refuse_other_inputs(cell, work, results[cell.key], path)
            else:
                pending.append(cell)
        run = _Run(work, path, set(results), on_begin, on_end)
        with _stopping():
            run.all(pending, jobs)
        return run.outcomes


class _Run:
    """The cells that are run by one call."""

    def __init__(
        self,
        work: Workplace,
        path: Path,
        done: set[str],
        on_begin: Callable[[Cell], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.work, self.path, self.done = work, path, done
        self.on_begin, self.on_end = on_begin, on_end
        self.outcomes: list[Outcome] = []
        self.running: dict[str, tuple[Cell, subprocess.Popen[bytes]]] = {}

    def all(self, pending: list[Cell], jobs: int) -> None:
        """Run all cells; processes that run when this is left by an exception are ended."""
        try:
            while pending or self.running:
                self._leave_out(pending)
                ready = [
                    cell for cell in pending if all(each.key in self.done for each in cell.needs.values())
                ]
                for cell in ready[: max(jobs, 1) - len(self.running)]:
                    pending.remove(cell)
                    self.on_begin(cell)
                    if jobs:
                        self.running[cell.key] = cell, _worker(cell, self.work)
                    else:
                        self._end(_outcome_here(cell, self.work))
                for key, (cell, process) in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[key]
                        self._end(_outcome(cell, self.work, process.returncode))
                if self.running:
                    time.sleep(_POLL_SECONDS)
        finally:
            for _, process in self.running.values():
                process.terminate()
            for _, process in self.running.values():
                process.wait()

    def _leave_out(self, pending: list[Cell]) -> None:
        """Take cells out that wait for inputs, or for cells that have failed."""
        absent = {outcome.cell.key: outcome.cell for outcome in self.outcomes if outcome.result is None}
        for cell in list(pending):
            inputs = missing_inputs([cell], self.work.inputs)
            failed = [each for each in cell.needs.values() if each.key in absent]
            if inputs:
                problem = f"waits for the inputs {', '.join(inputs)}"
            elif failed:
                problem = f"needs what has no result: {failed[0].names}"
            else:
                continue
            pending.remove(cell)
            absent[cell.key] = cell
            self._end(Outcome(cell, None, problem))

    def _end(self, outcome: Outcome) -> None:
        if outcome.result is not None:
            add_result(self.path, outcome.result)
            self.done.add(outcome.cell.key)
        self.outcomes.append(outcome)
        self.on_end(outcome)


def work_on(path: Path) -> None:
    """Run the cell that a file describes, and write its result beside it: the work of a process."""
    values = json.loads(path.read_text())
    places = {key: Path(place) for key, place in values["work"].pop("places").items()}
    work = Workplace(Path(values["work"].pop("folder")), **values["work"], places=places)
    result = run_cell(Cell.from_dict(values["cell"]), work)
    write_file(path.with_name(RESULT), json.dumps(result).encode())


def _worker(cell: Cell, work: Workplace) -> subprocess.Popen[bytes]:
    """Start a process that runs a cell."""
    folder = _desk(cell, work)
    described: dict[str, Any] = {"cell": cell.to_dict(), "work": asdict(work)}
    write_file(folder / CELL, json.dumps(described, default=str, indent=1).encode())
    threads = {name: str(work.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(_WORKER), str(folder / CELL)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,  # subtle: of two signals, Ctrl-C and ours, the second would lose steps
        )


def _outcome(cell: Cell, work: Workplace, status: int) -> Outcome:
    """Return the outcome of a process that has ended."""
    folder = _desk(cell, work)
    result = read_result(folder / RESULT)
    if status == 0 and result is not None and result.get("key") == cell.key:
        (folder / RESULT).unlink()
        return Outcome(cell, result)
    lines = (folder / LOG).read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return Outcome(cell, None, f"its process ended with status {status}: {' / '.join(lines)[-500:]}")


def _outcome_here(cell: Cell, work: Workplace) -> Outcome:
    """Run a cell in this process, and return its outcome."""
    try:
        return Outcome(cell, run_cell(cell, work))
    except (TokenstoreError, OSError) as error:
        return Outcome(cell, None, str(error))


def read_result(path: Path) -> Mapping[str, Any] | None:
    """Return the result in a file of its own; None if there is none."""
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _desk(cell: Cell, work: Workplace) -> Path:
    """Return the folder for the papers of a cell's process, which is not that of its files."""
    folder = work.folder / "desks" / cell.key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of work; raises EvidenceError if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = PlaceLock(folder, "table's folder")
    except BlockingIOError as error:
        raise EvidenceError(f"{folder}: {error}. Wait for its end, or work in another folder") from error
    with lock:
        yield


@contextmanager
def _stopping() -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does, until the block ends."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
