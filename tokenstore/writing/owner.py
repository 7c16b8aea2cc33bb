"""The ownership of a store's place: one writer at a time, of all processes and machines.

A local place has a lock beside it (`tokenstore.locks.PlaceLock`). A remote place has no locks, so its owner
writes a file with a token of its own that nobody else has, which it checks before it writes anything that
counts, and a count that grows while the owner lives. Whoever goes on with the store takes it over only from
an owner whose count stands still.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Protocol

from typing_extensions import override

from tokenstore.errors import ConversionError, Parameter, StorageError, StoreExistsError, TokenstoreError
from tokenstore.format import encode_json
from tokenstore.locks import PlaceLock
from tokenstore.storage import STAGING, Storage

OWNER = f"{STAGING}/.owner"
"""The file with a remote place's owner; no split can have its name."""
BEAT_SECONDS = 10.0
"""The time between two counts of a living owner."""
PATIENCE_SECONDS = 30.0
"""The time for which a count has to stand still before its owner counts as ended."""

_log = logging.getLogger(__name__)


class Clock:
    """The clock of those who wait for an owner's count; a test may put another in its place."""

    def now(self) -> float:
        """Return the seconds since a fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Owner(Protocol):
    """The one writer of a place."""

    def check(self) -> None:
        """Raise ConversionError if another has become the place's owner."""

    def stop(self) -> None:
        """Write no more to the place; it stays owned."""

    def release(self) -> None:
        """Give the place free; a second call does nothing."""


class LocalOwner(Owner):
    """The owner of a local place.

    Raises ConversionError where another process is writing it, StorageError where no lock can be written.
    """

    def __init__(self, target: Storage) -> None:
        assert target.root is not None
        try:
            self._lock = PlaceLock(target.root, "store")
        except BlockingIOError as error:
            raise ConversionError(f"{target}: {error}") from error
        except OSError as error:
            raise StorageError(f"{target}: cannot be written ({error})") from error

    @override
    def check(self) -> None:
        """Do nothing: the system keeps the lock."""

    @override
    def stop(self) -> None:
        """Do nothing: the lock lies beside the place."""

    @override
    def release(self) -> None:
        self._lock.release()


@dataclass(frozen=True)
class _Token:
    """The content of an owner's file."""

    token: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host!r}"

    @property
    def beats(self) -> str:
        """The path of the owner's count. Every owner has its own, so that none overwrites another's."""
        return f"{OWNER}-{self.token}"


class RemoteOwner(Owner):
    """The owner of a remote place.

    Raises StoreExistsError without `resume` where another process is writing the place or was killed while it
    did, and ConversionError where it is alive.
    """

    def __init__(self, target: Storage, resume: bool) -> None:
        self._target = target
        self._token = _Token(uuid.uuid4().hex, socket.gethostname(), os.getpid())
        self._count = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            while not self._created():
                other = owner_of(target)
                if other is not None:
                    self._take_over(other, resume)
                    break
        except BaseException:
            self.release()
            raise
        self._thread = threading.Thread(target=self._keep_counting, name="tokenstore-owner", daemon=True)
        self._thread.start()

    def _created(self) -> bool:
        with contextlib.suppress(FileExistsError):
            self._target.create(OWNER, encode_json(asdict(self._token)))
            return True
        return False

    def _take_over(self, other: _Token, resume: bool) -> None:
        if not resume:
            again = Parameter("resume", True)
            raise StoreExistsError(
                f"{self._target}: {other} is writing this store, or was killed while it did. Choose another "
                f"path, or go on with it by {again} when that process has ended",
                parameters=[again],
            )
        _log.warning(
            "%s: waiting for %.0f s, to see if %s is still writing this store",
            self._target,
            PATIENCE_SECONDS,
            other,
        )
        if _counts(self._target, other):
            raise ConversionError(f"{self._target}: another process is writing this store: {other}")
        self._target.write(OWNER, encode_json(asdict(self._token)))
        self._target.remove(other.beats)
        self.check()

    @override
    def check(self) -> None:
        owner = owner_of(self._target)
        if owner != self._token:
            change = "was finished or removed by another process" if owner is None else f"is {owner}'s now"
            raise ConversionError(f"{self._target}: this store {change}, so this process stops writing it")

    def beat(self) -> None:
        """Show that this process is alive, unless the place is another's by now."""
        if owner_of(self._target) == self._token:
            self._count += 1
            self._target.write(self._token.beats, str(self._count).encode())
        else:
            self._stopped.set()

    def _keep_counting(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self.beat()
            except (TokenstoreError, OSError) as error:  # the next attempt may succeed
                _log.info("%s: %s", self._target, error)

    @override
    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    @override
    def release(self) -> None:
        self.stop()
        with contextlib.suppress(TokenstoreError, OSError):
            if owner_of(self._target) == self._token:
                self._target.remove(OWNER)
                if self._count:
                    self._target.remove(self._token.beats)


def owner_of(target: Storage) -> _Token | None:
    """Return the owner that is written in a remote place, or None."""
    try:
        data = target.read(OWNER)
    except FileNotFoundError:
        return None
    try:
        values = json.loads(data)
        return _Token(uuid.UUID(values["token"]).hex, str(values["host"]), int(values["pid"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return _Token("unknown", "an unknown machine", 0)


def _counts(target: Storage, owner: _Token) -> bool:
    """Wait, and return True if an owner's count has grown meanwhile, or another is the owner."""
    clock = Clock()
    end = clock.now() + PATIENCE_SECONDS
    before = _count(target, owner)
    while clock.now() < end:
        clock.sleep(BEAT_SECONDS / 2)
        if _count(target, owner) != before:
            return True
    return owner_of(target) not in (owner, None)


def _count(target: Storage, owner: _Token) -> bytes | None:
    try:
        return target.read(owner.beats)
    except FileNotFoundError:
        return None
