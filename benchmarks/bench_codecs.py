"""A benchmark: how small each codec is, and how fast, with all contenders in one run.

    python benchmarks/bench_codecs.py [STORE_OR_SOURCE] [--fit-split train] [--score-split val] [--limit N]
        [--neural-epochs N] [--no-neural] [--repeats 3] [--threads 2] [--grid 32x32] [--codebook-size 391]

Reads the codes of a token store, or of a source of ready codes (the layout of the SeiT release, `.npy`,
`.npz`); without one it draws codes with neighbour structure. Models are fitted on one split, and all rows are
over the codes of the other; of a single split a fifth, drawn by a seed, is kept apart for that. What every
decoder returns is compared with what was encoded.

Speeds of the first table are of one thread, in its processor time, so that other processes on the machine
disturb them least; contenders take turns, and the best of the repeats counts. An encoder that takes longer
than a few seconds is run once. The index of chunks that a store has is in nobody's bits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from codec_contenders import Measured, Rows, general, measure, order_0_bits, ours
from neural_bound import EPOCHS, neural_bound_bits
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.codecs import code_dtype
from tokenstore.sources import CodeSource, open_source

THREADED_SECONDS = 0.3


@dataclass(frozen=True)
class Data:
    """Codes to fit models on and codes to score, each (n, *grid) of the store's dtype."""

    name: str
    codebook_sizes: tuple[int, ...]
    fit: Rows
    score: Rows


def open_data(location: str, fit_split: str, score_split: str, limit: int | None) -> Data:
    """Read the codes of a store, or of a source of ready codes."""
    reads: dict[str, Callable[[], Rows]]
    if "://" in location or location.endswith(".zip") or Path(location, "zarr.json").exists():
        store = tokenstore.open(location)
        sizes: tuple[int, ...] | None = store.manifest.codebook_sizes
        reads = {name: lambda name=name: store[name][:] for name in store.manifest.splits}
    else:
        source = open_source(location)
        if not isinstance(source, CodeSource):
            raise click.UsageError(f"{location}: a source of images; convert it, and name the store")
        sizes = source.codebook_sizes
        reads = {
            name: lambda split=split: split.codes(0, len(split)) for name, split in source.splits.items()
        }
    if len(reads) == 1:
        fit, score = _apart(next(iter(reads.values()))())
    elif missing := {fit_split, score_split} - set(reads):
        raise click.UsageError(f"{location}: no split {missing.pop()!r}; it has {', '.join(reads)}")
    else:
        fit, score = reads[fit_split](), reads[score_split]()
    sizes = sizes or (1 + int(max(fit.max(), score.max())),)
    dtype = code_dtype(max(sizes))
    fit, score = (_some(codes, limit).astype(dtype, copy=False) for codes in (fit, score))
    return Data(location, sizes, fit, score)


def _apart(codes: Rows) -> tuple[Rows, Rows]:
    """Split samples into all but a fifth, and that fifth; both stay in order."""
    drawn = np.random.default_rng(0).permutation(len(codes))
    fitted, scored = np.split(drawn, [len(codes) - max(1, len(codes) // 5)])
    return codes[np.sort(fitted)], codes[np.sort(scored)]


def _some(codes: Rows, limit: int | None) -> Rows:
    if limit is None or limit >= len(codes):
        return codes
    return codes[np.sort(np.random.default_rng(0).choice(len(codes), limit, replace=False))]


def synthetic_codes(samples: int, grid: tuple[int, ...], codebook_size: int, seed: int = 0) -> Rows:
    """Draw codes (samples, *grid) of smooth random fields with a little noise, quantised to vectors."""
    channels, noise, length = 4, 0.05, math.prod(grid)
    random = np.random.default_rng(seed)
    axes = tuple(range(2, 2 + len(grid)))
    squared = sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, grid), indexing="ij"))
    # Steep enough that six neighbours say about as much of a code as in real grids of 391 codes.
    amplitudes = (squared + 1 / max(grid) ** 2) ** -0.7

    def vectors(count: int) -> Rows:
        white = np.fft.fftn(random.standard_normal((count, channels, *grid)), axes=axes)
        field = np.fft.ifftn(white * amplitudes, axes=axes).real
        field = field / field.std() + noise * random.standard_normal(field.shape)
        return np.moveaxis(field, 1, -1).reshape(-1, channels).astype(np.float32)

    codebook = random.choice(vectors(max(64, 4 * codebook_size // length)), codebook_size, replace=False)
    codes = np.empty((samples, *grid), code_dtype(codebook_size))
    step = max(1, 2**23 // (length * codebook_size))
    for start in range(0, samples, step):
        into = codes[start : start + step]
        similarity = vectors(len(into)) @ codebook.T - np.square(codebook).sum(axis=1) / 2
        into[...] = similarity.argmax(axis=1).reshape(into.shape)
    return codes


def threaded_rate(one: Measured, codes: Rows, threads: int) -> float:
    """Return the samples a second that threads decode together, each its part of the chunks."""
    lengths = [len(rows) for rows in one.contender.chunks(codes)]
    chunks = list(zip(one.payloads, lengths, strict=True)) * math.ceil(THREADED_SECONDS / one.decode_seconds)

    def work(first: int) -> None:
        out = np.empty((max(lengths), *codes.shape[1:]), codes.dtype)
        for payload, length in chunks[first::threads]:
            one.contender.decode(payload, out[:length])

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(threads)))
        return sum(length for _, length in chunks) / (time.perf_counter() - started)


def print_codecs(console: Console, data: Data, measured: list[Measured], bounds: dict[str, float]) -> None:
    """Print a table with a row a contender and a row a bound; ratios are to the first of `measured`."""
    codes, reference = data.score, measured[0]
    numbers = ["bits a code", "with tables", "encode/s", "decode/s", "x bytes", "x decode/s"]
    table = Table("codec", "alone", *numbers)
    table.title = f"{len(codes):,} samples of {data.name}; x: to {reference.contender.name}"
    table.caption = "alone: what can be decoded without the rest; encode/s, decode/s: samples a core"
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("codec", "alone") else "right"
    for name, bits in bounds.items():
        ratio = bits * codes.size / 8 / reference.nbytes
        table.add_row(f"bound: {name}", "", f"{bits:.3f}", "", "", "", f"{ratio:.3f}", "")
    table.add_section()
    for one in measured:
        contender, nbytes = one.contender, one.nbytes
        table.add_row(
            contender.name,
            contender.alone,
            f"{8 * nbytes / codes.size:.3f}",
            f"{8 * (nbytes + contender.table_nbytes) / codes.size:.3f}",
            f"{len(codes) / one.encode_seconds:,.0f}",
            f"{len(codes) / one.decode_seconds:,.0f}",
            f"{nbytes / reference.nbytes:.3f}",
            f"{reference.decode_seconds / one.decode_seconds:.2f}",
        )
    console.print(table)


def print_threads(console: Console, data: Data, measured: list[Measured], threads: int, repeats: int) -> None:
    """Print how decoding of chunks scales with threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    table = Table("decode, samples/s", "1 thread", f"{threads} threads", "ratio")
    table.title = f"threads share the chunks; cores: {cores}"
    for one in measured:
        rates = [[threaded_rate(one, data.score, count) for count in (1, threads)] for _ in range(repeats)]
        single, several = map(max, zip(*rates, strict=True))
        table.add_row(one.contender.name, f"{single:,.0f}", f"{several:,.0f}", f"{several / single:.2f}")
    console.print(table)


@click.command()
@click.argument("store_or_source", required=False)
@click.option("--fit-split", default="train", show_default=True, help="The split that models are fitted on.")
@click.option("--score-split", default="val", show_default=True, help="The split that all rows are about.")
@click.option(
    "--limit", type=click.IntRange(1), help="At most so many samples of each split, drawn by a seed."
)
@click.option("--neural-epochs", default=EPOCHS, show_default=True)
@click.option("--no-neural", is_flag=True, help="Skip the neural bound, which takes minutes.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--grid", default="32x32", show_default=True, help="Grid of codes drawn.")
@click.option("--codebook-size", default=391, show_default=True, help="Codebook of codes drawn.")
@click.option("--samples", default=2000, show_default=True, help="Codes drawn; a fifth of them is scored.")
def main(
    store_or_source: str | None,
    limit: int | None,
    neural_epochs: int,
    no_neural: bool,
    repeats: int,
    threads: int,
    **of_codes: Any,
) -> None:
    """Measure all codecs on the codes of STORE_OR_SOURCE and print the tables."""
    if store_or_source is None:
        sides, size = tuple(map(int, of_codes["grid"].split("x"))), of_codes["codebook_size"]
        fit_codes, score = _apart(synthetic_codes(of_codes["samples"], sides, size))
        data = Data("drawn codes", (size,), _some(fit_codes, limit), _some(score, limit))
    else:
        data = open_data(store_or_source, of_codes["fit_split"], of_codes["score_split"], limit)
    sizes, codes = data.codebook_sizes, data.score
    print(f"{data.name}: grids {codes.shape[1:]}, K = {sizes}")
    print(f"{len(data.fit):,} samples to fit, {len(codes):,} to score")
    own, fit_seconds = ours(data.fit, sizes, print)
    measured = measure([*general(max(sizes), codes.dtype, print), *own], codes, repeats, print)
    bounds = {"order-0 entropy": order_0_bits(codes, sizes)}
    if not no_neural:
        grids = [of.reshape(-1, *of.shape[2:]) if len(sizes) > 1 else of for of in (data.fit, codes)]
        bits = neural_bound_bits(*grids, max(sizes), epochs=neural_epochs, seed=0, threads=threads)
        bounds["MLP on six neighbours"] = bits
    console = Console(width=140)
    print_codecs(console, data, measured, bounds)
    print_threads(console, data, measured[-len(own) :], threads, repeats)
    print(f"context: fitted on {data.fit.size:,} codes in {fit_seconds:.1f} s, ", end="")
    print(f"tables of {own[-1].table_nbytes:,} bytes")


if __name__ == "__main__":
    main()
