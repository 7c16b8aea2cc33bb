"""The bytes of images by side and quality, to choose forms of the pixel baseline that match tokens.

    python benchmarks/evidence/sizes.py TINY_IMAGENET/train --side 64 --side 32 --quality 5 --quality 20

Bytes are means of an image of the first of each folder, for JPEG without the tables that all files share.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
from rich.console import Console
from rich.table import Table

from evidence.pixel_images import Form, Quality, read_images
from tokenstore.sources import open_source


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--side", "sides", multiple=True, required=True, type=click.IntRange(1), help="Side in pixels.")
@click.option("--quality", "qualities", multiple=True, type=click.IntRange(1, 95), help="Quality of JPEG.")
@click.option("--count", default=500, type=click.IntRange(1), help="Images, evenly spaced.")
def main(folder: Path, sides: tuple[int, ...], qualities: tuple[int, ...], count: int) -> None:
    """Print the mean bytes of an image of FOLDER, by the side it is squashed to and its quality."""
    source = open_source(str(folder)).images
    if source is None:
        raise click.UsageError(f"{folder}: expected images, found ready codes")
    [split, *_] = source.splits.values()
    names = split.names(0, len(split)).to_pylist()
    chosen = names[:: max(1, len(names) // count)]
    forms: list[Quality] = ["files", "raw", *qualities]
    table = Table("side", *(str(quality) for quality in forms))
    for side in sides:
        sizes = [read_images(folder, chosen, Form(side, quality)).nbytes for quality in forms]
        table.add_row(str(side), *(f"{nbytes / len(chosen):,.0f}" for nbytes in sizes))
    Console().print(table)


if __name__ == "__main__":
    main()
