"""One table of the evidence: its cells run, on this machine, until each has a result.

    cd benchmarks/evidence
    python run.py table1.yaml --out DIR --input tiny=TINY_IMAGENET --estimate
    python run.py table1.yaml --out DIR --input tiny=TINY_IMAGENET --jobs 2

A cell is an arm, a budget and a seed; `tables.py` says what a table has. Results are lines of
DIR/results.jsonl, and a cell that has one does not run again, in whichever table it is. An interrupted cell
goes on where it was. Cells that wait for an input, such as a tokenizer still to be trained, are named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
from rich.console import Console
from rich.table import Table

from evidence.cells import Cell, Workplace, missing_inputs
from evidence.estimates import estimated
from evidence.results import RESULTS, read_results
from evidence.schedule import Outcome, run_cells
from evidence.tables import read_table
from tokenstore.errors import TokenstoreError

_HOUR = 3600


def _inputs(_context: object, _parameter: object, values: tuple[str, ...]) -> dict[str, str]:
    """Return the paths of inputs by their names."""
    pairs = [value.partition("=") for value in values]
    for name, equals, path in pairs:
        if not equals or not Path(path).exists():
            raise click.BadParameter(
                f"expected NAME=PATH of something that exists, found {name}{equals}{path}"
            )
    return {name: str(Path(path).resolve()) for name, _, path in pairs}


@dataclass(frozen=True)
class _Progress:
    """The lines that say what runs."""

    console: Console

    def begin(self, cell: Cell) -> None:
        """Say that a cell begins."""
        self.console.print(
            f"begins  {cell.names} ({cell.kind} {cell.key})", markup=False, highlight=False, soft_wrap=True
        )

    def end(self, outcome: Outcome) -> None:
        """Say how a cell ended."""
        if outcome.result is None:
            text = f"no result  {outcome.cell.names}: {outcome.problem}"
        else:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in outcome.result["figures"].items())
            text = f"done    {outcome.cell.names}: {figures or 'ready'}; {outcome.result['wall_seconds']} s"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_estimate(cells: tuple[Cell, ...], work: Workplace, jobs: int, console: Console) -> None:
    """Print how long each kind of cell will take, and all of them."""
    work.folder.mkdir(parents=True, exist_ok=True)
    estimates = estimated(cells, work, read_results(work.folder / RESULTS))
    table = Table("cells of", "cells", "minutes each", "hours")
    for each in estimates:
        hours = each.cells * each.seconds / _HOUR
        table.add_row(each.name, str(each.cells), f"{each.seconds / 60:.1f}", f"{hours:.2f}")
    console.print(table)
    total = sum(each.cells * each.seconds for each in estimates) / _HOUR
    console.print(f"{total:.1f} hours of one process, {total / max(jobs, 1):.1f} of {max(jobs, 1)}")
    absent = missing_inputs(cells, work.inputs)
    if absent:
        console.print(f"not counted: cells that wait for the inputs {', '.join(absent)}")


def chosen_cells(cells: Sequence[Cell], arms: Sequence[str], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """Return the cells of some arms and seeds, none for all; raise UsageError for one that no cell has."""
    for option, values, known in (
        ("--arm", arms, dict.fromkeys(cell.names.arm for cell in cells)),
        ("--seed", seeds, dict.fromkeys(cell.names.seed for cell in cells)),
    ):
        for value in values:
            if value not in known:
                raise click.UsageError(
                    f"{option}: expected one of {', '.join(map(str, known))}, found {value}"
                )
    return tuple(
        cell
        for cell in cells
        if (not arms or cell.names.arm in arms) and (not seeds or cell.names.seed in seeds)
    )


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder of the work."
)
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=PATH", callback=_inputs, help="An input of the table."
)
@click.option("--device", help="cpu, cuda, or another of torch's.")
@click.option("--jobs", default=1, type=click.IntRange(0), help="Cells at a time; 0: in this process.")
@click.option("--threads", default=1, type=click.IntRange(1), help="Threads of each cell on a CPU.")
@click.option("--arm", "arms", multiple=True, help="Only this arm; may be given again.")
@click.option("--seed", "seeds", multiple=True, type=int, help="Only this seed; may be given again.")
@click.option("--estimate", is_flag=True, help="Say how long all will take, by a few steps of each kind.")
@click.option(
    "--choose",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Evaluate on a share of the training samples, to choose settings without the validation split.",
)
def main(
    table: Path,
    out: Path,
    inputs: dict[str, str],
    device: str | None,
    jobs: int,
    threads: int,
    arms: tuple[str, ...],
    seeds: tuple[int, ...],
    estimate: bool,
    choose: float | None,
) -> None:
    """Run the cells of TABLE that have no result in --out yet."""
    console = Console()
    work = Workplace(out.resolve(), inputs, device, threads)
    try:
        cells = read_table(table, choose or 0.0).cells
        chosen = chosen_cells(cells, arms, seeds)
        if estimate:
            print_estimate(chosen, work, jobs, console)
            return
        progress = _Progress(console)
        outcomes = run_cells(chosen, work, jobs=jobs, on_begin=progress.begin, on_end=progress.end)
    except TokenstoreError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        sys.exit(130)
    without = [outcome for outcome in outcomes if outcome.result is None]
    console.print(
        f"{len(outcomes) - len(without)} cells done, {len(without)} without a result: {out / RESULTS}"
    )
    sys.exit(1 if without else 0)


if __name__ == "__main__":
    main()
