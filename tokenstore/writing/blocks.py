"""The blocks of a pass over whole stores: neighbouring samples of one array, each worked on by itself.

A pass is a small task that is done for every block: the encoding of a piece of a shard, or the counting of
codes. Threads of this process do it, or an executor has it done elsewhere; the results are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeVar, runtime_checkable

from typing_extensions import override

from tokenstore.errors import ArgumentError, Parameter, TokenstoreError
from tokenstore.format import ROOT
from tokenstore.machine import available_cores, in_order
from tokenstore.reading import StoreFiles
from tokenstore.reading.array import Values
from tokenstore.writing.choices import checked_jobs
from tokenstore.writing.joined import JoinedSplit

__all__ = [
    "Block",
    "BlockExecutor",
    "BlockReader",
    "BlockTask",
    "StoredBlocks",
    "Threads",
    "block_executor",
    "reachable",
]

_OPENED_AT_ONCE = 16
_Result = TypeVar("_Result")
_ResultOf = TypeVar("_ResultOf", covariant=True)


@dataclass(frozen=True)
class Block:
    """The samples [start, stop) of one array of a split, of all stores of a pass one after another."""

    split: str
    array: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.split}/{self.array}, samples {self.start} to {self.stop - 1}"


class BlockReader(Protocol):
    """A reader of the blocks of one pass over stores."""

    def read(self, block: Block) -> Any:
        """Return the contents of a block, picklable: for most tasks its values (n, ...)."""

    def places(self, block: Block) -> Collection[int]:
        """Return the numbers of the stores that a block has samples of."""


class BlockTask(Protocol[_ResultOf]):
    """A picklable task that is done for each block: a pure function of its contents."""

    @property
    def stores(self) -> Sequence[StoreFiles]:
        """The stores that the blocks are of."""

    def reader(self, threads: int) -> BlockReader:
        """Return a reader of the blocks, for so many threads at a time."""

    def __call__(self, block: Block, contents: Any, /) -> _ResultOf:
        """Return the result of a block with the contents that a reader returned."""


@runtime_checkable
class BlockExecutor(Protocol):
    """A way to do a task for many blocks: by threads of this process, or on many machines."""

    def blocks(self, task: BlockTask[_Result], blocks: Iterable[Block]) -> Generator[_Result, None, None]:
        """Do a task for each block, and yield the results in the order of the blocks.

        An executor may do a block again after a failure, and has a bounded number of results that were not
        taken yet. It ends its work when it is closed. Raises what the task and the reading raise.
        """


@dataclass(frozen=True)
class Threads(BlockExecutor):
    """The executor that has `jobs` threads of this process."""

    jobs: int

    @override
    def blocks(self, task: BlockTask[_Result], blocks: Iterable[Block]) -> Generator[_Result, None, None]:
        reader = task.reader(self.jobs)
        yield from in_order(lambda block: task(block, reader.read(block)), blocks, self.jobs)


def block_executor(jobs: int | None, executor: BlockExecutor | None) -> BlockExecutor:
    """Return the executor, or by default one of `jobs` threads, one a core for None.

    Raises ArgumentError for `jobs` below 1, or beside an executor.
    """
    if executor is None:
        return Threads(checked_jobs(jobs, available_cores()))
    if jobs is not None:
        named = Parameter("jobs")
        raise ArgumentError(
            f"jobs: expected none beside an executor, which has its own, found {jobs}. Leave out {named}",
            parameters=[named],
        )
    return executor


class StoredBlocks(BlockReader):
    """A reader of blocks of the splits of one name of all stores, by so many threads at a time."""

    def __init__(self, stores: Sequence[StoreFiles], threads: int) -> None:
        self._stores, self._threads = stores, threads
        self._splits: dict[str, JoinedSplit] = {}
        self._lock = Lock()

    @override
    def read(self, block: Block) -> Values:
        """Return the values (n, ...) of a block; raises what `JoinedSplit.read_range` raises."""
        return self._joined(block).read_range(block.array, block.start, block.stop)

    @override
    def places(self, block: Block) -> range:
        return self._joined(block).places(block.start, block.stop)

    def _joined(self, block: Block) -> JoinedSplit:
        with self._lock:
            if block.split not in self._splits:
                self._splits[block.split] = JoinedSplit(self._stores, block.split, self._threads)
            return self._splits[block.split]


def reachable(stores: Sequence[StoreFiles]) -> frozenset[int]:
    """Return the numbers of the stores that this process finds at their place."""

    def is_there(store: StoreFiles) -> bool:
        try:
            return hashlib.sha256(store.storage.read(ROOT)).hexdigest() == store.root_digest
        except (OSError, TokenstoreError):
            return False

    answers = list(in_order(is_there, stores, _OPENED_AT_ONCE))
    return frozenset(number for number, is_here in enumerate(answers) if is_here)
