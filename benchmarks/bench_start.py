"""CPU seconds until a command answers that has nothing to do, and until `import seitpp_models` is done.

    python benchmarks/bench_start.py [--repeats 3]

Each answer is measured in a process of its own, as user and system seconds of the CPU, which depend less on
what else runs than time does. The least of the repeats counts, so that a first process may compile modules.

Bars: 0.5 s for `--help`, a typo and a wrong path; 0.6 s for `tokenstore info` of a small store; and 1.2 times
`import torch, timm` for `import seitpp_models`, in the same run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from tokenstore_cli.main import cli as tokenstore
from tokenstore_cli.seitpp import cli as seitpp

PROGRAMS = {"tokenstore": (tokenstore, "tokenstore_cli.main"), "seitpp": (seitpp, "tokenstore_cli.seitpp")}
ANSWER, INFO, IMPORT = 0.5, 0.6, 1.2
TORCH_AND_TIMM = "import torch, timm"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the processes, which may keep compiled modules as an installed package does."""


def cpu_seconds(arguments: list[str], repeats: int, expected: int = 0) -> float:
    """Return the least CPU seconds of a Python process that ends with the exit code `expected`."""
    least = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != expected:
            raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


def answers(store: Path, missing: Path) -> dict[str, tuple[list[str], int, float]]:
    """Return what is measured by name: a Python command line, its exit code, and the bar in seconds."""
    measured: dict[str, tuple[list[str], int, float]] = {}
    for program, (group, module) in PROGRAMS.items():
        run = ["-m", module]
        measured[f"{program} --help"] = ([*run, "--help"], 0, ANSWER)
        measured[f"{program} TYPO"] = ([*run, "infoo"], 2, ANSWER)
        for name in group.list_commands(click.Context(group)):
            measured[f"{program} {name} --help"] = ([*run, name, "--help"], 0, ANSWER)
            measured[f"{program} {name} --typo"] = ([*run, name, "--typo"], 2, ANSWER)
    path = str(missing)
    wrong = {
        "tokenstore": [
            *(["convert", path, "out"], ["info", path], ["recode", path], ["copy", path, "out"]),
            *(["stats", path], ["verify", path], ["preview", path, "-o", "x.png"]),
            *(["reconstruct", path, "0", "-o", "x"], ["train-tokenizer", path, "--out", "x"]),
            ["fit-codebook", path, "--autoencoder", "x", "--out", "x.safetensors"],
        ],
        "seitpp": [
            *(["pretrain", path, "--out", "x"], ["finetune", path, "--out", "x"]),
            *(["segment", path, "--out", "x"], ["train-tokenadapt", "--images", path, "--out", "x"]),
            ["evaluate", str(store), "--store", path],
        ],
    }
    for program, lines in wrong.items():
        for words in lines:
            line = ["-m", PROGRAMS[program][1], *words]
            measured[f"{program} {words[0]} MISSING"] = (line, 1, ANSWER)
    measured["seitpp evaluate MISSING"] = (["-m", PROGRAMS["seitpp"][1], "evaluate", path], 2, ANSWER)
    measured["tokenstore info STORE"] = (["-m", PROGRAMS["tokenstore"][1], "info", str(store)], 0, INFO)
    return measured


def write_small_store(folder: Path) -> Path:
    """Write a store of a hundred samples."""
    import tokenstore as library

    np.save(folder / "codes.npy", np.random.default_rng(0).integers(0, 16, (100, 8, 8)).astype(np.uint8))
    library.convert(folder / "codes.npy", folder / "small.zarr")
    return folder / "small.zarr"


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Processes of each answer; the least counts.")
def main(repeats: int) -> None:
    """Print the CPU seconds of each answer beside its bar; exit with 1 if one is above its bar."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        store = write_small_store(Path(folder))
        click.echo(f"{'answer':<44}{'CPU s':>8}{'bar':>8}")
        for name, (line, code, bar) in answers(store, Path(folder) / "missing").items():
            seconds = cpu_seconds(line, repeats, code)
            failed += seconds > bar
            click.echo(f"{name:<44}{seconds:>8.2f}{bar:>8.2f}{'  above' if seconds > bar else ''}")
    base = cpu_seconds(["-c", TORCH_AND_TIMM], repeats)
    ours = cpu_seconds(["-c", "import seitpp_models"], repeats)
    ratio = ours / base
    failed += ratio > IMPORT
    click.echo(f"{TORCH_AND_TIMM:<44}{base:>8.2f}")
    click.echo(f"{'import seitpp_models':<44}{ours:>8.2f}{base * IMPORT:>8.2f}  {ratio:.2f} times")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
