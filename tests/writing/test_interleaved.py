"""Any two operations on a store at once, one stopped or killed at any file operation: no store is lost."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interleaved_operations import CODES, IN_PLACE, OPERATIONS, READERS, tree, write
from helpers.worker_forks import program

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import IncompleteStoreError, NotAStoreError
from tokenstore.writing.recode import recode

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

REFUSALS = ("ConversionError", "StoreExistsError", "StoreChangedError", "IncompleteStoreError")
"""The errors that an operation may end in because of another one."""


class Pairs:
    """The program that runs two operations at once."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._states: dict[tuple[str, bool], list[str]] = {}
        self._checked: set[tuple[str, bool]] = set()
        write(folder / "whole")

    def states(self, name: str, two_renames: bool) -> list[str]:
        """Return the state before each file operation of an operation alone: all files and the locks."""
        if (name, two_renames) not in self._states:
            answer = self._ask({"first": name, "two_renames": two_renames, "states": True})
            assert answer["first"] == "done" or name == "convert"
            assert not answer["lists"]
            self._states[name, two_renames] = answer["states"]
        return self._states[name, two_renames]

    def operations(self, name: str, two_renames: bool) -> int:
        """Return the number of file operations of an operation alone."""
        return len(self.states(name, two_renames))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the program answer a request on a new store."""
        folder = self._folder / "try"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._folder / "whole", folder / "a")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({**request, "folder": str(folder)}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def run(
        self,
        first: str,
        second: str,
        stop_at: int = 0,
        *,
        kill_first: bool = False,
        kill_second_at: int = 0,
        two_renames: bool = False,
    ) -> dict[str, Any]:
        """Run two operations on a new store, check what is left, and return what the program answers."""
        request = {key: value for key, value in locals().items() if key != "self"}
        answer = self._ask({**request, "states": False})
        for name in ("first", "second"):
            outcome = answer[name]
            refused = outcome not in (None, "done")
            assert not refused or (outcome.startswith(REFUSALS) and "estore" not in outcome), (
                request,
                outcome,
            )
        assert second not in READERS or not answer["second_changed"], request
        may_be_between = two_renames and (kill_first or kill_second_at > 0)
        folder = self._folder / "try"
        if not self.is_checked(left := tree(folder), may_be_between):
            check(folder, may_be_between, str(request))
            self._checked.add((left, may_be_between))
        return answer

    def is_checked(self, left: str, may_be_between: bool) -> bool:
        """Return True for files that were checked already: the same files, the same verdict."""
        return (left, may_be_between) in self._checked


def check(folder: Path, may_be_between: bool, request: str) -> None:
    """Check that the store is the old one or the new one, whole, and all that a last recoding leaves."""
    if may_be_between and not (folder / "a").exists():
        with pytest.raises(IncompleteStoreError, match="Recode the store in its place again"):
            tokenstore.open(folder / "a")
    else:
        assert_whole(folder / "a")
    for out in ("first", "second"):
        try:
            tokenstore.open(folder / out)
        except (IncompleteStoreError, NotAStoreError):
            continue
        assert_whole(folder / out)
    recode(folder / "a", codec="zstd", shard_samples=4)
    assert_whole(folder / "a")
    left = {path.name for path in folder.iterdir()} - {"first", "second", ".first.lock", ".second.lock"}
    assert left == {"a"}, request


def assert_whole(path: Path) -> None:
    found = verify(path)
    assert found.problems == []
    np.testing.assert_array_equal(tokenstore.open(path)["train"][:], CODES)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Pairs]:
    """Start the program; its folder is in memory where the system has one there, as disks take most time."""
    command, memory = program("helpers.interleaved_operations"), "/dev/shm"
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        yield Pairs(process, Path(folder))
        assert process.stdin is not None
        process.stdin.close()


def test_only_operations_in_place_have_two_renames(pairs: Pairs) -> None:
    for name in OPERATIONS:
        more = pairs.operations(name, True) - pairs.operations(name, False)
        assert (more > 0) == (name in IN_PLACE), name


@pytest.mark.parametrize(("seed", "runs"), [(18, 6), pytest.param(19, 120, marks=pytest.mark.thorough)])
def test_two_operations_at_once_leave_the_old_store_or_the_new_one_whole(
    pairs: Pairs, seed: int, runs: int
) -> None:
    """Sample pairs, moments and deaths; at least one of the two changes the store in its place."""
    draw = random.Random(seed)
    names = list(OPERATIONS)
    for _ in range(runs):
        first, second = draw.choice(names[:3]), draw.choice(names)
        if draw.random() < 0.4:
            first, second = second, first
        two_renames = draw.random() < 0.4
        pairs.run(
            first,
            second,
            draw.randint(1, pairs.operations(first, two_renames)),
            kill_first=draw.random() < 0.5,
            kill_second_at=draw.choice((0, draw.randint(1, pairs.operations(second, two_renames)))),
            two_renames=two_renames,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "two_renames"),
    [
        (*pair, two_renames)
        for pair in itertools.product(OPERATIONS, OPERATIONS)
        for two_renames in (False, True)[: 1 + bool({*pair} & {*IN_PLACE})]
    ],
)
def test_every_moment_of_any_two_operations_leaves_a_whole_store(
    pairs: Pairs, first: str, second: str, two_renames: bool
) -> None:
    """Stop the first before each file operation, and let it go on or kill it; kill the second or do not.

    Two moments are one case if files and locks are the same at both and the second changes nothing that the
    first may read: both find the same at either. A kill of the first leaves what the second left, which is
    checked once.
    """
    states, count = pairs.states(first, two_renames), pairs.operations(second, two_renames)
    assert second not in READERS or len(set(pairs.states(second, two_renames))) == 1
    draw = random.Random(f"{first} {second}")
    for second_dies in (False,) if second in READERS else (False, True):
        changed = True
        for stop_at in range(1, len(states) + 1):
            if not changed and states[stop_at - 1] == states[stop_at - 2]:
                continue
            kill = draw.randint(1, count) if second_dies else 0
            case = functools.partial(
                pairs.run, first, second, stop_at, kill_second_at=kill, two_renames=two_renames
            )
            answer = case()
            changed = answer["second_changed"]
            if not pairs.is_checked(answer["left_if_killed"], two_renames):
                case(kill_first=True)
