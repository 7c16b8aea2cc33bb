"""`tokenstore preview` and `tokenstore reconstruct`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from tokenstore.audit.reconstruction import BATCH, Images, evenly_spaced, originals
from tokenstore.audit.reconstruction import reconstruct as decode
from tokenstore.augment.adapters import load_adapter
from tokenstore.augment.examples import augmented_examples
from tokenstore.files import whole_file
from tokenstore.format.layout import TOKENS
from tokenstore.reading.reader import Indices, SplitReader, TokenStore, normalised, open_store
from tokenstore.tokenizers import Tokenizer
from tokenstore.tokenizers.store_tokenizer import tokenizer_of

from .. import options, training_options
from ..console import refuse_idle_options
from ..main import EXIT_CODES

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SAVING: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
_FRAMES = 4
"""Frames of a video that a sheet shows."""
_SMALLEST = 128
"""Pixels of an image's width below which a sheet enlarges it, for captions to fit."""
_LARGEST = 200_000_000
"""Pixels of a sheet."""
_GAP = 4
_FONT_SIZE = 12
_CAPTION = _FONT_SIZE + 6
_PAPER, _INK, _EMPTY = "white", "black", (224, 224, 224)
_WIDE = 1.5
"""Width over height that the number of columns aims at."""


def _parse_indices(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(word) for word in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers such as 0,5,17; found {value!r}") from error


def _image_path(_: click.Context, __: click.Parameter, path: Path) -> Path:
    if path.suffix.lower() not in _FORMATS:
        raise click.BadParameter(f"expected a name ending in {', '.join(_FORMATS)}; found {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of {path} does not exist; make it first")
    return path


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.out(
    "the sheet, a PNG, JPEG or WebP by its ending; an image of that name is replaced", callback=_image_path
)
@options.split("the first that has samples")
@click.option("--indices", metavar="I,J,...", callback=_parse_indices, help="Which samples; -1 is the last.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1),
    help="So many samples, evenly spaced.  [default: 16, with --augment 4]",
)
@click.option("--columns", type=click.IntRange(1), help="Samples side by side; by default as they fit best.")
@training_options.augment(
    ["seitpp"],
    "show what that of SeiT++ makes of each sample: a flip and a crop, naive and by TokenAdapt, "
    "and ColorAdapt",
)
@training_options.adapter("default")
@options.images(end="; by default where they were when STORE was made")
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def preview(
    store: str,
    out: Path,
    split: str | None,
    indices: list[int] | None,
    count: int | None,
    columns: int | None,
    augment: str | None,
    adapter: str,
    images: str | None,
    tokenizer: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
) -> None:
    """Draw samples of STORE on one sheet: each image where it is still there, and what its codes give.

    \b
    Examples:
      tokenstore preview photos.zarr -o sheet.png
      tokenstore preview photos.zarr -o sheet.jpg --split val --indices 0,5,17 --images /new/place/photos
      tokenstore preview photos.zarr -o augmented.png --augment seitpp
    """
    if indices is not None and count is not None:
        raise click.UsageError("expected --indices or -n, found both")
    refuse_idle_options({"adapter": "--adapter"}, "--augment", augment is None)
    refuse_idle_options({"images": "--images"}, "a sheet without --augment", augment is not None)
    opened = open_store(store, storage_options=storage_options)
    reader = _chosen_split(opened, split)
    count = count or (16 if augment is None else 4)
    wanted = _in_range(reader, evenly_spaced(len(reader), count) if indices is None else indices)
    maker = tokenizer_of(opened.manifest, tokenizer, device)
    if augment is not None:
        examples = _augmented(opened, reader, wanted, maker, adapter)
        samples = list(zip(*examples.values(), strict=True))
        _save(_sheet(samples, _captions(opened, reader, wanted), columns or 1, list(examples)), out)
        click.echo(f"{out}: {len(wanted):,} samples of split {reader.name}: {', '.join(examples)}")
        return
    rebuilt = decode(opened, reader.name, wanted, maker)
    found = originals(opened, reader.name, wanted, images)
    there = len(wanted) - found.missing
    strips = [_strip(sample) for sample in rebuilt]
    pairs = [(image, strip) if there else (strip,) for image, strip in zip(found.inputs, strips, strict=True)]
    _save(_sheet(pairs, _captions(opened, reader, wanted), columns), out)
    click.echo(f"{out}: {len(wanted):,} samples of split {reader.name}, {there:,} with their originals")
    if found.reason is not None:
        click.echo(f"  no original of {found.missing:,}; the first reason: {found.reason}")


@click.command(epilog=EXIT_CODES, context_settings={"ignore_unknown_options": True})
@options.existing_store()
@click.argument("indices", metavar="INDEX...", nargs=-1, required=True, type=int)
@options.out("the folder of the images, which is made if it does not exist", folder=True)
@options.split("the first that has samples")
@click.option(
    "--format",
    "ending",
    type=click.Choice([ending.removeprefix(".") for ending in _FORMATS]),
    default="png",
    show_default=True,
    help="Of the images.",
)
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def reconstruct(
    store: str,
    indices: tuple[int, ...],
    out: Path,
    split: str | None,
    ending: str,
    tokenizer: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
) -> None:
    """Write what the codes of samples of STORE give as images DIR/INDEX.png.

    A sample of video gives DIR/INDEX-FRAME.png for each frame. An INDEX below zero counts from the end.
    Images of these names are overwritten.

    \b
    Examples:
      tokenstore reconstruct photos.zarr 0 5 17 --out images/
      tokenstore reconstruct photos.zarr -1 --out images/ --split val --format jpg
    """
    opened = open_store(store, storage_options=storage_options)
    reader = _chosen_split(opened, split)
    wanted = np.unique(_in_range(reader, indices))
    maker = tokenizer_of(opened.manifest, tokenizer, device)
    out.mkdir(parents=True, exist_ok=True)
    files = 0
    for start in range(0, len(wanted), BATCH):
        here = wanted[start : start + BATCH]
        for index, image in zip(here.tolist(), decode(opened, reader.name, here, maker), strict=True):
            frames = [image] if image.ndim == 3 else list(image)
            for number, frame in enumerate(frames):
                name = f"{index}" if image.ndim == 3 else f"{index}-{number}"
                _save(Image.fromarray(frame), out / f"{name}.{ending}")
            files += len(frames)
    click.echo(f"{out}: {files:,} images of {len(wanted):,} samples of split {reader.name}")


def _chosen_split(store: TokenStore, split: str | None) -> SplitReader:
    if split is None:
        split = next((name for name in store.splits if len(store[name])), None)
    if split is None:
        raise click.ClickException(f"{store.files.storage}: expected samples, found none in any split")
    return store[split]


def _in_range(reader: SplitReader, indices: Sequence[int] | Indices) -> Indices:
    """Indices counted from the first sample."""
    samples = len(reader)
    if not samples:
        raise click.ClickException(f"split {reader.name} has no samples")
    outside = next((index for index in indices if not -samples <= index < samples), None)
    if outside is not None:
        raise click.UsageError(
            f"index {outside} is out of range: split {reader.name} has {samples:,} samples"
        )
    return normalised(indices, samples)


def _captions(store: TokenStore, reader: SplitReader, indices: Indices) -> list[str]:
    """Each sample's index, and its class as far as it has one."""
    if reader.labels is None:
        return [str(index) for index in indices]
    names = store.class_names
    labels = reader.labels[indices].tolist()
    texts = [str(label) if names is None else " ".join(names[label].split()) for label in labels]
    return [f"{index}  {text}" for index, text in zip(indices, texts, strict=True)]


def _augmented(
    store: TokenStore, reader: SplitReader, indices: Indices, tokenizer: Tokenizer, adapter: str
) -> dict[str, Images]:
    """Images (n, H, W, 3) that the samples' codes give, as they are and augmented, by name."""
    codes = torch.from_numpy(reader.read(TOKENS, indices).astype(np.int64))
    stored = store.manifest.tokenizer
    identity = replace(stored, fingerprint=stored.fingerprint or tokenizer.fingerprint)
    loaded = load_adapter(adapter, tokenizer=identity)
    codebook = np.empty(0) if tokenizer.codebook is None else tokenizer.codebook
    expected, found = (loaded.config.codebook_size, loaded.config.channels), codebook.shape
    if expected != found or codes.ndim != 3:
        raise click.ClickException(
            f"--adapter {adapter}: it is for codes (H, W) and a codebook of {expected}; the store's are "
            f"{tuple(codes.shape[1:])} of {found}. `seitpp train-tokenadapt` trains one"
        )
    examples = augmented_examples(codes, codebook, loaded)
    decoded = {name: tokenizer.decode(part) for name, part in ({"original": codes} | examples).items()}
    return {name: images.movedim(1, -1).cpu().numpy() for name, images in decoded.items()}


def _strip(images: Images) -> Images:
    """An image (H, W, 3) as it is; of video (T, H, W, 3) some frames side by side."""
    if images.ndim == 3:
        return images
    frames = images[evenly_spaced(len(images), _FRAMES)]
    gap = np.full((frames.shape[1], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1)


def _sheet(
    samples: Sequence[tuple[Images | None, ...]],
    captions: Sequence[str],
    columns: int | None,
    headings: Sequence[str] = (),
) -> Image.Image:
    """Every sample's images side by side above its caption; an image that is missing leaves a grey place.

    `headings` say what each of a sample's images is, at the top of the sheet.
    """
    sizes = [image.shape[:2] for images in samples for image in images if image is not None]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    scale = max(1, math.ceil(_SMALLEST / width))
    height, width = scale * height, scale * width
    cell = (len(samples[0]) * (width + _GAP) + _GAP, height + _CAPTION + _GAP)
    columns = min(len(samples), columns or round(math.sqrt(_WIDE * len(samples) * cell[1] / cell[0])) or 1)
    head = _CAPTION if headings else 0
    size = (columns * cell[0] + _GAP, -(-len(samples) // columns) * cell[1] + _GAP + head)
    if math.prod(size) > _LARGEST:
        raise click.ClickException(
            f"a sheet of {size[0]:,} x {size[1]:,} pixels is more than the {_LARGEST:,} allowed: ask for "
            "fewer samples, or use `tokenstore reconstruct`"
        )
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for column in range(columns):
        for place, heading in enumerate(headings):
            left = _GAP + column * cell[0] + place * (width + _GAP)
            draw.text((left, _GAP), _shortened(heading, font, width), _INK, font)
    for number, (images, caption) in enumerate(zip(samples, captions, strict=True)):
        row, column = divmod(number, columns)
        top, left = _GAP + head + row * cell[1], _GAP + column * cell[0]
        for place, image in enumerate(images):
            corner = (left + place * (width + _GAP), top)
            if image is None:
                sheet.paste(_EMPTY, (*corner, corner[0] + width, corner[1] + height))
            else:
                enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
                sheet.paste(Image.fromarray(enlarged), corner)
        text = _shortened(caption, font, cell[0] - 2 * _GAP)
        draw.text((left, top + height + 1), text, _INK, font)
    return sheet


def _shortened(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: font.getlength(f"{text[:length]}..."))
    return f"{text[: max(0, fitting - 1)]}..."


def _save(image: Image.Image, path: Path) -> None:
    """Write an image in one go: what was at the path stays as it is until the new one is whole."""
    kind = _FORMATS[path.suffix.lower()]
    with whole_file(path, temporary=path.with_name(f".{path.name}.partial")) as file:
        image.save(file, kind, **_SAVING[kind])
