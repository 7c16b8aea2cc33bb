"""A benchmark: how fast a store is read from S3 over a slow network, and then from the cache.

    python benchmarks/bench_remote.py SEIT --work DIR [--gateway DIR | --url s3://BUCKET/FOLDER]
        [--storage-options JSON] [--samples 50000] [--latency 0.02] [--json FILE]

SEIT is a folder in the layout of the SeiT release; its samples are written again and again until there are
`--samples` of them, as a store of each codec below `--work`, where later runs find them.

The stores are copied to a Ceph gateway that is started on this machine (`tests/helpers/radosgw.sh`; its
packages are kept in `--gateway`), or to a folder of an S3 bucket, where they stay. A proxy in this process
adds `--latency` seconds to every request and counts requests and bytes; before a bucket behind https there
is no proxy.

Each measurement is a process of its own, on the same cores as the gateway and the proxy. Its first epoch is
with an empty cache, the next ones with what it has in memory and in the cache; a new process then has the
cache alone. The order is "block", or "lanes" where a row says so, with a cache of its own; a line below each
table compares the two. The same loader reads the local copy, in both orders and with a full shuffle.
`epoch` counts samples/s from the start of an epoch to its end, `after its first batch` from there on; the
first batch is timed from before the store is opened. `CPU` are the seconds that the reading process
computed in an epoch, which depend least on what else the machine does. Contenders take turns; of the
repeats the best number counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from loader_contenders import tile
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source
from tokenstore.storage import open_storage
from tokenstore.writing.copy import copy

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from helpers.fault_proxy import FaultProxy  # noqa: E402
from helpers.object_storage import radosgw  # noqa: E402

FIRST, LATER = "epoch 1", "later epochs"
NEW = "new process, cache"
LANES, LOCAL_LANES = "S3, lanes", "local, lanes"
LOCAL, LOCAL_FULL = "local", "local, full shuffle"
BEST = {"rate": max, "sustained": max, "first_batch": min, "seconds": min, "cpu": min, "peak": min}
"""The better of two values, by number; of numbers not named here the last value counts."""
MB = 10**6

Results = dict[str, dict[str, Any]]


def made_store(seit: Path, home: Path, codec: str, samples: int) -> Path:
    """Write the store of a codec unless it exists; return its path."""
    store = home / f"store-{codec}"
    if not store.exists():
        tile(seit, home / "source", samples)
        convert_source(open_source(str(home / "source" / "seit")), store, options=ConvertOptions(codec=codec))
    return store


def uploaded(store: Path, url: str, options: dict[str, Any]) -> None:
    """Copy a store to a folder of a bucket unless it is complete there."""
    target = open_storage(url, options)
    if not target.exists("zarr.json"):
        copy(tokenstore.open(store), target, resume=True)


def fetched_nbytes(store: Path) -> int:
    """Return the bytes of tokens and labels, indexes included: what an epoch has to read."""
    files = tokenstore.open(store).manifest.files
    return sum(r.size for path, r in files.items() if path.startswith(("train/tokens/c", "train/labels/c")))


@contextlib.contextmanager
def bucket(
    gateway: Path | None, url: str | None, options: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return URL and storage options of a folder to write to: in the given bucket, or in a new gateway."""
    if url is not None:
        yield url.rstrip("/"), options
        return
    if gateway is not None:
        os.environ["TOKENSTORE_RADOSGW"] = str(gateway.absolute())
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(radosgw())
        except pytest.skip.Exception as reason:
            raise click.ClickException(f"{reason}. Name a bucket by --url") from None
        yield f"s3://{server.new_bucket()}", server.storage_options()


@contextlib.contextmanager
def slow_network(
    options: dict[str, Any], latency: float
) -> Iterator[tuple[dict[str, Any], FaultProxy | None]]:
    """Return storage options that lead through a proxy, and the proxy.

    Before https they are the same options and None.
    """
    endpoint = str(options.get("endpoint_url", ""))
    if not endpoint.startswith("http://"):
        yield options, None
        return
    with FaultProxy(endpoint, latency) as proxy:
        yield {**options, "endpoint_url": proxy.url}, proxy


def measured(proxy: FaultProxy | None, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one process; return each of its results with the requests and bytes that the result took."""
    if proxy is not None:
        proxy.clear()
    command = [sys.executable, str(HERE / "remote_reader.py")]
    results = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(task), file=process.stdin, flush=True)
        for line in process.stdout:
            result = json.loads(line)
            if proxy is not None:
                result |= {"requests": proxy.count(), "bytes": proxy.sent}
                proxy.clear()
            results.append(result)
            print(file=process.stdin, flush=True)
    if process.returncode:
        raise click.ClickException(f"a measurement failed: {command[1]} ended with {process.returncode}")
    return results


def turn(proxy: FaultProxy | None, remote: dict[str, Any], local: dict[str, Any], scratch: Path) -> Results:
    """Measure each way of reading a store once."""
    caches = {order: {"cache_dir": str(scratch / f"cache-{order}")} for order in ("block", "lanes")}
    for cache in caches.values():
        shutil.rmtree(cache["cache_dir"], ignore_errors=True)
    results: Results = {}
    for place, task, shuffle in (
        ("S3", remote | caches["block"], "block"),
        (LANES, remote | caches["lanes"], "lanes"),
        (NEW, remote | caches["block"], "block"),
        (LOCAL, local, "block"),
        (LOCAL_LANES, local, "lanes"),
        (LOCAL_FULL, local, "full"),
    ):
        counting = None if task is local else proxy
        first, later = measured(counting, {**task, "read": "epochs", "shuffle": shuffle})
        results[f"{place}, {FIRST}"], results[f"{place}, {LATER}"] = first, later
    return results


def better(best: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return the better of each number."""
    return {
        name: BEST[name](best[name], value) if name in BEST and name in best else value
        for name, value in results.items()
    }


def table_of(title: str, results: Results, nbytes: int) -> Table:
    """Return a table with a row a way of reading; ratios are to the local store, same shuffle, same epoch."""
    numbers = ["epoch, samples/s", "after its first batch", "x local", "CPU, s", "first batch, ms"]
    table = Table("", *numbers, "requests", "x bytes", "peak, MB", title=title, box=MARKDOWN)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right" if column.header else "left"
    for name, result in results.items():
        place, _, which = name.rpartition(", ")
        peer = results[f"{LOCAL}, {which}"]["rate"]
        epochs = result.get("epochs", 1)
        table.add_row(
            f"{place}, {which}",
            f"{result['rate']:,.0f}",
            _number(result.get("sustained"), ",.0f"),
            f"{result['rate'] / peer:.3f}",
            f"{result['cpu']:.3f}",
            _number(result.get("first_batch"), ",.0f", 1e3),
            _number(result.get("requests"), ",.1f", 1 / epochs),
            _number(result.get("bytes"), ".3f", 1 / epochs / nbytes),
            f"{result['peak'] / MB:,.0f}",
        )
    return table


def print_orders(console: Console, results: Results) -> None:
    """Print how fast the order "lanes" is, and what it computes, by the order "block" in the same run."""
    for place, lanes in (("S3", LANES), (LOCAL, LOCAL_LANES)):
        ratios = []
        for which in (FIRST, LATER):
            block, other = results[f"{place}, {which}"], results[f"{lanes}, {which}"]
            for unit, name in (("rate", "samples/s"), ("cpu", "CPU")):
                ratios.append(f"{which}: {other[unit] / block[unit]:.2f}x the {name}")
        console.print(f"{place}, lanes against block: {'; '.join(ratios)}")


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, form)


def print_singles(console: Console, codec: str, first: dict[str, Any], others: dict[str, Any]) -> None:
    """Print the seconds of single samples."""
    requests = ""
    if "requests" in first:
        each = others["requests"] / others["count"]
        requests = f"; {first['requests']} requests for the first, {each:.2f} for each of the others"
    console.print(
        f"{codec}: random single samples: the first, opening included, in {first['seconds'] * 1e3:.0f} ms, "
        f"{others['count']} others in {others['seconds'] * 1e3:.1f} ms each{requests}"
    )


@click.command()
@click.argument("seit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="Folder of the stores and the cache."
)
@click.option("--gateway", type=click.Path(path_type=Path), help="Folder that keeps the gateway's packages.")
@click.option("--url", help="A folder of an S3 bucket to use instead of a gateway.")
@click.option("--storage-options", default="{}", help="s3fs's options for it, as JSON.")
@click.option("--latency", default=0.02, show_default=True, help="Seconds added to every request.")
@click.option("--samples", default=50_000, show_default=True)
@click.option("--codec", "codecs", multiple=True, default=["bitpack", "context"], show_default=True)
@click.option("--threads", multiple=True, default=[1, 2], show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--single-samples", default=50, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of epochs after the first one.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write all numbers.")
def main(
    seit: Path,
    work: Path,
    samples: int,
    codecs: tuple[str, ...],
    threads: tuple[int, ...],
    repeats: int,
    json_file: Path | None,
    **settings: Any,
) -> None:
    """Read the samples of SEIT from S3 and print tables."""
    console = Console(width=170)
    home = work.absolute() / str(samples)
    home.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home)))
        place, direct = stack.enter_context(
            bucket(settings["gateway"], settings["url"], json.loads(settings["storage_options"]))
        )
        options, proxy = stack.enter_context(slow_network(direct, settings["latency"]))
        for codec in codecs:
            store = made_store(seit, home, codec, samples)
            remote_url = f"{place}/{samples}-{codec}"
            uploaded(store, remote_url, direct)
            fixed = {name: settings[name] for name in ("batch_size", "seconds")}
            fixed["count"] = settings["single_samples"]
            remote = {**fixed, "path": remote_url, "storage_options": options}
            local = {**fixed, "path": str(store)}
            nbytes = fetched_nbytes(store)
            best: dict[int, Results] = {count: {} for count in threads}
            for _ in range(repeats):
                for count in threads:
                    task = {"threads": count}
                    for name, results in turn(proxy, remote | task, local | task, scratch).items():
                        best[count][name] = better(best[count].get(name, {}), results)
            singles = measured(proxy, {**remote, "read": "single_samples"})
            for count, results in best.items():
                title = f"{codec}: {samples:,} samples, {nbytes / MB:.1f} MB, threads: {count}"
                console.print(table_of(title, results, nbytes))
                print_orders(console, results)
            print_singles(console, codec, *singles)
            report[codec] = {"bytes": nbytes, "threads": best, "single samples": singles}
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
