"""A benchmark: whether conversion is a bottleneck beside decoding the images.

    python benchmarks/bench_convert.py [IMAGES] [--workers 2] [--repeats 3]

Converts with a tokenizer that does nothing, and decodes the same images with the same decode processes and
throws the pixels away. Both run in turn, several times, start of the processes included; the table gives the
best of each. Without IMAGES, JPEG crops of the two photographs that scikit-learn ships are used.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.machine import available_cores
from tokenstore.sources import open_source
from tokenstore.sources.decoding import decode_in_order
from tokenstore.sources.images import ImageOptions, PixelDecoder

CROPS = 2000
CROP = (400, 320)


class NoTokenizer:
    """A tokenizer that gives codes of zeros, at no cost."""

    name = "none"
    fingerprint = "0" * 64
    codebook_sizes = (391,)
    codebook = None
    image_size = 256
    device = torch.device("cpu")
    dtype = None

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a grid of one code."""
        return (input_shape[1] // 8, input_shape[2] // 8)

    def to(self, device: object) -> NoTokenizer:
        """Return this tokenizer, which runs on any device."""
        return self

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros((len(inputs), *self.grid(tuple(inputs.shape[1:]))), dtype=torch.int64)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Raise, for nothing can be decoded from zeros."""
        raise ValueError("there is nothing to decode")


def write_crops(folder: Path) -> None:
    """Write JPEG crops of the two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(CROPS):
        photo = photos[number % len(photos)]
        left, top = rng.integers(0, photo.width - CROP[0]), rng.integers(0, photo.height - CROP[1])
        target = folder / f"class-{number % 10}" / f"{number:05d}.jpg"
        target.parent.mkdir(exist_ok=True)
        photo.crop((left, top, left + CROP[0], top + CROP[1])).save(target, quality=90)


@click.command()
@click.argument("images", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--workers", default=available_cores(), show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(images: Path | None, workers: int, repeats: int) -> None:
    """Convert IMAGES and decode them alone, in turn, and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        if images is None:
            images = Path(scratch, "images")
            images.mkdir()
            write_crops(images)
        source = open_source(images)
        split = next(iter(source.splits))
        count = len(source.splits[split])
        best: dict[str, float] = {}
        for repeat in range(repeats):
            started = time.perf_counter()
            for _ in decode_in_order(
                source.splits[split], 0, count, PixelDecoder(ImageOptions(256)), workers
            ):
                pass
            decoded = time.perf_counter()
            out = Path(scratch, f"{repeat}.zarr")
            options = ConvertOptions(splits=(split,), workers=workers, on_error="skip")
            convert_source(source, out, tokenizer=NoTokenizer(), options=options)
            done = time.perf_counter()
            for name, seconds in (("decode alone", decoded - started), ("convert", done - decoded)):
                best[name] = min(best.get(name, np.inf), seconds)
        table = Table("what", "s", "images/s", title=f"{count:,} images, {workers} decode processes")
        for name, seconds in best.items():
            table.add_row(name, f"{seconds:.2f}", f"{count / seconds:,.0f}")
        Console().print(table)
        print(
            f"convert runs at {best['decode alone'] / best['convert']:.3f} times the rate of decoding alone"
        )


if __name__ == "__main__":
    main()
