"""A benchmark: how fast tokens are made ready for training, against the loader of the SeiT layout.

    python benchmarks/bench_training_input.py SEIT [--threads 1 --threads 2] [--batch 256] [--size 28]

SEIT is a folder in the layout of the SeiT release. Everything is read into memory first: the release's byte
stream and offsets, and the same codes packed by `bitpack`. Ready are codebook vectors (batch, C, size, size)
float32, random-resized-cropped by bicubic interpolation, and labels; samples come in random order.

The release's loader is restated here from its description: each sample is cut out of the stream, its escapes
resolved, its codes made a one-hot map (K, 32, 32), a random box of that resized; the batch is multiplied by
the codebook. It runs in one process with as many torch threads, and with as many DataLoader workers.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tokenstore.augment import CroppedEmbedding, RandomResizedCrop
from tokenstore.codecs import bitpack
from tokenstore.sources.seit import DATA_ENDING, GRID, open_seit
from tokenstore.tokenizers.codebooks import load_codebook

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10
CODES = math.prod(GRID)
Indices = npt.NDArray[np.int64]
Ready = tuple[Tensor, Tensor]


class OneHotCrops(Dataset[Any]):
    """The release's samples as its loader gives them in training: a one-hot map (K, size, size), a label."""

    def __init__(self, folder: Path, codebook_size: int, size: int) -> None:
        (data,) = folder.glob(f"*-train{DATA_ENDING}")
        stem = data.name.removesuffix(DATA_ENDING)
        with gzip.open(data) as stream, gzip.open(folder / f"{stem}-token.index.npy.gz") as index:
            self.stream: bytes = stream.read()
            self.offsets = np.lib.format.read_array(index, allow_pickle=False)
        self.labels = [int(line) for line in (folder / f"{stem}-label.txt").read_text().split()]
        self.codebook_size, self.size = codebook_size, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.crop(self.codes(index), self.box()), self.labels[index]

    def codes(self, index: int) -> Tensor:
        """Return the codes (32, 32) of a sample, its escapes resolved."""
        stored = np.frombuffer(self.stream[self.offsets[index] : self.offsets[index + 1]], np.uint8)
        escapes = np.flatnonzero(stored == 255)
        codes = stored.astype(np.int64)
        codes[escapes] += stored[escapes + 1]
        return torch.from_numpy(np.delete(codes, escapes + 1).reshape(GRID))

    def box(self) -> tuple[int, int, int, int]:
        """Draw a random box of a map: top, left, height, width."""
        height, width = GRID
        for _ in range(TRIES):
            area = height * width * float(torch.empty(1).uniform_(*SCALE))
            aspect = math.exp(float(torch.empty(1).uniform_(math.log(RATIO[0]), math.log(RATIO[1]))))
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(torch.randint(0, height - rows + 1, ()))
                return top, int(torch.randint(0, width - columns + 1, ())), rows, columns
        return 0, 0, height, width

    def crop(self, codes: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        """Return the one-hot map (K, size, size) of a box of codes."""
        one_hot = F.one_hot(codes, self.codebook_size).permute(2, 0, 1).float()
        top, left, rows, columns = box
        part = one_hot[None, :, top : top + rows, left : left + columns]
        return F.interpolate(part, (self.size, self.size), mode="bicubic", align_corners=False)[0]


class PackedCrops:
    """The same samples by tokenstore: packed in memory, unpacked and cropped a batch at a time."""

    def __init__(self, folder: Path, codebook: npt.NDArray[np.float32], size: int) -> None:
        split = open_seit(folder).splits["train"]
        self.codebook_size = len(codebook)
        self.packed = bitpack.pack(split.codes(0, len(split)).reshape(-1, CODES), self.codebook_size)
        self.labels = torch.from_numpy(np.array(split.labels(0, len(split)), np.int64))
        self.cropped = CroppedEmbedding(codebook, RandomResizedCrop(size, SCALE, RATIO))

    def codes(self, indices: Indices) -> Tensor:
        """Return the codes (B, 32, 32) of samples."""
        codes = np.empty((len(indices), CODES), np.int64)
        addresses = self.packed.ctypes.data + indices * self.packed.shape[1]
        bitpack.unpack_at(addresses.astype(np.uint64), CODES, self.codebook_size, codes)
        return torch.from_numpy(codes.reshape(-1, *GRID))

    def batch(self, indices: Indices, seed: int) -> Ready:
        """Return cropped vectors (B, C, size, size) of samples."""
        generator = torch.Generator().manual_seed(seed)
        return self.cropped(self.codes(indices), generator=generator), self.labels[indices]


def check(theirs: OneHotCrops, ours: PackedCrops, codebook: Tensor) -> None:
    """Compare both on the same boxes; raises AssertionError on a difference."""
    indices = np.arange(0, len(theirs), len(theirs) // 16)
    cropped, labels = ours.batch(indices, 0)
    boxes = ours.cropped.crop.boxes(len(indices), GRID, torch.Generator().manual_seed(0)).tolist()
    maps = [theirs.crop(theirs.codes(int(at)), box) for at, box in zip(indices, boxes, strict=True)]
    expected = torch.einsum("bkhw,kc->bchw", torch.stack(maps), codebook)
    torch.testing.assert_close(cropped, expected, atol=1e-5 * float(codebook.abs().max()), rtol=0)
    assert labels.tolist() == [theirs.labels[at] for at in indices]


def batches(samples: int, of: int, batch: int) -> list[Indices]:
    """Return row numbers of `samples` samples in random order, epoch after epoch."""
    random = np.random.default_rng(0)
    epochs = [random.permutation(of) for _ in range(-(-samples // of))]
    return np.split(np.concatenate(epochs)[:samples], range(batch, samples, batch))


def one_hot_rate(
    theirs: OneHotCrops, codebook: Tensor, order: list[Indices], threads: int, workers: int
) -> float:
    """Return the samples a second of the release's way."""
    torch.set_num_threads(threads)
    loader: DataLoader[Any] = DataLoader(
        theirs, batch_sampler=order, num_workers=workers, prefetch_factor=1 if workers else None
    )
    started = time.perf_counter()
    for maps, _ in loader:
        torch.einsum("bkhw,kc->bchw", maps, codebook)
    return sum(map(len, order)) / (time.perf_counter() - started)


def packed_rate(ours: PackedCrops, order: list[Indices], threads: int) -> float:
    """Return the samples a second of tokenstore's way."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        waiting = [pool.submit(ours.batch, order[seed], seed) for seed in range(threads)]
        for seed in range(threads, len(order)):
            # No more batches than threads are under way, and each is dropped before the next begins.
            waiting.pop(0).result()
            waiting.append(pool.submit(ours.batch, order[seed], seed))
        for last in waiting:
            last.result()
        return sum(map(len, order)) / (time.perf_counter() - started)


def best(repeats: int, rate: Callable[[], float]) -> float:
    """Return the best rate of the repeats."""
    return max(rate() for _ in range(repeats))


@click.command()
@click.argument("seit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", multiple=True, default=[1, 2], show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--size", default=28, show_default=True)
@click.option("--samples", default=25_600, show_default=True, help="Samples a repeat, of tokenstore.")
@click.option("--one-hot-samples", default=512, show_default=True, help="The same, of the release's loader.")
@click.option("--repeats", default=3, show_default=True, help="The best of them counts.")
def main(
    seit: Path, threads: list[int], batch: int, size: int, samples: int, one_hot_samples: int, repeats: int
) -> None:
    """Measure both ways on the samples of SEIT and print a table."""
    vectors = load_codebook(seit / "codebook.ckpt")
    codebook = torch.from_numpy(vectors)
    theirs, ours = OneHotCrops(seit, len(vectors), size), PackedCrops(seit, vectors, size)
    check(theirs, ours, codebook)
    few, many = batches(one_hot_samples, len(theirs), batch), batches(samples, len(theirs), batch)
    table = Table("ready training input", "threads or workers", "samples/s", "ratio")
    table.title = f"batch {batch}, (C, H, W) = {(codebook.shape[1], size, size)}, K = {len(codebook)}"
    for count in threads:
        rates = {
            "SeiT layout, one process": best(
                repeats, lambda n=count: one_hot_rate(theirs, codebook, few, n, 0)
            ),
            "SeiT layout, DataLoader workers": best(
                repeats, lambda n=count: one_hot_rate(theirs, codebook, few, n, n)
            ),
            "tokenstore, bitpack in memory": best(repeats, lambda n=count: packed_rate(ours, many, n)),
        }
        peer = max(list(rates.values())[:2])
        for name, rate in rates.items():
            table.add_row(name, str(count), f"{rate:,.0f}", f"{rate / peer:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
