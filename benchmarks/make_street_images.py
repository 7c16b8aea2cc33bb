"""A maker of images to pre-train on for street scenes: scenes, photographs, and tiles of small images.

    make_street_images.py OUT --streets camvid/train/images --photos photos/ --small tiny-imagenet/train

Each scene is there whole and as its left and right square, each photograph as it is, and 16 small images
make one of 256x256. A street data set of some hundreds of images is too little to pre-train on alone; see
docs/results.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

SIDE, ACROSS = 256, 4
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
SUFFIXES = {".jpeg", ".jpg", ".png"}


def images(folder: Path) -> list[Path]:
    """Return the image files of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def views(path: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield a scene and the squares at its two ends, each with a name."""
    with Image.open(path) as opened:
        scene = opened.convert("RGB")
    width, height = scene.size
    yield path.stem, scene
    yield f"{path.stem}-left", scene.crop((0, 0, height, height))
    yield f"{path.stem}-right", scene.crop((width - height, 0, width, height))


def tiled(paths: list[Path]) -> Image.Image:
    """Return small images side by side in one image of 256x256."""
    tile = Image.new("RGB", (SIDE, SIDE))
    side = SIDE // ACROSS
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            tile.paste(
                opened.convert("RGB").resize((side, side)),
                (side * (number % ACROSS), side * (number // ACROSS)),
            )
    return tile


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--streets", type=FOLDER, required=True, help="Scenes, wider than high.")
@click.option("--photos", type=FOLDER, required=True, help="Photographs, each name once.")
@click.option("--small", type=FOLDER, required=True, help="Images to tile.")
def main(out: Path, streets: Path, photos: Path, small: Path) -> None:
    """Write the images to OUT."""
    folders = {name: out / "train" / name for name in ("streets", "photos", "tiles")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for path in images(streets):
        for name, view in views(path):
            view.save(folders["streets"] / f"{name}.png", compress_level=1)
    for path in images(photos):
        (folders["photos"] / path.name).symlink_to(path.resolve())
    shuffled = images(small)
    random.Random(0).shuffle(shuffled)
    for number, start in enumerate(range(0, len(shuffled) - ACROSS**2 + 1, ACROSS**2)):
        tile = tiled(shuffled[start : start + ACROSS**2])
        tile.save(folders["tiles"] / f"{number:05d}.png", compress_level=1)


if __name__ == "__main__":
    main()
