"""A program of two operations on one store, of which the first is stopped while the second runs.

It reads requests as JSON lines and answers each with a JSON line. Both operations run in forks of this
process, which has everything imported. The first stops before its file operation number `stop_at`; then the
second runs, to its end or until it gets SIGKILL before its own file operation `kill_second_at`; then the
first goes on, or gets SIGKILL too. An answer says whether the second changed a file that the first may read,
and what a kill of the first would leave. A request of `states` is answered with the state before each file
operation of the first, which runs alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.stores import random_codes, write_store
from tokenstore.audit.verify import verify
from tokenstore.reading.store import open_store
from tokenstore.writing import choices, in_place
from tokenstore.writing.copy import copy
from tokenstore.writing.editing.relabel import relabel
from tokenstore.writing.editing.select import select
from tokenstore.writing.recode import recode

CODES = random_codes(6, (2, 2), 391)


def write(path: Path) -> None:
    """Write the store that the operations are tried on."""
    write_store(path, {"train": (CODES,)}, chunk_samples=2, shard_samples=4)


def _verify(store: Path, _: Path) -> None:
    found = verify(store)
    assert found.ok, found.problems


def _read(store: Path, _: Path) -> None:
    opened = open_store(store)
    for row, codes in enumerate(CODES):
        np.testing.assert_array_equal(opened["train"][row], codes)


OPERATIONS: dict[str, Callable[[Path, Path], object]] = {
    "recode": lambda store, _: recode(store, codec="zstd"),
    "recode otherwise": lambda store, _: recode(store, codec="zstd", shard_samples=2),
    "relabel": lambda store, _: relabel(store, labels={"train": np.arange(6) % 2}),
    "recode to": lambda store, out: recode(store, out, codec="zstd"),
    "select": lambda store, out: select(store, out, where="row >= 0", jobs=1),
    "copy": copy,
    "verify": _verify,
    "read": _read,
    "convert": lambda store, _: write(store),
}
IN_PLACE = ("recode", "recode otherwise", "relabel")
"""The operations that put a store where another one is."""
READERS = ("verify", "read")
"""The operations that change no file, so that it does not matter whether they are killed."""


def tree(folder: Path, ignored: tuple[str, ...] = ()) -> str:
    """Return a digest of all that is in a folder: the paths, the files' bytes, and which files are one.

    Paths that begin with those `ignored` in the folder do not count.
    """
    left_out = tuple(f"{folder}/{name}" for name in ignored)
    found: list[tuple[object, ...]] = []
    names: dict[int, str] = {}
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        if not parent.startswith(left_out):
            found.append((parent, sorted(links)))
        for path in sorted(f"{parent}/{name}" for name in files):
            if path.startswith(left_out):
                continue
            number = Path(path).lstat().st_ino
            with open(path, "rb") as file:  # noqa: PTH123  as Path.open is counted
                digest = hashlib.sha256(file.read()).hexdigest()
            found.append((path, names.setdefault(number, path), digest))
    return hashlib.sha256(repr(sorted(found, key=repr)).encode()).hexdigest()


def _locks() -> list[str]:
    """Return the paths of the files that this process has locked."""
    locked = []
    for entry in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError), open(entry) as file:  # noqa: PTH123
            if "lock:" in file.read():
                locked.append(str(Path("/proc/self/fd", entry.name).readlink()))
    return sorted(locked)


class _Stops:
    """The calls that open or change files, counted, and what happens before one of them.

    Meanwhile an operation's other threads wait before their next such call.
    """

    def __init__(
        self, at: int, then: Callable[[], None], before_each: Callable[[], object] = lambda: None
    ) -> None:
        self._before_each = before_each
        self.begin_anew(at, then)
        for owner, names in (
            (os, ("fsync", "link", "mkdir", "open", "rmdir", "unlink")),
            (Path, ("open", "rename", "replace")),
            (fcntl, ("flock",)),
            (in_place, ("exchange",)),
        ):
            for name in names:
                setattr(owner, name, self._counted(getattr(owner, name)))

    def begin_anew(self, at: int, then: Callable[[], None]) -> None:
        """Count from 0, and call another function before another number."""
        self.done = 0
        self._one_at_a_time = threading.RLock()  # a fork has one of its own: none waits for its parent
        self._at, self._then = at, then

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._one_at_a_time:
                self.done += 1
                self._before_each()
                if self.done == self._at:
                    self._then()
            return function(*args, **kwargs)

        return call


def _told_by_a_fork(run: Callable[[Callable[[dict[str, Any]], None]], None]) -> dict[str, Any]:
    """Run a function in a fork; return all that it tells by its argument before it ends or is killed."""
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(written, "w") as pipe:
            run(lambda answer: print(json.dumps(answer), file=pipe, flush=True))
        os._exit(0)
    os.close(written)
    with os.fdopen(read) as pipe:
        told = [json.loads(line) for line in pipe]
    os.waitpid(child, 0)
    return {key: value for answer in told for key, value in answer.items()}


def _outcome(operation: str, store: Path, out: Path) -> str:
    try:
        OPERATIONS[operation](store, out)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run both operations of a request; an outcome of None is that of a killed one."""
    folder = Path(request["folder"])

    def first(tell: Callable[[dict[str, Any]], None]) -> None:
        def second(tell_second: Callable[[dict[str, Any]], None]) -> None:
            stops.begin_anew(request["kill_second_at"], _die)
            tell_second({"second": _outcome(request["second"], folder / "a", folder / "second")})

        def meanwhile() -> None:
            its_own = ("second", ".second.lock")
            before = _settled(folder, its_own)
            tell(_told_by_a_fork(second))
            tell({"second_changed": tree(folder, its_own) != before, "left_if_killed": tree(folder)})
            if request["kill_first"]:
                _die()

        stops = _Stops(request["stop_at"], meanwhile)
        tell({"first": _outcome(request["first"], folder / "a", folder / "first")})

    return {"first": None, "second": None, **_told_by_a_fork(first)}


def _settled(folder: Path, its_own: tuple[str, ...]) -> str:
    """Return the tree once what other threads of the first are writing is written."""
    seen = tree(folder, its_own)
    while (again := _after_a_moment(folder, its_own)) != seen:
        seen = again
    return seen


def _after_a_moment(folder: Path, its_own: tuple[str, ...]) -> str:
    time.sleep(0.002)
    return tree(folder, its_own)


def _states(request: dict[str, Any]) -> dict[str, Any]:
    """Run the first operation alone; return its outcome, and the files and locks before each operation.

    `lists` says whether it lists the folder of the stores, where the second operation puts its own.
    """
    folder = Path(request["folder"])

    def alone(tell: Callable[[dict[str, Any]], None]) -> None:
        states: list[str] = []
        listings: list[str] = []

        def note_state() -> None:
            already = len(listings)
            states.append(f"{tree(folder)} {_locks()}")
            del listings[already:]

        def note_listing(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("os.listdir", "os.scandir"):
                listings.append(str(arguments[0]))

        _Stops(0, _die, note_state)
        sys.addaudithook(note_listing)
        outcome = _outcome(request["first"], folder / "a", folder / "first")
        tell({"first": outcome, "states": states, "lists": str(folder) in listings})

    return _told_by_a_fork(alone)


def _warm_up() -> None:
    """Do everything once in this process, so that every fork has the compiled codecs."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "a"))
        for name, operation in OPERATIONS.items():
            if name != "convert":
                operation(Path(folder, "a"), Path(folder, name))


def main() -> None:
    """Answer the lines of standard input."""
    choices.COPY_JOBS = 1
    os.fsync = lambda _: None  # subtle: a killed process loses nothing that was written
    exchange = in_place.exchange
    _warm_up()
    gc.freeze()  # so that forks need not copy what they never use
    for line in sys.stdin:
        request = json.loads(line)
        in_place.exchange = (lambda *_: False) if request["two_renames"] else exchange
        answer = _states(request) if request["states"] else _answer(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
