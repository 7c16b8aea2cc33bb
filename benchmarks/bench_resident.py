"""A benchmark: how fast a device decodes tokens that lie compressed in its memory, beside a processor's core.

    python benchmarks/bench_resident.py [--device cuda] [--samples 16384] [--codebook-size 391] [--repeats 5]

Codes are drawn from a context model of random weights, by decoding random bytes, so that they cost about as
many bits as real ones. All decoders are given the same samples in random order, all at once and a batch at a
time, and have to return the same codes. The best of the repeats counts. Without a GPU everything runs on the
processor, with few samples, which says little about a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from tokenstore.codecs import bitpack
from tokenstore.codecs.context.model import CodeTree, ContextModel, Plane, lanes_for
from tokenstore.codecs.context.streams import Streams
from tokenstore.loading.resident import ContextDecoder, unpack

NEIGHBOURS = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-2, 1), (-2, -1), (-1, -2)]
COMPONENTS = 24
DISTINCT = 2048
"""The number of samples that are drawn; the others repeat them, in another order."""

Codes = npt.NDArray[Any]


@dataclass(frozen=True)
class Contender:
    """A decoder, and the bytes that a sample takes for it."""

    name: str
    nbytes: float
    """The bytes of a sample."""
    decode: Callable[[npt.NDArray[np.int64]], object]
    """The codes of the samples at indices (m,)."""


def random_model(codebook_size: int) -> ContextModel:
    """Return a context model of random weights."""
    rng = np.random.default_rng(0)
    tree, lanes = CodeTree.of(codebook_size), lanes_for([codebook_size])

    def int8(*shape: int) -> npt.NDArray[np.int8]:
        return np.clip(rng.normal(0, 27, shape), -127, 127).astype(np.int8)

    plane = Plane(
        codebook_size,
        order=rng.permutation(codebook_size).astype(np.uint32),
        contexts=np.array(NEIGHBOURS, np.int8),
        gains=np.full(COMPONENTS, 1000, np.uint16),
        components=int8(COMPONENTS, 1 + codebook_size),
        readers=int8(COMPONENTS, len(NEIGHBOURS) + 2, lanes),
        bias=np.zeros(lanes, np.int16),
        weights=int8(tree.children, 32),
        biases=np.zeros(tree.children, np.int16),
        row_shift=18,
        logit_shift=3,
        fade=3,
    )
    return ContextModel(2, (plane,))


def drawn_codes(streams: Streams, samples: int, dtype: npt.DTypeLike) -> Codes:
    """Draw codes (samples, L) as the model expects them."""
    rng = np.random.default_rng(1)
    codes = np.empty((samples, streams.codes_per_sample), dtype)
    at = 0
    while at < samples:
        anything = rng.integers(0, 256, 4 * streams.codes_per_sample, np.uint8)
        address, length = np.array([anything.ctypes.data]), np.array([len(anything)])
        at += streams.decode(address, length, codes[at : at + 1]) < 0
    return codes


def contenders(
    codes: Codes, streams: Streams, repeated: npt.NDArray[np.int64], device: torch.device
) -> list[Contender]:
    """Return the decoders of the samples codes[repeated]."""
    size = streams.model.codebook_size
    packed = bitpack.pack(codes, size)
    data, lengths = streams.encode(codes)
    starts = np.cumsum(lengths) - lengths
    coded = np.split(np.frombuffer(data, np.uint8), starts[1:])
    pool = np.concatenate([coded[at] for at in repeated])
    lengths = lengths[repeated]
    offsets = np.cumsum(lengths) - lengths
    packs = packed[repeated].ravel()
    length, nbytes = codes.shape[1], packed.shape[1]
    grid = (round(length**0.5), round(length**0.5))
    on_device, packs_on_device = (torch.from_numpy(array).to(device) for array in (pool, packs))

    def to_device(array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def unpack_here(row_numbers: npt.NDArray[np.int64]) -> Codes:
        out = np.empty((len(row_numbers), length), np.int64)
        bitpack.unpack_at((packs.ctypes.data + row_numbers * nbytes).astype(np.uint64), length, size, out)
        return out

    def decode_here(row_numbers: npt.NDArray[np.int64]) -> Codes:
        out = np.empty((len(row_numbers), length), np.int64)
        assert streams.decode(pool.ctypes.data + offsets[row_numbers], lengths[row_numbers], out) < 0
        return out

    def unpack_on_device(row_numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        return unpack(packs_on_device, to_device(row_numbers * nbytes), length, size)

    def decoding(kernel: Any) -> Callable[[npt.NDArray[np.int64]], torch.Tensor]:
        decoder = ContextDecoder(streams.model, grid, device, kernel=kernel)
        return lambda row_numbers: decoder.decode(
            on_device, to_device(offsets[row_numbers]), to_device(lengths[row_numbers])
        ).flatten(1)

    mean = float(lengths.mean())
    rows = [
        Contender("bitpack, one core", nbytes, unpack_here),
        Contender("context, one core", mean, decode_here),
        Contender(f"bitpack, torch on {device}", nbytes, unpack_on_device),
        Contender(f"context, torch on {device}", mean, decoding("torch")),
    ]
    if device.type == "cuda":
        rows.append(Contender(f"context, Triton on {device}", mean, decoding("triton")))
    return rows


def best_rate(row: Contender, samples: int, batch: int, codes: Codes, repeats: int) -> float:
    """Return the best samples a second, once the decoded codes equal `codes`."""
    order = np.random.default_rng(2).permutation(samples)
    batches = [order[at : at + batch] for at in range(0, max(batch, samples // 8), batch)]
    decoded = torch.as_tensor(row.decode(batches[0])).cpu().numpy()
    np.testing.assert_array_equal(decoded, codes[batches[0]])
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for row_numbers in batches:
            row.decode(row_numbers)  # which waits for the device, to learn whether all was well
        best = min(best, time.perf_counter() - start)
    return sum(map(len, batches)) / best


@click.command()
@click.option("--device", default=None, help="Where tokens lie; CUDA where there is any, or else the CPU.")
@click.option("--samples", default=None, type=int, help="16384, or 256 on the CPU.")
@click.option("--side", default=32, show_default=True, help="Codes along each side of a sample.")
@click.option("--codebook-size", default=391, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(
    device: str | None, samples: int | None, side: int, codebook_size: int, batch: int, repeats: int
) -> None:
    """Measure every decoder on the same samples, and print one table."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    samples = samples or (256 if where.type == "cpu" else 16384)
    console = Console(width=110)
    if where.type == "cpu":
        console.print(f"No GPU: everything runs on the processor, with {samples} samples.")
    else:
        console.print(torch.cuda.get_device_name(where))
    torch.set_num_threads(1)
    streams = Streams(random_model(codebook_size), (side, side))
    drawn = drawn_codes(streams, min(samples, DISTINCT), bitpack.code_dtype(codebook_size))
    repeated = np.random.default_rng(3).permutation(np.resize(np.arange(len(drawn)), samples))
    sizes = sorted({min(batch, samples), samples})
    table = Table("what", "bytes a sample", *(f"samples/s, {size} at once" for size in sizes))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in contenders(drawn, streams, repeated, where):
        rates = [best_rate(row, samples, size, drawn[repeated], repeats) for size in sizes]
        table.add_row(row.name, f"{row.nbytes:,.0f}", *(f"{rate:,.0f}" for rate in rates))
    console.print(table)


if __name__ == "__main__":
    main()
