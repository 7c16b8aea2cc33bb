"""The executor of a Ray cluster: actors encode ranges wherever Ray places them, and only codes travel.

Each actor has its own tokenizer and its own decode processes, so images never leave its machine. This process
gives out ranges, a few to each actor at a time, and gets their segments back in any order; it yields them in
that of the source. What an actor had when it died goes to another; an actor that died is replaced, on any
machine of the cluster, so a cluster may shrink and grow. A range that kills its workers is cut in two, down
to the sample (`work`).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from typing_extensions import override

from tokenstore.conversion.encoding import EncoderRecipe, RangeEncoder
from tokenstore.conversion.executors import Executor
from tokenstore.conversion.images import ConversionPlan
from tokenstore.conversion.ranges import RangeRequest, Segment
from tokenstore.conversion.work import Piece, Work
from tokenstore.errors import ArgumentError, DependencyError, Parameter, WorkerError

__all__ = ["RayExecutor"]

_AT_ONCE = 2
"""The ranges that an actor has at a time: one is decoded while the other is with the tokenizer."""
_AHEAD = 4
"""The ranges for each actor that are begun before the first of them is yielded, at most."""
_DEATHS_AT_START = 3
"""The actors that may die one after another before one of them has encoded anything."""
_ANSWER_SECONDS = 10.0
"""The time in which the head of a cluster has to answer."""
_PATIENCE_SECONDS = 30.0
"""The time after which a cluster without room for any actor is worth a line in the log."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayExecutor(Executor):
    """The executor that encodes on a Ray cluster; it needs `pip install 'tokenstore[ray]'`.

    Raises ArgumentError for numbers that no actor can have.
    """

    address: str = "auto"
    """The cluster: `auto` for the one that this machine is part of, `local` for a new one of this machine
    alone, or the address of its head, `HOST:PORT`."""
    actors: int = 1
    """The number of actors; those for which the cluster has no room yet begin when it has."""
    gpus_per_actor: float | None = None
    """The GPUs of an actor, also a share of one; by default 1 where the tokenizer's device is one, else 0."""
    cpus_per_actor: int = 1
    """The cores of an actor: it has so many decode processes."""
    range_samples: int = 512
    """The samples of a range, about: what is lost with an actor is at most two ranges."""

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
    def segments(self, plan: ConversionPlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        ray = _imported()
        recipe, gpus = self._on_actors(plan.recipe)
        batches = max(1, self.range_samples // plan.batch_size)
        work = Work(plan, plan.ranges(starts, batches))
        if work.is_done:
            return
        with _connected(ray, self.address):
            options = {"num_cpus": self.cpus_per_actor, "num_gpus": gpus, "max_concurrency": _AT_ONCE + 1}
            crew = _Crew(ray, recipe, self.actors, self.cpus_per_actor, options)
            try:
                while not work.is_done:
                    crew.give_out(plan, work, _AHEAD * self.actors)
                    yield from work.finished()
                    if not work.is_done:
                        crew.collect(work)
            finally:
                crew.dismiss()

    def _on_actors(self, recipe: EncoderRecipe) -> tuple[EncoderRecipe, float]:
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
        return replace(recipe, device=kind), float(gpus)


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
    """Connect to a cluster for a while, unless the process is connected already; raises WorkerError."""
    if ray.is_initialized():
        yield
        return
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # subtle: Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        # the library's own log is enough: what actors print would tear the progress bar
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        local = Parameter("ray", "local")
        raise WorkerError(
            f"{address}: no Ray cluster answers: {error}. Begin one with Ray's own command, or use {local}",
            parameters=[local],
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class _Worker:
    """An actor: a tokenizer with decode processes of its own."""

    def __init__(self, recipe: EncoderRecipe, workers: int) -> None:
        self._recipe, self._workers = recipe, workers
        self._encoder: RangeEncoder | None = None
        self._lock = Lock()

    def begin(self) -> int:
        """Load the tokenizer, and return the most samples of a task of a request."""
        return self._begun().task_samples

    def encode(self, request: RangeRequest) -> Segment:
        """Encode a range; raise WorkerError if a decode process dies, which the next call replaces."""
        encoder = self._begun()
        try:
            return encoder.encode(request)
        except WorkerError:
            with self._lock:
                if self._encoder is encoder:
                    self._encoder = None
                    encoder.close(at_once=True)
            raise

    def _begun(self) -> RangeEncoder:
        with self._lock:
            if self._encoder is None:
                recipe = self._recipe
                self._encoder = RangeEncoder(recipe.load(), recipe.batch_size, self._workers)
            return self._encoder


@dataclass(eq=False)
class _Actor:
    """An actor as this process knows it."""

    handle: Any
    task_samples: int | None = None
    """The most samples of a task; None while the actor begins."""
    pieces: set[Piece] = field(default_factory=set)
    """The pieces of work that it has."""

    @property
    def has_room(self) -> bool:
        """True if the actor may get another piece beside those that it has."""
        return (
            self.task_samples is not None
            and len(self.pieces) < _AT_ONCE
            and not any(piece.is_suspect for piece in self.pieces)
        )


class _Crew:
    """The actors of one conversion, and what each of them is doing."""

    def __init__(
        self, ray: Any, recipe: EncoderRecipe, actors: int, workers: int, options: Mapping[str, Any]
    ) -> None:
        self._ray = ray
        self._class = ray.remote(_Worker).options(**options)
        self._recipe = ray.put(recipe)
        self._workers = workers
        self._needs = dict(options)
        self._running: dict[Any, tuple[_Actor, Piece | None]] = {}
        """The actor of every call under way by its future, and the piece that is encoded, if any."""
        self._actors: list[_Actor] = []
        self._deaths_at_start = 0
        """The actors that died one after another before they had begun."""
        for _ in range(actors):
            self._begin()

    def give_out(self, plan: ConversionPlan, work: Work, most: int) -> None:
        """Give all idle actors something to do, while at most so many ranges are begun and not yielded."""
        for actor in sorted(self._actors, key=lambda actor: len(actor.pieces)):
            while actor.has_room:
                piece = work.take(is_idle=not actor.pieces, most=most)
                if piece is None:
                    break
                request = plan.request(piece.samples, actor.task_samples)
                actor.pieces.add(piece)
                self._running[actor.handle.encode.remote(request)] = actor, piece

    def collect(self, work: Work) -> None:
        """Wait for a call to end, and give its segment to the work.

        Raises what the call raised, and WorkerError where one actor after another dies as it begins.
        """
        errors = self._ray.exceptions
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE_SECONDS)
        if not ready:
            self._warn_of_waiting()
            return
        actor, piece = self._running.pop(ready[0])
        if piece is not None:
            actor.pieces.discard(piece)
        try:
            result = self._ray.get(ready[0])
        except errors.ObjectLostError:  # with the machine that it was on, which is no fault of the samples
            if piece is not None:
                work.again(piece)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            if piece is not None:
                work.died(piece, error)
            self._replace(actor, error)
        except errors.RayTaskError as error:
            if piece is None or not isinstance(error.cause, WorkerError):
                raise error.cause from None
            work.died(piece, error.cause)
        else:
            if piece is None:
                actor.task_samples = result
            else:
                work.done(piece, result)

    def dismiss(self) -> None:
        """End all actors, whatever they are doing."""
        for actor in self._actors:
            self._end(actor)

    def _begin(self) -> None:
        handle = self._class.remote(self._recipe, self._workers)
        actor = _Actor(handle)
        self._actors.append(actor)
        self._running[handle.begin.remote()] = actor, None

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """Begin another actor in the place of one that died."""
        if actor not in self._actors:  # another of its calls has ended before
            return
        self._actors.remove(actor)
        self._end(actor)
        self._deaths_at_start = 0 if actor.task_samples else self._deaths_at_start + 1
        if self._deaths_at_start >= _DEATHS_AT_START * (len(self._actors) + 1):
            raise WorkerError(
                f"{self._deaths_at_start} actors died one after another as they began; the last: {error}"
            ) from error
        _log.warning("an actor died and is replaced: %s", error)
        self._begin()

    def _end(self, actor: _Actor) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor.handle)

    def _warn_of_waiting(self) -> None:
        if all(actor.task_samples is None for actor in self._actors):
            _log.warning(
                "waiting for room on the cluster: an actor needs %s, free are %s",
                self._needs,
                self._ray.available_resources(),
            )
