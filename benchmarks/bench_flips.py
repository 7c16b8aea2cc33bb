"""A benchmark: are codes of mirror images a permutation of the mirrored codes, and what does encoding cost?

    python benchmarks/bench_flips.py PHOTOS --tokenizer default --tokenizer conv-vq-symmetric:WEIGHTS

PHOTOS is a source of images as `tokenstore convert` reads them. Evenly spaced images of its first split are
squashed to 64, 128 and 256 pixels a side. For each tokenizer and side the table has the share of codes of
mirror images that equal the mirrored codes, permuted by the tokenizer's symmetry `flip` where it has one; the
largest difference, in levels, of pictures decoded of both; and images a second, encoded in batches of 32 in
turn with the other contenders, the median of three rounds.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tokenstore.augment import ExactFlip
from tokenstore.format import NO_SYMMETRIES
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import SymmetricTokenizer, Tokenizer, load_tokenizer

SIDES = (64, 128, 256)
BATCH = 32
ROUNDS = 3


def read_images(place: str, side: int, count: int) -> Tensor:
    """Read evenly spaced images of a source's first split, squashed: (n, 3, side, side) uint8."""
    source = open_source(place).images
    if source is None:
        raise click.BadParameter(f"{place}: expected images, found ready codes")
    split = next(iter(source.splits.values()))
    positions = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int).tolist()
    files = [split.request(at, at + 1).read()[0] for at in positions]
    pixels = [decode_image(data, ImageOptions(side)).pixels for data in files if isinstance(data, bytes)]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def flipped(tokenizer: Tokenizer, codes: Tensor) -> Tensor:
    """Return the codes of mirror images, as far as a tokenizer's symmetries know them."""
    symmetries = tokenizer.symmetries if isinstance(tokenizer, SymmetricTokenizer) else NO_SYMMETRIES
    flip = ExactFlip.of(symmetries, p=1)
    return codes.flip(-1) if flip is None else flip(codes, generator=torch.Generator())


def rates(tokenizers: dict[str, Tokenizer], images: Tensor) -> dict[str, float]:
    """Return each tokenizer's images a second in batches of BATCH."""
    seconds: dict[str, list[float]] = {name: [] for name in tokenizers}
    for _ in range(ROUNDS):
        for name, tokenizer in tokenizers.items():
            start = time.perf_counter()
            for part in images.split(BATCH):
                tokenizer.encode(part)
            seconds[name].append(time.perf_counter() - start)
    return {name: len(images) / median(each) for name, each in seconds.items()}


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--tokenizer", "specs", multiple=True, default=("default",))
@click.option("--images", type=click.IntRange(1), default=64, show_default=True)
def main(photos: Path, specs: tuple[str, ...], images: int) -> None:
    """Print the table."""
    tokenizers = {spec: load_tokenizer(spec) for spec in specs}
    table = Table("pixels", "tokenizer", "equal codes", "largest difference decoded", "images/s")
    for side in SIDES:
        batch = read_images(str(photos), side, images)
        speed = rates(tokenizers, batch)
        for name, tokenizer in tokenizers.items():
            codes = tokenizer.encode(batch)
            expected = flipped(tokenizer, codes)
            equal = (tokenizer.encode(batch.flip(3)) == expected).double().mean()
            decoded, mirrored = tokenizer.decode(codes).int(), tokenizer.decode(expected).int()
            largest = int((decoded.flip(3) - mirrored).abs().max())
            table.add_row(f"{side}", name, f"{equal:.3%}", f"{largest} levels", f"{speed[name]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
