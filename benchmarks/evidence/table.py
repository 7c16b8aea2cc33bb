"""A table in Markdown, and a plot, from the results of its cells.

    python benchmarks/evidence/table.py benchmarks/evidence/table1.yaml DIR/results.jsonl [--plot table1.svg]

Results are found by what decides a cell, so that those of another table count where a cell is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from evidence.report import groups_of, markdown, plot, provenance
from evidence.results import union
from evidence.tables import read_table
from tokenstore.errors import TokenstoreError


def _svg(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix != ".svg":
        raise click.BadParameter(f"expected a file that ends in .svg, as plots are SVG, found {path}")
    return path


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument(
    "results", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_svg,
    help="An SVG file to draw.",
)
@click.option(
    "--choose",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=None,
    help="The results of a choice, as run.py --choose made them.",
)
def main(table: Path, results: tuple[Path, ...], picture: Path | None, choose: float | None) -> None:
    """Print TABLE from the JSON lines RESULTS, with means over seeds and half their range."""
    try:
        read = read_table(table, choose or 0.0)
        known = union(results)
    except TokenstoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(markdown(read, known))
    click.echo(f"\n{provenance(groups_of(read, known))}")
    if picture is not None and not plot(read, known, picture):
        click.echo(f"{picture}: no result to draw yet", err=True)


if __name__ == "__main__":
    main()
