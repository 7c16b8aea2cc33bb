"""A benchmark: how long does it take to verify a store on S3, compared with fetching its bytes alone?

    python benchmarks/bench_verify.py [--samples 100000] [--grid 32] [--latency 0.02] [--gateway DIR | --moto]

A store of random codes is written to a temporary folder and copied to a Ceph gateway that is started on this
machine (`tests/helpers/radosgw.sh`; its packages stay in `--gateway`), or to moto, which is slower. A proxy
in this process adds `--latency` seconds to every request, and counts requests and bytes.

Both ways are processes of their own on the same cores as the server and the proxy, and take turns; the least
time counts. Fetching reads every file in ranges of 8 MiB, 32 at a time, and drops them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.fault_proxy import FaultProxy
from helpers.object_storage import moto_server, radosgw
from helpers.stores import Samples, random_codes, write_store

import tokenstore
from tokenstore.reading import StoreFiles
from tokenstore.storage import open_storage

PIECE_NBYTES = 2**23
FETCHED_AT_ONCE = 32


def fetch(url: str, options: dict[str, object]) -> None:
    """Fetch all files of a store, and drop their bytes."""
    storage = open_storage(url, options)
    ranges = [
        (path, start, min(start + PIECE_NBYTES, record.size))
        for path, record in StoreFiles(storage).records()
        for start in range(0, record.size, PIECE_NBYTES)
    ]
    for start in range(0, len(ranges), FETCHED_AT_ONCE):
        storage.read_ranges(ranges[start : start + FETCHED_AT_ONCE], FETCHED_AT_ONCE)


def work() -> None:
    """Do what standard input says, in this process, and print its seconds."""
    task = json.loads(sys.stdin.read())
    tokenstore.verify(task["warm"])
    started, cpu = time.perf_counter(), time.process_time()
    if task["way"] == "fetch":
        fetch(task["url"], task["options"])
    else:
        assert tokenstore.verify(task["url"], storage_options=task["options"]).ok
    print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))


def measured(proxy: FaultProxy, task: dict[str, object]) -> dict[str, float]:
    """Return the seconds, CPU seconds, requests and bytes of one process."""
    proxy.clear()
    line = [sys.executable, __file__, "work"]
    done = subprocess.run(line, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True)
    seconds, cpu = json.loads(done.stdout)
    return {"seconds": seconds, "cpu": cpu, "requests": proxy.count(), "bytes": proxy.sent}


@click.command()
@click.option("--samples", default=100_000, show_default=True)
@click.option("--grid", default=32, show_default=True, help="Side of a sample's grid.")
@click.option("--shard-samples", default=23_872, show_default=True)
@click.option("--latency", default=0.02, show_default=True, help="Seconds added to every request.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--gateway", type=click.Path(path_type=Path), help="Folder that keeps the gateway's packages.")
@click.option("--moto", is_flag=True, help="Use moto instead of a gateway.")
def main(
    samples: int,
    grid: int,
    shard_samples: int,
    latency: float,
    repeats: int,
    gateway: Path | None,
    moto: bool,
) -> None:
    """Verify a store on S3 and print a table."""
    if gateway is not None:
        os.environ["TOKENSTORE_RADOSGW"] = str(gateway.absolute())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        labels = np.arange(samples, dtype=np.int32) % 100
        for name, count in (("store", samples), ("warm", 64)):
            content = Samples(random_codes(count, (grid, grid), 2048), labels[:count])
            names = tuple(f"class {number}" for number in range(100))
            write_store(
                folder / name, {"train": content}, 2048, shard_samples=shard_samples, class_names=names
            )
        server = stack.enter_context(moto_server() if moto else radosgw())
        url = f"s3://{server.new_bucket()}/store"
        copied = tokenstore.copy(folder / "store", url, storage_options=server.storage_options())
        proxy = stack.enter_context(FaultProxy(server.endpoint, latency))
        task = {
            "url": url,
            "options": server.storage_options(proxy.url),
            "warm": str(folder / "warm"),
        }
        best: dict[str, dict[str, float]] = {}
        for _ in range(repeats):
            for way in ("fetch", "verify"):
                run = measured(proxy, task | {"way": way})
                best[way] = min(best.get(way, run), run, key=lambda one: one["seconds"])
    print(f"{copied.files} files, {copied.nbytes:,} bytes; {copied.nbytes / 4e6 + copied.files:.1f} requests")
    for way, run in best.items():
        print(way, {name: round(value, 2) for name, value in run.items()})
    print(f"verify takes {best['verify']['seconds'] / best['fetch']['seconds']:.2f}x the time of fetching")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
