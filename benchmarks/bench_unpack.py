"""A benchmark: how fast codes are packed and unpacked, against a memcpy of the decoded codes.

    python benchmarks/bench_unpack.py [--samples 16384] [--codes 1024] [--bits 9 --bits 10] [--repeats 15]

Everything lies in memory and runs on one thread unless its row says otherwise. Contenders take turns, and the
best of the repeats counts, so that another process on the machine disturbs the ratios least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd
from rich.console import Console
from rich.table import Table

from tokenstore.codecs import bitpack

BATCH = 256


@dataclass(frozen=True)
class Contender:
    """A row of the table: how many samples a run makes, and the run."""

    name: str
    samples: int
    run: Callable[[], object]
    encoded: Sequence[bytes | npt.NDArray[np.uint8]] = ()
    """The encoded samples. They are referenced here because bare addresses keep nothing alive."""


def likely_codes(samples: int, codes: int, codebook_size: int) -> npt.NDArray[Any]:
    """Draw codes with a few frequent ones, and a fifth like their neighbour, as a tokenizer makes them."""
    random = np.random.default_rng(0)
    weights = 1 / (np.arange(codebook_size) + codebook_size / 8)
    edges = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(edges[:-1], random.random((samples, codes)))
    repeated = random.random((samples, codes)) < 0.2
    repeated[:, 0] = False
    drawn[repeated] = np.roll(drawn, 1, axis=1)[repeated]
    return drawn.astype(bitpack.code_dtype(codebook_size))


def contenders(codes: npt.NDArray[Any], codebook_size: int, chunk: int, level: int) -> list[Contender]:
    """Return the rows of the table for codes (samples, L)."""
    samples, length = codes.shape
    packed = bitpack.pack(codes, codebook_size)
    addresses = (packed.ctypes.data + np.arange(samples) * packed.shape[1]).astype(np.uint64)
    # A batch at a time, to the same buffer, as a loader does; the other rows stream through memory.
    batches = np.array_split(np.random.default_rng(1).permutation(addresses), -(-samples // BATCH))
    zstd = Zstd(level)
    chunks = [zstd.encode(np.ascontiguousarray(codes[at : at + chunk])) for at in range(0, samples, chunk)]
    out, wide = np.empty_like(codes), np.empty(codes.shape, np.int64)

    def unpack_all(into: npt.NDArray[Any]) -> None:
        bitpack.unpack_at(addresses, length, codebook_size, into)

    def unpack_batches(start: int = 0, stop: int | None = None) -> None:
        into = np.empty((BATCH, length), codes.dtype)
        for batch in batches[start:stop]:
            bitpack.unpack_at(batch, length, codebook_size, into[: len(batch)])

    def unpack_batches_in_threads() -> None:
        half = len(batches) // 2
        list(pool.map(unpack_batches, (0, half), (half, None)))

    def zstd_decode() -> None:
        for at, payload in enumerate(chunks):
            zstd.decode(payload, out[at * chunk : (at + 1) * chunk])

    pool = ThreadPoolExecutor(2)
    random = f"bitpack decode, random batches of {BATCH}"
    rows = [
        Contender("memcpy of the decoded codes", samples, lambda: np.copyto(out, codes)),
        Contender("bitpack decode", samples, lambda: unpack_all(out), list(packed)),
        Contender("bitpack decode to int64", samples, lambda: unpack_all(wide)),
        Contender(random, samples, unpack_batches),
        Contender(f"{random}, 2 threads", samples, unpack_batches_in_threads),
        Contender("bitpack encode", samples, lambda: bitpack.pack(codes, codebook_size)),
        Contender(f"zstd -{level} decode, chunks of {chunk}", samples, zstd_decode, chunks),
    ]
    for row in rows[1:]:
        out[:] = 0
        row.run()
    np.testing.assert_array_equal(out, codes)
    np.testing.assert_array_equal(wide, codes)
    return rows


def best_seconds(rows: list[Contender], repeats: int) -> list[float]:
    """Return each row's best seconds; the rows take turns."""
    best = [float("inf")] * len(rows)
    for _ in range(repeats):
        for at, row in enumerate(rows):
            start = time.perf_counter()
            row.run()
            best[at] = min(best[at], time.perf_counter() - start)
    return best


@click.command()
@click.option("--samples", default=16384, show_default=True, help="Samples held in memory.")
@click.option("--codes", default=1024, show_default=True, help="Codes of a sample.")
@click.option("--bits", multiple=True, default=(9, 10), show_default=True, help="Widths to measure.")
@click.option("--chunk", default=64, show_default=True, help="Samples of a zstd chunk.")
@click.option("--zstd-level", default=12, show_default=True)
@click.option("--repeats", default=15, show_default=True)
def main(samples: int, codes: int, bits: tuple[int, ...], chunk: int, zstd_level: int, repeats: int) -> None:
    """Measure packing and unpacking, and print one table."""
    table = Table("bits", "what", "samples/s", "x memcpy", "bytes a sample")
    for column in table.columns[2:]:
        column.justify = "right"
    for width in bits:
        # Three quarters of the codes that fit, so that decoding cannot skip its check of their range.
        codebook_size = max(1, 3 * 2**width // 4)
        rows = contenders(likely_codes(samples, codes, codebook_size), codebook_size, chunk, zstd_level)
        rates = [row.samples / took for row, took in zip(rows, best_seconds(rows, repeats), strict=True)]
        for row, rate in zip(rows, rates, strict=True):
            size = f"{sum(map(len, row.encoded)) / row.samples:,.0f}" if row.encoded else ""
            table.add_row(str(width), row.name, f"{rate:,.0f}", f"{rate / rates[0]:.2f}", size)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
