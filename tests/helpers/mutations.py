"""Seeded mutations of files, and a check that a reader survives them within bounds of time and memory."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable

SECONDS = 2.0
NBYTES = 500 * 10**6
_OTHERS = 20
"""The factor by which other processes may slow a test down."""
_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, *b"-_+. 0189[({\"'\\nN")
_NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

Mutation = Callable[[bytearray, random.Random], None]


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice(_VALUES)


def _number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((2, 4, 8))
    place = rng.randrange(len(data))
    number = rng.choice(_NUMBERS) % 2 ** (8 * size)
    data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _digit(data: bytearray, rng: random.Random) -> None:
    digits = [place for place, value in enumerate(data[:4096]) if value in b"0123456789"]
    if digits:
        data[rng.choice(digits)] = rng.choice(b"0123456789-_,[]")


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 2, 4, 16, 512))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    piece = data[place : place + rng.choice((1, 4, 16, 512))]
    data[place:place] = piece * rng.choice((1, 1, 2, 50))


def _swap(data: bytearray, rng: random.Random) -> None:
    size, first, second = rng.choice((4, 16, 512)), rng.randrange(len(data)), rng.randrange(len(data))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip, _set, _set, _number, _number, _digit, _digit),
    *(_cut, _remove, _repeat, _swap),
)


def mutated(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Return a copy with one to `most` random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if changed:
            rng.choice(_MUTATIONS)(changed, rng)
    return bytes(changed)


def survive(
    mutate: Callable[[random.Random], object],
    read: Callable[[object], None],
    errors: type[Exception],
    seeds: range,
) -> int:
    """Read a mutation of every seed and return how many were refused.

    Fails for other exceptions than `errors`, for a mutation that takes more than SECONDS, and if all together
    raise the most memory of this process by more than NBYTES.
    """
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        content = mutate(random.Random(seed))
        began, cpu_began = time.monotonic(), time.process_time()
        try:
            read(content)
        except errors:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        # subtle: by the processor's clock, as other processes may take the time
        seconds = max(time.process_time() - cpu_began, (time.monotonic() - began) / _OTHERS)
        assert seconds < SECONDS, f"seed {seed} took {seconds:.1f} s"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < NBYTES, f"seed {seed} took {grown:,} bytes"
    return refused
