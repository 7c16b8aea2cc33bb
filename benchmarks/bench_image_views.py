"""A benchmark: what decoding one view of a sample costs, against a store that has no other views.

    tokenstore convert IMAGES views.zarr --views ten-crop:1.1 --codec bitpack
    python benchmarks/bench_image_views.py views.zarr --work DIR [--fit-samples 500] [--json FILE]

The store of views, and one of its view 0 alone, are written below `--work` by each codec, unless they are
there. The models of `context` are fitted to some of the samples, as for a large store. Random batches are
read by one thread: of the single views, of view 0, of each other view, of a view drawn for each sample, and
of all views. Contenders take turns; of the repeats the least CPU time counts, which depends least on what
else the machine does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.audit.info import info
from tokenstore.codecs import codec_class

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from helpers.stores import Samples, write_store  # noqa: E402

CODECS = ("bitpack", "context", "zstd")
LARGE_STORE_CODES = 10**9
"""The codes of the store that the models of `context` are made for."""
REPEATS = 7
BATCHES = 8


def written(source: Path, work: Path, codec: str, fit_samples: int) -> tuple[Path, Path]:
    """Write the store of views and that of view 0 by a codec, unless they are there; return their paths."""
    work.mkdir(parents=True, exist_ok=True)
    paths = work / f"single-{codec}.zarr", work / f"views-{codec}.zarr"
    store = tokenstore.open(source)
    sizes, views = store.manifest.codebook_sizes, store.manifest.views
    codes = store[store.splits[0]][:]
    for path, own, own_views in ((paths[0], codes[:, 0], None), (paths[1], codes, views)):
        if not path.exists():
            fitted = codec_class(codec).fitted(
                own[:fit_samples], sizes, total_codes=LARGE_STORE_CODES, views=own_views
            )
            models = {"model": fitted.model, "given_views": fitted.given_views}
            models = models if codec_class(codec).has_tables else {}
            write_store(path, {"train": Samples(own)}, sizes, codec=codec, views=own_views, **models)
    return paths


def contenders(count: int, batch_size: int) -> Iterator[tuple[str, Any]]:
    """Yield each contender's name and its view, or None for all."""
    yield "view 0", 0
    for view in range(1, count):
        yield f"view {view}", view
    drawn = np.random.default_rng(1).integers(0, count, (BATCHES, batch_size))
    yield "a drawn view", drawn
    yield "all, for each view", None


def cpu_seconds(reader: Any, rows: Any, view: Any, out: Any) -> float:
    """Return the CPU seconds of reading the batches of some rows (batches, B)."""
    started = time.process_time()
    for at, batch in enumerate(rows):
        chosen = view[at] if isinstance(view, np.ndarray) else view
        reader.read("tokens", batch, out, view=chosen)
    return time.process_time() - started


def measured(single: Path, many: Path, batch_size: int) -> dict[str, float]:
    """Return the microseconds of CPU time of each contender, a view."""
    readers = [(store := tokenstore.open(path))[store.splits[0]] for path in (single, many)]
    samples, count = readers[1].array("tokens").layout.shape[:2]
    shape = readers[1].array("tokens").layout.view_shape
    rng = np.random.default_rng(0)  # without replacement: a view that is needed twice is decoded once
    batch_size = min(batch_size, samples)
    rows = np.stack([rng.permutation(samples)[:batch_size] for _ in range(BATCHES)])
    one, every = (np.empty((batch_size, *axes, *shape), np.int64) for axes in ((), (count,)))
    best: dict[str, float] = {}
    for _ in range(REPEATS):
        for name, view in [("alone", 0), *contenders(count, batch_size)]:
            reader = readers[name != "alone"]
            seconds = cpu_seconds(reader, rows, view, every if view is None else one)
            seconds /= rows.size * (count if view is None else 1)
            best[name] = min(best.get(name, np.inf), seconds * 1e6)
    return best


@click.command()
@click.argument("views", type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--fit-samples", default=500, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
def main(views: Path, work: Path, batch_size: int, fit_samples: int, as_json: Path | None) -> None:
    """Measure all contenders by each codec and print a table."""
    results: dict[str, Any] = {}
    table = Table("codec", "read", "us of CPU a view", "x of a store of single views", box=MARKDOWN)
    for codec in CODECS:
        single, many = written(views, work, codec, fit_samples)
        best = measured(single, many, batch_size)
        nbytes = [sum(array.nbytes for array in info(path).arrays.values()) for path in (single, many)]
        results[codec] = {"us": best, "nbytes": nbytes}
        for name, us in best.items():
            table.add_row(codec, name, f"{us:.2f}", f"{us / best['alone']:.2f}")
    Console().print(table)
    if as_json is not None:
        as_json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
