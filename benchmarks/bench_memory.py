"""A benchmark: how much memory a conversion takes, and whether it grows with the data set.

    python benchmarks/bench_memory.py [--samples 500000 --samples 2000000] [--side 32]

Writes synthetic codes as `.npy` files to a temporary folder (4 GB for 2 million samples of 32x32), converts
each in a process of its own, and prints that process's peak resident set size, and what it had before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

BLOCK = 65_536
CODEBOOK_SIZE = 1024

CONVERT = """
import json, resource, sys
from pathlib import Path
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source
import tokenstore.tokenizers

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with what the parent had
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

before = peak()
convert_source(open_source(sys.argv[1]), sys.argv[2], options=ConvertOptions(codebook_size=int(sys.argv[3])))
print(json.dumps({"before": before, "peak": peak()}))
"""


def write_codes(path: Path, samples: int, side: int) -> None:
    """Write random codes (samples, side, side) uint16 to a `.npy` file, block by block."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": (samples, side, side)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, samples, BLOCK):
            count = min(BLOCK, samples - start)
            file.write(rng.integers(0, CODEBOOK_SIZE, (count, side, side), dtype=np.uint16).tobytes())


@click.command()
@click.option("--samples", "sizes", multiple=True, default=(500_000, 2_000_000), show_default=True)
@click.option("--side", default=32, show_default=True)
def main(sizes: tuple[int, ...], side: int) -> None:
    """Convert data sets of several sizes and print a table of peak memory."""
    table = Table("samples", "before, MB", "peak, MB", "grown by, MB", "s", "samples/s")
    for samples in sizes:
        with tempfile.TemporaryDirectory() as folder:
            codes, out = Path(folder, "codes.npy"), Path(folder, "out.zarr")
            write_codes(codes, samples, side)
            started = time.monotonic()
            command = [sys.executable, "-c", CONVERT, str(codes), str(out), str(CODEBOOK_SIZE)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.monotonic() - started
        memory = json.loads(done.stdout)
        before, peak = memory["before"], memory["peak"]
        cells = (
            f"{before:.0f}",
            f"{peak:.0f}",
            f"{peak - before:.0f}",
            f"{seconds:.1f}",
            f"{samples / seconds:,.0f}",
        )
        table.add_row(f"{samples:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
