"""A benchmark: is a tokenizer busy while its codes go to S3 over a slow network?

    python benchmarks/bench_upload.py [--latency 0.02] [--shards 6] [--seconds-a-shard 10] [--shard-mb 32]

A folder of small images is converted by a tokenizer that sleeps, to S3 and to a local folder. The server is
moto on this machine, behind a proxy that adds `--latency` seconds to every request. `busy` is the part of the
time from the first batch to the end of the last one that the tokenizer slept; `shards` is the part of it that
went by between batches at the ends of shards, beyond what goes by between other batches, where images are
decoded. `until the end` counts the commit too. The bar of the project is 95 % to S3, on a quiet machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.tokenizers.base import TokenizerBase

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.fault_proxy import FaultProxy
from helpers.object_storage import moto_server

SIDE = 16
CODEBOOK_SIZE = 2048
BITS = 11
BATCHES = 8
"""The batches of a shard."""


class SleepingTokenizer(TokenizerBase):
    """A tokenizer that takes a while for each batch, and gives a large grid of any codes."""

    name = "sleeping"
    codebook_sizes = (CODEBOOK_SIZE,)
    fingerprint = "00" * 32

    def __init__(self, side: int, seconds: float) -> None:
        self._side, self._seconds = side, seconds
        self._codes = torch.randint(
            0, CODEBOOK_SIZE, (1, side, side), generator=torch.Generator().manual_seed(0)
        )
        self.spans: list[tuple[float, float]] = []
        """The times at which each batch began and ended."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of an image."""
        return self._side, self._side

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Sleep, and return codes (B, side, side)."""
        began = time.perf_counter()
        time.sleep(self._seconds)
        self.spans.append((began, time.perf_counter()))
        return self._codes.expand(len(inputs), -1, -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Raise NotImplementedError: nobody looks at these codes."""
        raise NotImplementedError


def busy(
    target: str, images: Path, tokenizer: SleepingTokenizer, shard_samples: int, **options: Any
) -> list[str]:
    """Convert, and return the row of the table."""
    tokenstore.convert(
        images,
        target,
        tokenizer=tokenizer,
        image_size=SIDE,
        batch_size=shard_samples // BATCHES,
        chunk_samples=shard_samples // BATCHES,
        shard_samples=shard_samples,
        **options,
    )
    end = time.perf_counter()
    spans = tokenizer.spans
    slept = sum(stop - start for start, stop in spans)
    first, last = spans[0][0], spans[-1][1]
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    at_ends = gaps[BATCHES - 1 :: BATCHES]
    between = (sum(gaps) - sum(at_ends)) / max(1, len(gaps) - len(at_ends))
    lost = sum(at_ends) - between * len(at_ends)
    shares = [slept / (last - first), lost / (last - first), slept / (end - first)]
    return [f"{slept:.1f}", *(f"{share:.1%}" for share in shares)]


@click.command()
@click.option("--latency", default=0.02, show_default=True, help="Seconds that each request takes longer.")
@click.option("--shards", default=6, show_default=True)
@click.option("--seconds-a-shard", default=10.0, show_default=True, help="The tokenizer's time for a shard.")
@click.option("--shard-mb", default=32, show_default=True)
def main(latency: float, shards: int, seconds_a_shard: float, shard_mb: int) -> None:
    """Print how busy the tokenizer was."""
    side = 128
    sample_nbytes = side * side * BITS // 8
    shard_samples = max(1, shard_mb * 2**20 // sample_nbytes // BATCHES) * BATCHES
    table = Table("target", "the tokenizer slept, s", "busy", "shards", "until the end")
    with tempfile.TemporaryDirectory() as temporary, moto_server() as server:
        images = Path(temporary, "images")
        images.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(images / "0.png")
        for number in range(1, shards * shard_samples):
            (images / f"{number}.png").hardlink_to(images / "0.png")
        with FaultProxy(server.endpoint, latency=latency) as proxy:
            url = f"s3://{server.new_bucket()}/a.zarr"
            targets = {url: server.storage_options(proxy.url), str(Path(temporary, "local.zarr")): None}
            for target, storage_options in targets.items():
                tokenizer = SleepingTokenizer(side, seconds_a_shard / BATCHES)
                row = busy(target, images, tokenizer, shard_samples, storage_options=storage_options)
                table.add_row("S3" if storage_options else "local", *row)
    Console().print(table)


if __name__ == "__main__":
    main()
