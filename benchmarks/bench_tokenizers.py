"""A benchmark: how well tokenizers rebuild images, in how many bits, how fast beside a small autoencoder.

    python benchmarks/bench_tokenizers.py PHOTOS [--thumbnails FOLDER] [--tokenizer default --tokenizer dct]

PHOTOS and FOLDER are sources of images as `tokenstore convert` reads them. Of PHOTOS those are measured that
held_out_photographs.txt lists, which the default tokenizer was not trained on; they are squashed to 256x256,
thumbnails to 64x64. Three questions in one run:

- Quality and size: PSNR and SSIM are means over images. Bits are means too: of fixed-width codes (`bitpack`),
  of the codes' order-0 entropy over the set, and of what the store's zstd codec makes of chunks of 64 images.
- Speed in float32 on the CPU, beside the networks of diffusers' AutoencoderTiny with random weights, which is
  TAESD's architecture. Contenders take turns; the table gives medians. The autoencoder gets its pixels ready
  as floats, a tokenizer makes them itself; it runs both as its authors run it and as tokenizers here run,
  image by image on threads, and the ratio is to the faster of the two. Without diffusers it is left out.
- Whether an image's codes depend on the batch and the order it comes in.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tokenstore.codecs import code_dtype, sample_nbytes
from tokenstore.errors import TokenizerError
from tokenstore.format import TokenizerIdentity, code_planes
from tokenstore.machine import available_cores
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.passes import on_threads
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.registry import load_tokenizer
from tokenstore.tokenizers.train.images import ImageRef
from tokenstore.writing.spec import StoreSpec

HELD_OUT = Path(__file__).parent / "held_out_photographs.txt"
PHOTOGRAPH, THUMBNAIL = 256, 64
"""Pixels a side."""
BATCHES = (1, 32)
"""Batches whose speed is measured."""
OTHER_BATCHES = (7, 64)
"""Batches whose codes are compared with those of single images."""
AUTOENCODER = "AutoencoderTiny"


@dataclass(frozen=True)
class Bits:
    """Mean bits that the codes of an image take."""

    fixed_width: float
    entropy: float
    zstd: float


def image_source(place: str | Path) -> ImageSource:
    """Open a source of images."""
    source = open_source(place)
    if not isinstance(source, ImageSource):
        raise click.BadParameter(f"{place}: expected images, found ready codes ({source.kind})")
    return source


def named_images(place: Path) -> dict[str, ImageRef]:
    """Return the images of all splits by their names."""
    return {
        name: ImageRef(split, index)
        for split in image_source(place).splits.values()
        for index, name in enumerate(split.names(0, len(split)).to_pylist())
    }


def read_images(refs: Sequence[ImageRef], side: int, count: int) -> Tensor:
    """Read up to `count` of the images, evenly spaced, squashed to a square: (n, 3, side, side) uint8."""
    positions = np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int)
    pixels = [decode_image(refs[index].data(), ImageOptions(side)).pixels for index in positions]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def encode(tokenizer: Tokenizer, images: Tensor, batch: int = BATCHES[-1]) -> Tensor:
    """Encode images batch by batch; return codes (n, *grid)."""
    return torch.cat([tokenizer.encode(part) for part in images.split(batch)])


def bits_of(tokenizer: Tokenizer, codes: npt.NDArray[Any]) -> Bits:
    """Return the bits that an image of codes (n, *grid) takes."""
    sizes, grid = tokenizer.codebook_sizes, codes.shape[1:]
    spec = StoreSpec(TokenizerIdentity(tokenizer.name), grid, sizes, codec="zstd")
    layout = spec.tokens_layout(len(codes), spec.samples_per_shard(len(codes)))
    starts = range(0, len(codes), layout.shard_samples)
    rows = codes.astype(code_dtype(max(sizes)))
    shards = [layout.encode_shard(rows[start : start + layout.shard_samples]) for start in starts]
    return Bits(
        fixed_width=8 * sample_nbytes(math.prod(grid), max(sizes)),
        entropy=sum(plane[0].size * _entropy(plane, size) for plane, size in code_planes(codes, sizes)),
        zstd=8 * sum(map(len, shards)) / len(codes),
    )


def _entropy(codes: npt.NDArray[Any], size: int) -> float:
    share = np.bincount(codes.ravel(), minlength=size) / codes.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def measure(tokenizer: Tokenizer, images: Tensor) -> tuple[Quality, Bits]:
    """Measure quality and bits on images (n, 3, H, W) uint8."""
    return evaluate(tokenizer, images), bits_of(tokenizer, encode(tokenizer, images).cpu().numpy())


QUALITY_COLUMNS = (
    "images",
    "PSNR, dB",
    "SSIM",
    "perplexity",
    "of K",
    "unused",
    "fixed bits",
    "entropy bits",
    "zstd bits",
)


def quality_table(title: str, *first: str, last: Sequence[str] = ()) -> Table:
    """Return an empty table of quality, with further columns first and last."""
    table = Table(*first, *QUALITY_COLUMNS, *last, title=title)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def quality_cells(tokenizer: Tokenizer, quality: Quality, bits: Bits) -> list[str]:
    """Return the cells of QUALITY_COLUMNS."""
    return [
        str(quality.images),
        f"{quality.psnr:.2f}",
        f"{quality.ssim:.3f}",
        f"{quality.perplexity:,.0f}",
        f"{quality.perplexity / np.mean(tokenizer.codebook_sizes):.1%}",
        f"{quality.unused_codes:,}",
        *(f"{count:,.0f}" for count in (bits.fixed_width, bits.entropy, bits.zstd)),
    ]


@dataclass(frozen=True)
class Contender:
    """An encoder and its decoder, in the form that is timed."""

    name: str
    encode: Callable[[], object]
    decode: Callable[[], object]


def contenders(tokenizers: dict[str, Tokenizer], images: Tensor) -> Iterator[Contender]:
    """Yield the tokenizers, and the autoencoder where diffusers is installed."""
    for spec, tokenizer in tokenizers.items():
        codes = tokenizer.encode(images)
        yield Contender(spec, partial(tokenizer.encode, images), partial(tokenizer.decode, codes))
    if importlib.util.find_spec("diffusers"):
        yield from autoencoder_contenders(images)


def autoencoder_contenders(images: Tensor) -> Iterator[Contender]:
    """Yield diffusers' AutoencoderTiny: on the batch at once, and image by image on threads."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)  # for the weights, which speed does not depend on
    model = AutoencoderTiny().eval().requires_grad_(False)
    pixels = images.float() / 127.5 - 1
    with torch.no_grad():
        latents = model.encoder(pixels[:1]).repeat(len(pixels), 1, 1, 1)
    whole = f"{AUTOENCODER}, the batch at once"
    yield Contender(whole, partial(model.encoder, pixels), partial(model.decoder, latents))
    threads = torch.get_num_threads()
    side_by_side = AutoencoderTiny().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    ours = [part.contiguous(memory_format=torch.channels_last) for part in (pixels, latents)]
    yield Contender(
        f"{AUTOENCODER}, an image a thread",
        partial(on_threads, side_by_side.encoder, ours[0], threads),
        partial(on_threads, side_by_side.decoder, ours[1], threads),
    )


def median_seconds(rows: Sequence[Contender], rounds: int) -> dict[str, tuple[float, float]]:
    """Return seconds of encoding and decoding for each contender, after an uncounted round."""
    times: dict[str, tuple[list[float], list[float]]] = {row.name: ([], []) for row in rows}
    for number in range(rounds + 1):
        for row in rows:
            for run, durations in zip((row.encode, row.decode), times[row.name], strict=True):
                started = time.perf_counter()
                run()
                if number:
                    durations.append(time.perf_counter() - started)
    return {name: (median(encoding), median(decoding)) for name, (encoding, decoding) in times.items()}


def print_speed(console: Console, tokenizers: dict[str, Tokenizer], images: Tensor, rounds: int) -> None:
    """Time all contenders and print a table."""
    table = Table("what", title=f"speed at {PHOTOGRAPH}x{PHOTOGRAPH}, {torch.get_num_threads()} threads")
    rates: dict[str, list[float]] = {}
    for batch in BATCHES:
        repeated = images[torch.arange(batch) % len(images)]
        with torch.no_grad():
            seconds = median_seconds(list(contenders(tokenizers, repeated)), rounds)
        for name, durations in seconds.items():
            rates.setdefault(name, []).extend(batch / each for each in durations)
        for work in ("encode", "decode"):
            table.add_column(f"{work} {batch}, images/s", justify="right")
    for name, each in rates.items():
        table.add_row(name, *(f"{rate:.1f}" for rate in each))
    console.print(table)
    rivals = [each for name, each in rates.items() if name.startswith(AUTOENCODER)]
    if not rivals:
        console.print("diffusers is not installed, so there is no autoencoder to compare with")
        return
    for name in tokenizers:
        ratios = [rate / max(others) for rate, *others in zip(rates[name], *rivals, strict=True)]
        sentences = [
            f"{ratios[2 * at]:.1f} and {ratios[2 * at + 1]:.1f} in batches of {batch}"
            for at, batch in enumerate(BATCHES)
        ]
        console.print(
            f"{name}: times as fast as {AUTOENCODER} at encoding and decoding: {', '.join(sentences)}"
        )


def print_sameness(console: Console, tokenizers: dict[str, Tokenizer], images: Tensor) -> None:
    """Print whether an image's codes depend on the batch that it comes in."""
    table = Table("codes as of single images?", *(f"batches of {batch}" for batch in OTHER_BATCHES))
    table.add_column(f"shuffled, batches of {OTHER_BATCHES[0]}")
    table.title = f"the same codes, whatever the batch? {len(images)} images"
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for name, tokenizer in tokenizers.items():
        expected = encode(tokenizer, images, 1)
        encoded = [encode(tokenizer, images, batch) for batch in OTHER_BATCHES]
        shuffled = torch.empty_like(expected)
        shuffled[order] = encode(tokenizer, images[order], OTHER_BATCHES[0])
        same = [torch.equal(expected, codes) for codes in (*encoded, shuffled)]
        table.add_row(name, *("yes" if each else "no" for each in same))
    console.print(table)


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--thumbnails", type=click.Path(exists=True, path_type=Path), help="Small images to measure.")
@click.option("--tokenizer", "specs", multiple=True, default=("default",), show_default=True)
@click.option("--images", "count", default=1000, show_default=True, help="Most images of a kind.")
@click.option(
    "--names",
    type=click.Path(exists=True, path_type=Path),
    default=HELD_OUT,
    show_default=HELD_OUT.name,
    help="File with the names of the photographs to measure on, one a line.",
)
@click.option("--all-images", is_flag=True, help="Measure on PHOTOS of any name.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of the measurement of speed; 0: none.")
@click.option("--threads", default=available_cores(), show_default="one a core", help="Of torch.")
def main(
    photos: Path,
    thumbnails: Path | None,
    specs: tuple[str, ...],
    count: int,
    names: Path,
    all_images: bool,
    rounds: int,
    threads: int,
) -> None:
    """Measure tokenizers on PHOTOS, a source of images."""
    torch.set_num_threads(threads)
    listed = {Path(name).name for name in names.read_text().splitlines()}
    refs = [ref for name, ref in named_images(photos).items() if all_images or Path(name).name in listed]
    if not refs:
        raise click.UsageError(f"{photos} has none of the images that {names} lists; use --all-images")
    sets = {"photographs": read_images(refs, PHOTOGRAPH, count)}
    if thumbnails is not None:
        sets["thumbnails"] = read_images(list(named_images(thumbnails).values()), THUMBNAIL, count)
    tokenizers = {spec: load_tokenizer(spec) for spec in specs}
    console = Console(width=150)
    for kind, images in sets.items():
        table = quality_table(f"{kind} at {images.shape[3]}x{images.shape[2]}", "tokenizer", "K")
        for spec, tokenizer in tokenizers.items():
            sizes = tokenizer.codebook_sizes
            entries = f"{sizes[0]:,}" if len(sizes) == 1 else f"{len(sizes)} x {sizes[0]:,}"
            try:
                figures = measure(tokenizer, images)
            except TokenizerError as error:  # some kinds take images of one size only
                console.print(f"{spec} is not measured on {kind}: {error}")
                continue
            table.add_row(spec, entries, *quality_cells(tokenizer, *figures))
        console.print(table)
    if rounds:
        print_speed(console, tokenizers, sets["photographs"][: BATCHES[-1]], rounds)
    print_sameness(console, tokenizers, sets["photographs"][: 2 * OTHER_BATCHES[-1]])


if __name__ == "__main__":
    main()
