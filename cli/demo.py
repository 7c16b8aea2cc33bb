"""The main job on real images, from nothing: `python -m tokenstore_cli.demo [IMAGES]`.

Without IMAGES it uses the images that scikit-learn ships: handwritten digits and two photographs.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import click
from PIL import Image

import tokenstore

from .console import counted, echo
from .main import cli
from .seitpp import cli as networks

_HOME = Path("demo")
_DIGITS = 1797
_PHOTO_CROPS = 64
_CROP = 192
_MOST_TRAINED = 20_000
"""The most images to train on; with more of them, an epoch takes too long for a demo."""


def write_images(folder: Path) -> None:
    """Write a folder of real images, without a download: digits 0 to 9 and crops of two photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((pixels * 15.9375).astype("uint8")).resize((64, 64), Image.Resampling.BICUBIC)
        _save(image, folder / f"digit-{digit}" / f"{number:04d}.png")
    photos = load_sample_images()
    for pixels, name in zip(photos.images, photos.filenames, strict=True):
        photo = Image.fromarray(pixels)
        for number in range(_PHOTO_CROPS):
            left = (photo.width - _CROP) * (number % 8) // 7
            top = (photo.height - _CROP) * (number // 8) // 7
            crop = photo.crop((left, top, left + _CROP, top + _CROP))
            _save(crop, folder / Path(name).stem / f"{number:04d}.jpg")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _run(*words: str, program: str = "tokenstore") -> None:
    echo()
    echo(f"$ {program} {' '.join(words)}", bold=True)
    group = cli if program == "tokenstore" else networks
    code = group.main(list(words), prog_name=program, standalone_mode=False)
    if code:
        sys.exit(code)


def demo(images: Path | None) -> None:
    """Make images, convert, audit, verify, picture and augment them, read an epoch, and train a small ViT."""
    store = _HOME / "images.zarr"
    shutil.rmtree(store, ignore_errors=True)
    image_size = []
    if images is None:
        images = _HOME / "images"
        shutil.rmtree(images, ignore_errors=True)
        echo(f"writing scikit-learn's digits and photographs to {images}/")
        write_images(images)
        image_size = ["--image-size", "64"]
    _run("convert", str(images), str(store), *image_size)
    _run("stats", str(store))
    _run("verify", str(store))
    sheet = _HOME / "sheet.png"
    _run("preview", str(store), "-o", str(sheet), "-n", "24")
    augmented = _HOME / "augmented.png"
    _run("preview", str(store), "-o", str(augmented), "-n", "6", "--augment", "seitpp")
    from torch.utils.data import DataLoader  # slow to import, and decode processes import this module

    echo()
    echo("reading one shuffled epoch through TokenDataset", bold=True)
    split = tokenstore.open(store).splits[0]
    dataset = tokenstore.TokenDataset(store, split)
    started = time.monotonic()
    loader = DataLoader(dataset, batch_size=256, shuffle=True)
    batches = [len(batch[0] if len(dataset.columns) > 1 else batch) for batch in loader]
    seconds = time.monotonic() - started
    echo(
        f"read {counted(sum(batches), 'sample')} in {counted(len(batches), 'batch', 'batches')}, "
        f"{sum(batches) / seconds:,.0f} samples/s; "
        f"a sample is {tuple(dataset.reader[0].shape)} codes"
    )
    _train(store, dataset)
    echo()
    echo(f"Done. The store is {store}; look at {sheet} and {augmented}. `tokenstore info {store}` says more.")


def _train(store: Path, dataset: tokenstore.TokenDataset) -> None:
    """Train a classifier on four fifths of a store of classes, and say how good it is on the rest."""
    from seitpp_models.training.reports import EVALUATIONS

    names = dataset.class_names or ()
    if len(names) < 2 or not 2 * len(names) <= len(dataset) <= _MOST_TRAINED:
        echo()
        echo(
            f"No classifier is trained: that takes up to {_MOST_TRAINED:,} images of 2 classes or more, in "
            f"class folders; found {len(dataset):,} of {len(names)} classes. `seitpp finetune` trains others."
        )
        return
    out = _HOME / "classifier"
    shutil.rmtree(out, ignore_errors=True)
    options = ["--split", dataset.reader.name, "--config", "finetune-demo"]
    _run("finetune", str(store), "--out", str(out), *options, program="seitpp")
    (evaluation,) = (json.loads(line) for line in (out / EVALUATIONS).read_text().splitlines())
    echo(f"held-out accuracy: {100 * evaluation['top1']:.1f} %, of {len(names)} classes")


def main() -> None:
    """Run the demo on the folder named on the command line, or on scikit-learn's images."""
    try:
        demo(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
