"""The actors of a job on a Ray cluster: what each of them has to do, and what becomes of it when one dies.

This process gives out pieces of work, a few to each actor at a time, and gets their results back in any
order; it yields them in the order of the items (`work`). What an actor had when it died goes to another; an
actor that died is replaced, on any machine of the cluster, so a cluster may shrink and grow.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from typing_extensions import override

from tokenstore.conversion.work import Job, Nodes, Piece, Work
from tokenstore.errors import WorkerError

__all__ = ["ActorJob", "ActorRecipe", "Engine", "RayNodes", "Team", "results"]

_AHEAD = 2
"""The items for each one that actors have at a time which are begun before the first is yielded, at most."""
_DEATHS_AT_START = 3
"""The actors that may die one after another before one of them has begun."""
_PATIENCE_SECONDS = 30.0
"""The time after which a cluster without room for any actor is worth a line in the log."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_ResultOf = TypeVar("_ResultOf", covariant=True)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """The part of an actor that does the work."""

    facts: Any
    """The facts about an actor on which requests to it depend; never None."""
    run: Callable[[Any], Any]
    """A function from a request to its result; it raises WorkerError if a process of the actor dies."""
    close: Callable[[], None]
    """A function that ends the engine at once."""


class ActorRecipe(Protocol):
    """A small picklable recipe of an engine, from which every actor makes its own."""

    def begin(self, workers: int) -> Engine:
        """Return an engine with so many processes or threads."""


class ActorJob(Job[_Item, _ResultOf], Protocol):
    """A job for actors."""

    def request(self, item: _Item, facts: Any) -> Any:
        """Return the request for an item to an actor of such facts."""


@dataclass(frozen=True)
class Team:
    """The number of actors, and what each of them has and needs."""

    actors: int
    workers: int
    """The processes or threads of an actor."""
    at_once: int
    """The pieces that an actor has at a time."""
    needs: Mapping[str, float]
    """The resources that Ray reserves for an actor."""


def results(
    ray: Any, recipe: ActorRecipe, job: ActorJob[_Item, _Result], work: Work[_Item, _Result], team: Team
) -> Generator[_Result, None, None]:
    """Have actors do all the work of a job, and yield its results in order.

    Raises what an actor raised, and WorkerError where actors die as they begin, or where the job does.
    """
    crew: _Crew[_Item, _Result] = _Crew(ray, recipe, team)
    try:
        while not work.is_done:
            crew.give_out(job, work)
            yield from work.finished()
            if not work.is_done:
                crew.collect(work)
    finally:
        crew.dismiss()


@dataclass(frozen=True)
class RayNodes(Nodes):
    """The machines of the cluster that this process is connected to."""

    ray: Any

    @override
    def alive(self) -> Collection[str]:
        return {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}


class _Worker:
    """An actor: an engine, which is replaced where one of its processes dies."""

    def __init__(self, recipe: ActorRecipe, workers: int) -> None:
        self._recipe, self._workers = recipe, workers
        self._engine: Engine | None = None
        self._lock = Lock()

    def begin(self) -> tuple[Any, str]:
        """Make the engine, and return its facts and the id of the machine."""
        import ray

        return self._begun().facts, ray.get_runtime_context().get_node_id()

    def run(self, request: Any) -> Any:
        """Return the result of a request; raise WorkerError if a process of this actor dies."""
        engine = self._begun()
        try:
            return engine.run(request)
        except WorkerError:
            with self._lock:
                if self._engine is engine:
                    self._engine = None
                    engine.close()
            raise

    def _begun(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._recipe.begin(self._workers)
            return self._engine


@dataclass(eq=False)
class _Actor(Generic[_Item, _Result]):
    """An actor as this process knows it."""

    handle: Any
    facts: Any = None
    """The facts that requests depend on; None while the actor begins."""
    node: str = ""
    """The id of its machine."""
    pieces: set[Piece[_Item, _Result]] = field(default_factory=set)
    """The pieces of work that it has."""

    def has_room(self, at_once: int) -> bool:
        """Return True if the actor may get another piece beside those that it has."""
        has_begun = self.facts is not None
        return has_begun and len(self.pieces) < at_once and not any(piece.is_suspect for piece in self.pieces)


class _Crew(Generic[_Item, _Result]):
    """The actors of one job, and what each of them is doing."""

    def __init__(self, ray: Any, recipe: ActorRecipe, team: Team) -> None:
        self._ray, self._team = ray, team
        self._class = ray.remote(_Worker).options(**team.needs, max_concurrency=team.at_once + 1)
        self._recipe = ray.put(recipe)
        self._running: dict[Any, tuple[_Actor[_Item, _Result], Piece[_Item, _Result] | None]] = {}
        """The actor of every call under way by its future, and the piece that is worked on, if any."""
        self._actors: list[_Actor[_Item, _Result]] = []
        self._deaths_at_start = 0
        """The actors that died one after another before they had begun."""
        for _ in range(team.actors):
            self._begin()

    def give_out(self, job: ActorJob[_Item, _Result], work: Work[_Item, _Result]) -> None:
        """Give all idle actors something to do."""
        at_once = self._team.at_once
        most = _AHEAD * at_once * self._team.actors
        for actor in sorted(self._actors, key=lambda actor: len(actor.pieces)):
            while actor.has_room(at_once):
                piece = work.take(is_idle=not actor.pieces, most=most)
                if piece is None:
                    break
                request = job.request(piece.item, actor.facts)
                actor.pieces.add(piece)
                self._running[actor.handle.run.remote(request)] = actor, piece

    def collect(self, work: Work[_Item, _Result]) -> None:
        """Wait for a call to end, and give its result to the work.

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
        except errors.ObjectLostError:  # with the machine that it was on, which is no fault of the piece
            if piece is None:
                self._ask_to_begin(actor)
            else:
                work.again(piece)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            self._replace(actor, error)
            if piece is not None and getattr(error, "preempted", False):
                work.again(piece)
            elif piece is not None:
                work.died(piece, error, actor.node)
        except errors.RayTaskError as error:
            if piece is None or not isinstance(error.cause, WorkerError):
                raise error.cause from None
            work.died(piece, error.cause, actor.node)
        else:
            if piece is None:
                actor.facts, actor.node = result
                self._deaths_at_start = 0
            else:
                work.done(piece, result)

    def dismiss(self) -> None:
        """End all actors, whatever they are doing."""
        for actor in self._actors:
            self._end(actor)

    def _begin(self) -> None:
        handle = self._class.remote(self._recipe, self._team.workers)
        actor: _Actor[_Item, _Result] = _Actor(handle)
        self._actors.append(actor)
        self._ask_to_begin(actor)

    def _ask_to_begin(self, actor: _Actor[_Item, _Result]) -> None:
        self._running[actor.handle.begin.remote()] = actor, None

    def _replace(self, actor: _Actor[_Item, _Result], error: Exception) -> None:
        """Begin another actor in the place of one that died."""
        if actor not in self._actors:  # another of its calls has ended before
            return
        self._actors.remove(actor)
        self._end(actor)
        self._deaths_at_start = 0 if actor.facts is not None else self._deaths_at_start + 1
        if self._deaths_at_start >= _DEATHS_AT_START * (len(self._actors) + 1):
            raise WorkerError(
                f"{self._deaths_at_start} actors died one after another as they began; the last: {error}"
            ) from error
        _log.warning("an actor died and is replaced: %s", error)
        self._begin()

    def _end(self, actor: _Actor[_Item, _Result]) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor.handle)

    def _warn_of_waiting(self) -> None:
        if all(actor.facts is None for actor in self._actors):
            _log.warning(
                "waiting for room on the cluster: an actor needs %s, free are %s",
                dict(self._team.needs),
                self._ray.available_resources(),
            )
