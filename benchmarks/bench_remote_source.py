"""A benchmark: how fast is a conversion whose source is on S3, beside one of the same files on a local disk?

    python benchmarks/bench_remote_source.py [--kind tar] [--kind parquet] [--kind images] [--images 10000]
        [--files 10] [--tokenizer cheap|default|SECONDS] [--latency 0.02] [--workers 2] [--apart]
        [--gateway DIR | --moto]

JPEG files of noise on a gradient are packed into tar shards, Parquet files or class folders, and copied to
a Ceph gateway that is started on this machine (`tests/helpers/radosgw.sh`; its packages stay in
`--gateway`), or to moto. A proxy in this process adds `--latency` seconds to every request, and counts
requests.

`cheap` takes the mean of patches. A number is the seconds that a tokenizer sleeps for each batch of 32, as
if a GPU encoded. Both sources take turns, each conversion in a process of its own on the same cores as
server and proxy; with `--apart` all its processes are on the first core, and server and proxy on the others,
as where the storage is another machine. The bar of the project is a rate of 0.9 of the local one. CPU seconds
are those of the conversion's processes alone, decode processes included, until all images are converted.

At the end a conversion from S3 is killed by SIGKILL half way, and resumed; `listing` are the requests before
the source of the resumed conversion is listed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.tokenizers.base import TokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.fault_proxy import FaultProxy
from helpers.object_storage import S3Server, moto_server, radosgw
from helpers.tar_files import write_tar

DISTINCT = 200
"""The different pictures, each of which stands for many images."""
CLASSES = 10
SIDE = 32
"""The side that the cheap tokenizers bring images to."""
BATCH = 32
KINDS = ("GET", "HEAD", "LIST")
"""The requests that are counted: before the source is listed, and after."""


class MeanTokenizer(TokenizerBase):
    """A tokenizer whose codes are the means of patches of 8x8 pixels; it may sleep for each batch."""

    name = "mean"
    codebook_sizes = (256,)
    fingerprint = "00" * 32
    image_size = SIDE

    def __init__(self, seconds: float = 0.0, killed_at: int | None = None) -> None:
        self._seconds, self._killed_at, self._batches = seconds, killed_at, 0

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of an image."""
        return input_shape[1] // 8, input_shape[2] // 8

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return codes (B, H / 8, W / 8); kill this process where it is to be killed."""
        self._batches += 1
        if self._batches == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._seconds)
        return torch.nn.functional.avg_pool2d(inputs.float().mean(1), 8).long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Raise NotImplementedError: nobody looks at these codes."""
        raise NotImplementedError


def pictures(side: int) -> list[bytes]:
    """Return JPEG files of noise on gradients."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 160, side)[:, None, None] + np.linspace(0, 60, side)[None, :, None]
    files = []
    for _ in range(DISTINCT):
        pixels = ramp * random.uniform(0.3, 1, 3) + random.normal(0, 14, (side, side, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def write_source(folder: Path, kind: str, images: int, files: int, side: int) -> None:
    """Write the source of a kind."""
    folder.mkdir()
    made, of_file = pictures(side), images // files
    for number in range(files):
        members = range(number * of_file, (number + 1) * of_file)
        if kind == "tar":
            parts: dict[str, Any] = {}
            for member in members:
                parts[f"{member:08}.jpg"] = made[member % DISTINCT]
                parts[f"{member:08}.cls"] = b"%d" % (member % CLASSES)
            write_tar(folder / f"{number:05}.tar", parts)
        elif kind == "parquet":
            columns = {"image": [made[member % DISTINCT] for member in members], "label": [number] * of_file}
            pq.write_table(pa.table(columns), folder / f"{number:05}.parquet", row_group_size=100)
        else:
            (folder / f"class-{number % CLASSES}").mkdir(exist_ok=True)
            for member in members:
                path = folder / f"class-{number % CLASSES}" / f"{member:08}.jpg"
                path.write_bytes(made[member % DISTINCT])


def put(folder: Path, url: str, options: dict[str, Any]) -> int:
    """Copy a folder to S3, and return its bytes."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    fs = fsspec.filesystem("s3", **options)
    for start in range(0, len(paths), 64):
        some = paths[start : start + 64]
        fs.pipe({f"{url}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in some})
    return sum(path.stat().st_size for path in paths)


def work() -> None:
    """Convert as standard input says, in this process, and print what it took."""
    task = json.loads(sys.stdin.readline())
    if task["core"] is not None:
        os.sched_setaffinity(0, {task["core"]})
    name = task["tokenizer"]
    tokenizer: Any = "default"
    if name != "default":
        tokenizer = MeanTokenizer(0.0 if name == "cheap" else float(name), task["killed_at"])
    started, cpu = time.perf_counter(), _cpu_seconds()
    times = []

    def listed(source: Any) -> None:
        times.append((time.perf_counter() - started, _cpu_seconds() - cpu))
        print("listed", flush=True)
        sys.stdin.readline()  # until the requests are counted
        times.append((time.perf_counter() - started, _cpu_seconds() - cpu))

    tokenstore.convert(
        task["source"],
        task["target"],
        tokenizer=tokenizer,
        workers=task["workers"],
        batch_size=BATCH,
        shard_samples=2048,
        source_storage_options=task["options"],
        resume=task["resume"],
        on_source=listed,
    )
    now = time.perf_counter() - started, _cpu_seconds() - cpu
    conversion = [after - before for before, after in zip(times[1], now, strict=True)]
    print(json.dumps([times[0], conversion]))


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Runs:
    """The conversions of one benchmark."""

    def __init__(self, proxy: FaultProxy, task: dict[str, Any]) -> None:
        self.proxy, self.task = proxy, task

    def run(self, **changes: Any) -> tuple[Counter[str], Counter[str], list[list[float]] | None]:
        """Convert in a process, and return requests of the listing, of all, and the seconds of both."""
        self.proxy.clear()
        with tempfile.TemporaryDirectory() as folder:
            task = {"target": f"{folder}/x.zarr", "killed_at": None, "resume": False, **self.task, **changes}
            line = [sys.executable, __file__, "work"]
            with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
                assert process.stdout.readline() == "listed\n", "the conversion failed"
                listing = self._requests()
                process.stdin.write("go on\n")
                process.stdin.flush()
                result = process.stdout.readline()
        return listing, self._requests(), json.loads(result) if result else None

    def _requests(self) -> Counter[str]:
        kinds = ("LIST" if "list-type" in request.path else request.method for request in self.proxy.requests)
        return Counter(kinds)


@dataclass(frozen=True)
class Comparison:
    """The numbers of one benchmark."""

    images: int
    files: int
    side: int
    repeats: int

    def print_of(self, kind: str, server: S3Server, latency: float, task: dict[str, Any]) -> None:
        """Convert the source of a kind from both places, in turn, and print a table."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "source")
            write_source(folder, kind, self.images, self.files, self.side)
            url = f"s3://{server.new_bucket()}/source"
            nbytes = put(folder, url, server.storage_options())
            proxy = stack.enter_context(FaultProxy(server.endpoint, latency))
            options = server.storage_options(proxy.url)
            runs = Runs(proxy, task)
            table = Table("source", "listed, s", "CPU", "images/s", "images a CPU s", *KINDS)
            rates = self._compare(runs, {"local": (str(folder), None), "S3": (url, options)}, table)
            console = Console()
            console.print(f"{kind}: {self.images:,} images, {nbytes:,} bytes, tokenizer {task['tokenizer']}")
            console.print(table)
            console.print(f"S3 against local: {rates[0]:.2f}x by time, {rates[1]:.2f}x by CPU seconds")
            if task["tokenizer"] != "default":
                resumed = {"source": url, "options": options, "target": str(folder.parent / "resumed.zarr")}
                runs.run(**resumed, killed_at=self.images // BATCH // 2)
                listing, requests, _ = runs.run(**resumed, resume=True)
                console.print(
                    f"resumed after SIGKILL: {dict(listing)} for the listing, {dict(requests)} in all"
                )

    def _compare(self, runs: Runs, places: dict[str, tuple[str, Any]], table: Table) -> list[float]:
        """Fill the table, and return the best rates of S3 beside the local ones: by time and by CPU."""
        best: dict[str, list[float]] = {}
        for _ in range(self.repeats):
            for place, (source, options) in places.items():
                listing, requests, seconds = runs.run(source=source, options=options)
                assert seconds is not None, "the conversion failed"
                (listed, cpu), (wall, work_cpu) = seconds
                rates = [self.images / wall, self.images / work_cpu]
                best[place] = [max(pair) for pair in zip(best.get(place, rates), rates, strict=True)]
                counts = [f"{listing[name]} + {requests[name] - listing[name]}" for name in KINDS]
                shown = [f"{listed:.1f}", f"{cpu:.1f}", *(f"{rate:.0f}" for rate in rates)]
                table.add_row(place, *shown, *(counts if options else ()))
        return [remote / local for remote, local in zip(best["S3"], best["local"], strict=True)]


@click.command()
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["tar", "parquet", "images"]),
    multiple=True,
    default=["tar"],
    show_default=True,
)
@click.option("--images", default=10_000, show_default=True)
@click.option("--files", default=10, show_default=True, help="Tar or Parquet files; or classes.")
@click.option("--side", default=256, show_default=True, help="The side of the images in pixels.")
@click.option("--tokenizer", default="cheap", show_default=True, help="cheap, default, or seconds a batch.")
@click.option("--latency", default=0.02, show_default=True, help="Seconds that each request takes longer.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=2, show_default=True)
@click.option("--apart", is_flag=True, help="Conversions on the first core, server and proxy on the others.")
@click.option("--gateway", type=click.Path(path_type=Path), help="Folder that keeps the gateway's packages.")
@click.option("--moto", is_flag=True, help="Use moto instead of a gateway.")
def main(kinds: tuple[str, ...], gateway: Path | None, moto: bool, apart: bool, **settings: Any) -> None:
    """Convert from both places, and print a table of each kind of source."""
    core = None
    if apart:
        core, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others)
    if gateway is not None:
        os.environ["TOKENSTORE_RADOSGW"] = str(gateway.absolute())
    task = {"tokenizer": settings.pop("tokenizer"), "workers": settings.pop("workers"), "core": core}
    latency = settings.pop("latency")
    comparison = Comparison(**settings)
    with moto_server() if moto else radosgw() as server:
        for kind in kinds:
            comparison.print_of(kind, server, latency, task)


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
