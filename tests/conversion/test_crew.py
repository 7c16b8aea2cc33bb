"""The actors of a job, on a cluster that answers as it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from tokenstore.conversion.crew import Team, results
from tokenstore.conversion.work import Work


class LostError(Exception):
    """The error for a result that was lost with the machine that it was on."""


class OtherError(Exception):
    """An error that does not occur here."""


class Cluster:
    """As much of Ray as a crew uses: calls are answered one by one, in order, but for those that are lost."""

    exceptions = SimpleNamespace(
        RayError=OtherError,
        RayActorError=OtherError,
        OutOfMemoryError=OtherError,
        RayTaskError=OtherError,
        ObjectLostError=LostError,
    )

    def __init__(self, lost: set[int]) -> None:
        self.lost = lost
        """The numbers of the calls whose results are lost."""
        self.calls: list[Callable[[], Any]] = []

    def remote(self, _: type) -> Any:
        return SimpleNamespace(options=lambda **needs: SimpleNamespace(remote=self.actor))

    def actor(self, *_: Any) -> Any:
        return SimpleNamespace(
            begin=SimpleNamespace(remote=lambda: self.call(lambda: ("facts", "machine"))),
            run=SimpleNamespace(remote=lambda request: self.call(lambda: request * 10)),
        )

    def call(self, answer: Callable[[], Any]) -> int:
        self.calls.append(answer)
        return len(self.calls) - 1

    def put(self, value: Any) -> Any:
        return value

    def kill(self, _: Any) -> None: ...

    def nodes(self) -> list[Any]:
        return []

    def wait(self, calls: Sequence[int], **_: Any) -> tuple[list[int], list[int]]:
        assert calls, "a crew waits for something"
        return [min(calls)], []

    def get(self, call: int) -> Any:
        if call in self.lost:
            raise LostError
        return self.calls[call]()


class Numbers:
    """A job of numbers."""

    def request(self, item: int, facts: str) -> int:
        assert facts == "facts"
        return item


def test_whatever_is_lost_with_a_machine_is_asked_for_again() -> None:
    for lost in (set(), {0}, {1}, {0, 1, 2, 5, 6}):
        job: Any = Numbers()
        nodes: Any = None
        work: Work[int, int] = Work(job, iter(range(5)), nodes)
        given = results(Cluster(lost), None, job, work, Team(2, 1, 2, {}))  # type: ignore[arg-type]
        assert list(given) == [0, 10, 20, 30, 40]
