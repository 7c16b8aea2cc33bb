"""The executor of a Ray cluster: actors encode ranges, and blocks of stores, wherever Ray places them.

Each actor has its own tokenizer and its own decode processes, so only codes leave its machine. `crew` has
the actors of a job, whatever it is. A range that kills its workers is cut in two, down to the sample
(`work`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

from tokenstore.conversion.crew import ActorJob, ActorRecipe, Engine, RayNodes, Team, results
from tokenstore.conversion.executors import Executor
from tokenstore.conversion.plans import RangePlan, WorkerRecipe
from tokenstore.conversion.ranges import MOST_DEATHS, RangeRequest, SampleRange, Segment
from tokenstore.conversion.work import Work
from tokenstore.errors import ArgumentError, DependencyError, Parameter, WorkerError
from tokenstore.writing.blocks import Block, BlockExecutor, BlockReader, BlockTask, reachable

__all__ = ["RayExecutor"]

_AT_ONCE = 2
"""The ranges that an actor has at a time: one is decoded while the other is with the tokenizer."""
_ANSWER_SECONDS = 10.0
"""The time in which the head of a cluster has to answer."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RayExecutor(Executor, BlockExecutor):
    """The executor that works on a Ray cluster; it needs `pip install 'tokenstore[ray]'`.

    Raises ArgumentError for numbers that no actor can have.
    """

    address: str = "auto"
    """The cluster: `auto` for the one that this process is connected to or this machine is part of, `local`
    for a new one of this machine alone, or the address of its head, `HOST:PORT`."""
    actors: int = 1
    """The number of actors; those for which the cluster has no room yet begin when it has."""
    gpus_per_actor: float | None = None
    """The GPUs of an actor, also a share of one; by default 1 where the tokenizer's device is one, else 0."""
    cpus_per_actor: int = 1
    """The cores of an actor: it has so many decode processes."""
    range_samples: int = 512
    """The samples of a range, about: what is lost with an actor is at most two ranges. Of Parquet files, a
    range has whole row groups, so that each is fetched once."""

    def __post_init__(self) -> None:
        for name, least in (
            ("actors", 1),
            ("cpus_per_actor", 1),
            ("range_samples", 1),
            ("gpus_per_actor", 0),
        ):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ArgumentError(
                    f"{name}: expected {least} or more, found {value}", parameters=[Parameter(name)]
                )
        gpus = self.gpus_per_actor
        if gpus is not None and gpus > 1 and gpus % 1 != 0:
            raise ArgumentError(
                f"gpus_per_actor: expected a share of one GPU or a whole number of them, found {gpus}",
                parameters=[Parameter("gpus_per_actor")],
            )

    @override
    def segments(self, plan: RangePlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        ray = _imported()
        recipe, gpus = self._on_actors(plan.recipe)
        batches = max(1, self.range_samples // plan.batch_size)
        job = _RangeJob(plan)
        work = Work(job, plan.ranges(starts, batches, whole_groups=True), RayNodes(ray))
        if work.is_done:
            return
        needs = {"num_cpus": self.cpus_per_actor, "num_gpus": gpus}
        team = Team(self.actors, self.cpus_per_actor, _AT_ONCE, needs)
        with _connected(ray, self.address):
            yield from results(ray, _RangeRecipe(recipe), job, work, team)

    @override
    def blocks(self, task: BlockTask[_Result], blocks: Iterable[Block]) -> Generator[_Result, None, None]:
        """Do a task for blocks on actors without a GPU, each with a thread a core.

        An actor reads the blocks of a store that it finds at its place; those of another travel to it.
        Raises WorkerError for a block that workers die of.
        """
        ray = _imported()
        job = _BlockJob(task.reader(1))
        work: Work[Block, _Result] = Work(job, iter(blocks), RayNodes(ray))
        if work.is_done:
            return
        cores = self.cpus_per_actor
        team = Team(self.actors, cores, cores + 1, {"num_cpus": cores})
        with _connected(ray, self.address):
            yield from results(ray, _BlockRecipe(task), job, work, team)

    def _on_actors(self, recipe: WorkerRecipe) -> tuple[WorkerRecipe, float]:
        """Return the recipe for actors, and the GPUs of each."""
        kind = recipe.device.partition(":")[0]
        if self.gpus_per_actor and kind == "cpu":
            named = Parameter("gpus_per_actor"), Parameter("device", "cuda")
            raise ArgumentError(
                f"{named[0]}: expected 0 for a tokenizer on the device cpu, found {self.gpus_per_actor}. "
                f"Load it by {named[1]}",
                parameters=named,
            )
        gpus = (kind != "cpu") if self.gpus_per_actor is None else self.gpus_per_actor
        # subtle: Ray shows each actor its own GPUs alone, counted from 0
        return recipe.on(kind), float(gpus)


@dataclass(frozen=True)
class _RangeRecipe(ActorRecipe):
    """The recipe of an actor that encodes ranges."""

    recipe: WorkerRecipe

    @override
    def begin(self, workers: int) -> Engine:
        encoder = self.recipe.begin(workers)
        return Engine(encoder.task_samples, encoder.encode, lambda: encoder.close(at_once=True))


@dataclass(frozen=True)
class _RangeJob(ActorJob[SampleRange, Segment]):
    """The job of encoding the ranges of a plan."""

    plan: RangePlan

    @override
    def request(self, item: SampleRange, facts: int) -> RangeRequest:
        return self.plan.request(item, facts)

    @override
    def halves(self, item: SampleRange) -> Sequence[SampleRange]:
        return item.halves() if len(item) > 1 else ()

    @override
    def lost(self, item: SampleRange, error: Exception) -> Segment:
        return self.plan.lost(item, error)


@dataclass(frozen=True)
class _BlockRecipe(ActorRecipe):
    """The recipe of an actor that does a task for blocks of stores."""

    task: BlockTask[Any]

    @override
    def begin(self, workers: int) -> Engine:
        task, reader = self.task, self.task.reader(workers)

        def run(request: _BlockRequest) -> Any:
            contents = request.contents if request.is_read else reader.read(request.block)
            return task(request.block, contents)

        return Engine(reachable(task.stores), run, _do_nothing)


def _do_nothing() -> None: ...


class _BlockRequest(NamedTuple):
    """A request for a block, with the contents that an actor does not find itself."""

    block: Block
    is_read: bool
    contents: Any


@dataclass(frozen=True)
class _BlockJob(ActorJob[Block, Any]):
    """The job of a task for blocks; one that workers die of ends it."""

    reader: BlockReader

    @override
    def request(self, item: Block, facts: frozenset[int]) -> _BlockRequest:
        is_read = not facts.issuperset(self.reader.places(item))
        return _BlockRequest(item, is_read, self.reader.read(item) if is_read else None)

    @override
    def halves(self, item: Block) -> Sequence[Block]:
        return ()

    @override
    def lost(self, item: Block, error: Exception) -> Any:
        raise WorkerError(f"{item}: {MOST_DEATHS} actors died of it; the last: {error}") from error


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            f"a conversion on a Ray cluster needs the package ray; pip install 'tokenstore[ray]' ({error})"
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster for a while, unless the process is connected to it already.

    Raises WorkerError where none answers, and ArgumentError where the process is connected to another.
    """
    if ray.is_initialized():
        _refuse_other_cluster(ray, address)
        yield
        return
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # subtle: Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        # the library's own log is enough: what actors print would tear the progress bar
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        local = Parameter("address", "local")
        raise WorkerError(
            f"{address}: no Ray cluster answers: {error}. Begin one with Ray's own command, or use {local}",
            parameters=[local],
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_other_cluster(ray: Any, address: str) -> None:
    """Raise ArgumentError unless `address` is the cluster that this process is connected to."""
    connected = ray.get_runtime_context().gcs_address
    if address != "auto" and not _is_same_place(address, connected):
        auto = Parameter("address", "auto")
        raise ArgumentError(
            f"address: expected {connected!r}, the cluster that this process is connected to, found "
            f"{address!r}. Use {auto}, or leave that cluster first",
            parameters=[auto],
        )


def _is_same_place(one: str, other: str) -> bool:
    """Return True for two names `HOST:PORT` of one place; every name of this machine is the same host."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    return port == other_port and not _addresses(host).isdisjoint(_addresses(other_host))


def _addresses(host: str) -> set[Any]:
    """Return the IP addresses of a host, and True for this machine; none of a host that is not known."""
    host = host.strip("[]")
    try:
        addresses: set[Any] = {address[4][0] for address in socket.getaddrinfo(host, None)} if host else set()
    except OSError:
        return set()
    for address in list(addresses):
        with contextlib.suppress(OSError), socket.socket(_family(address)) as own:
            own.bind((address, 0))  # which only an address of this machine allows
            addresses.add(True)
    return addresses


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
