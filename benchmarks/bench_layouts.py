"""A benchmark: what views of images cost in a store, and what a tree of `.npy` files becomes.

    python benchmarks/bench_layouts.py views --work DIR [--data PHOTOS] [--rule flip] [--rule ten-crop:1.1]
        [--limit 500] [--json FILE]
    python benchmarks/bench_layouts.py tree --work DIR [--samples 20000] [--json FILE]

`views` converts images once for each rule, and stores their codes by `bitpack`, by `context` with views given
earlier ones, and by `context` with every view a sample of its own. Bits a code are of all bytes of the array
of tokens, with its models. Beside them stands `xz -9e` of the tree that LlamaGen would write (int64, a file
an image), whole, which reads no sample alone. The second table has the CPU time of one decoded view, in
random batches of 256, against the store of single views; contenders take turns, and the best of the repeats
counts. Without `--data`, smooth random images are drawn, which say nothing about photographs.

`tree` writes such a tree of flip pairs with random smooth codes, imports it, and compares bytes.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from bench_codecs import synthetic_codes
from PIL import Image
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.reading import TokenStore

Codes = npt.NDArray[Any]

BATCH = 256
REPEATS = 5
FOLDER = click.Path(path_type=Path)
DRAWN = 64
"""The images that are drawn where none are given."""


def tokens_nbytes(store: Path) -> int:
    """Return the bytes of all files of the array of tokens, with its codec's models."""
    return sum(file.stat().st_size for file in (store / "train" / "tokens").rglob("*") if file.is_file())


def all_codes(store: Path) -> Codes:
    """Return the codes (N, V, *grid) of a store."""
    codes: Codes = tokenstore.open(store)["train"].read("tokens", None)
    return codes


def once(path: Path, make: Callable[[Path], object]) -> float:
    """Make a store unless it is there already; return the CPU seconds of this process that it took."""
    if path.exists():
        return 0.0
    started = time.process_time()
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(unfinished)
    unfinished.rename(path)
    return time.process_time() - started


def draw_images(folder: Path) -> None:
    """Draw smooth random images."""
    (folder / "class-0").mkdir(parents=True)
    for number in range(DRAWN):
        small = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        image = Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC)
        image.save(folder / "class-0" / f"{number:03d}.png")


def tree_files(codes: Codes) -> list[bytes]:
    """Return the files that LlamaGen writes of codes (N, V, *grid): int64 (1, V, L) each."""
    files = []
    for sample in codes.reshape(len(codes), codes.shape[1], -1).astype(np.int64):
        file = io.BytesIO()
        np.save(file, sample[None])
        files.append(file.getvalue())
    return files


def stores_of(data: Path, rule: str, limit: int, work: Path) -> dict[str, Path]:
    """Return the stores of a rule's views by codec, made where they are missing."""
    stem = rule.replace(":", "-")
    stores = {name: work / f"{stem}-{name}.zarr" for name in ("bitpack", "context", "alone")}
    packed = stores["bitpack"]
    once(packed, lambda out: tokenstore.convert(data, out, views=rule, limit=limit, splits="train"))
    once(stores["context"], lambda out: tokenstore.recode(packed, out, codec="context"))

    def convert_alone(out: Path) -> None:
        codes = all_codes(packed)
        size = tokenstore.open(packed).manifest.codebook_sizes[0]
        file = work / f"{stem}-alone.npy"
        np.save(file, codes.reshape(-1, *codes.shape[2:]))
        tokenstore.convert(file, out, codec="context", codebook_size=size)

    once(stores["alone"], convert_alone)
    codes = all_codes(packed)
    np.testing.assert_array_equal(all_codes(stores["context"]), codes)
    np.testing.assert_array_equal(all_codes(stores["alone"]).reshape(codes.shape), codes)
    return stores


def decode_times(stores: dict[str, Path], views: Sequence[int]) -> dict[str, float]:
    """Return the CPU microseconds of a decoded view: of single views, of each of `views`, and of all."""
    opened = {name: tokenstore.open(path)["train"] for name, path in stores.items()}
    given, alone = opened["context"], opened["alone"]
    rng = np.random.default_rng(0)
    reads: dict[str, Callable[[], Any]] = {
        "single views": lambda: alone.read("tokens", rng.integers(0, len(alone), BATCH))
    }
    for view in views:
        reads[f"view {view}"] = lambda view=view: given.read(
            "tokens", rng.integers(0, len(given), BATCH), view=view
        )
    reads["all views, each"] = lambda: given.read("tokens", rng.integers(0, len(given), BATCH))
    best = dict.fromkeys(reads, float("inf"))
    for _ in range(REPEATS):
        for name, read in reads.items():
            read()
            started = time.process_time()
            codes = read()
            seconds = time.process_time() - started
            decoded = codes.shape[0] * (codes.shape[1] if name.startswith("all") else 1)
            best[name] = min(best[name], seconds / decoded * 1e6)
    return best


def model_nbytes(store: TokenStore) -> int:
    """Return the bytes of the models in the metadata of the tokens."""
    return int(store["train"].array("tokens").layout.codec.table_nbytes)


@click.group()
def main() -> None:
    """Measure stores of views, or the import of a tree of files."""


@main.command()
@click.option("--work", type=FOLDER, required=True)
@click.option("--data", type=FOLDER, help="Images: a folder, a tar, or whatever else `convert` reads.")
@click.option("--rule", "rules", multiple=True, default=("flip", "ten-crop:1.1"), show_default=True)
@click.option("--limit", default=500, show_default=True)
@click.option("--json", "as_json", type=FOLDER)
def views(work: Path, data: Path | None, rules: tuple[str, ...], limit: int, as_json: Path | None) -> None:
    """Measure the bits a code and the time of a decoded view, for each rule."""
    work.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = work / "drawn"
        once(data, draw_images)
    sizes = Table("views", "bits a code by", "", "of single views", "models, bytes", box=MARKDOWN)
    speeds = Table("views", "decoded", "us of CPU", "x of single views", box=MARKDOWN)
    results: dict[str, Any] = {}
    for rule in rules:
        stores = stores_of(data, rule, limit, work)
        codes = all_codes(stores["bitpack"])
        bits = {name: 8 * tokens_nbytes(path) / codes.size for name, path in stores.items()}
        tree = b"".join(tree_files(codes))
        bits["xz -9e of the tree"] = 8 * len(lzma.compress(tree, preset=9 | lzma.PRESET_EXTREME)) / codes.size
        models = {name: model_nbytes(tokenstore.open(path)) for name, path in stores.items()}
        for name, each in bits.items():
            model = f"{models[name]:,}" if models.get(name) else ""
            sizes.add_row(rule, name, f"{each:.2f}", f"{each / bits['alone']:.3f}", model)
        times = decode_times(stores, range(codes.shape[1]))
        for name, each in times.items():
            speeds.add_row(rule, name, f"{each:.1f}", f"{each / times['single views']:.2f}")
        results[rule] = {"samples": len(codes), "bits": bits, "models": models, "microseconds": times}
    console = Console()
    console.print(sizes)
    console.print(speeds)
    if as_json is not None:
        as_json.write_text(json.dumps(results, indent=2) + "\n")


@main.command()
@click.option("--work", type=FOLDER, required=True)
@click.option("--samples", default=20_000, show_default=True)
@click.option("--side", default=16, show_default=True, help="Cells on a side of the grid.")
@click.option("--codebook-size", default=16_384, show_default=True)
@click.option("--codec", default="bitpack", show_default=True)
@click.option("--json", "as_json", type=FOLDER)
def tree(work: Path, samples: int, side: int, codebook_size: int, codec: str, as_json: Path | None) -> None:
    """Import a tree of flip pairs as LlamaGen writes it, and compare bytes."""
    size = side * 16
    root = work / f"tree-{samples}-{side}-{codebook_size}"
    once(root, lambda out: write_tree(out, samples, side, codebook_size, size))
    out = work / f"tree-{samples}-{side}-{codebook_size}-{codec}.zarr"
    shutil.rmtree(out, ignore_errors=True)
    started, cpu = time.perf_counter(), time.process_time()
    tokenstore.convert(root, out, codec=codec, codebook_size=codebook_size)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    files = [file.stat() for file in root.rglob("*.npy")]
    before, on_disk = sum(file.st_size for file in files), sum(file.st_blocks * 512 for file in files)
    after = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    result = {
        "samples": samples,
        "samples a second": samples / seconds,
        "samples a CPU second": samples / cpu,
        "files": len(files),
        "bytes of the tree": before,
        "bytes of the tree on disk": on_disk,
        "bytes of the store": after,
        "ratio": before / after,
    }
    table = Table("what", "number", box=MARKDOWN)
    for name, value in result.items():
        table.add_row(name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    if as_json is not None:
        as_json.write_text(json.dumps(result, indent=2) + "\n")


def write_tree(root: Path, samples: int, side: int, codebook_size: int, size: int) -> None:
    """Write a tree of codes and labels as LlamaGen does; the second view has the mirrored cells."""
    codes_folder, labels_folder = root / f"imagenet{size}_codes", root / f"imagenet{size}_labels"
    for folder in (codes_folder, labels_folder):
        folder.mkdir(parents=True)
    root_size = math.isqrt(codebook_size)  # two smooth fields: to draw one of so many codes takes minutes
    coarse, fine = (synthetic_codes(samples, (side, side), root_size, seed=seed) for seed in (0, 1))
    plain = coarse.astype(np.int64) * root_size + fine
    codes = np.stack([plain, plain[:, :, ::-1]], axis=1)
    for number, file in enumerate(tree_files(codes)):
        (codes_folder / f"{number}.npy").write_bytes(file)
        np.save(labels_folder / f"{number}.npy", np.array([number % 1000], np.int64))


if __name__ == "__main__":
    main()
