"""The reports of a table: means and spreads in Markdown, and a plot of accuracy over bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.results import Result
from evidence.tables import Table
from tokenstore.files import whole_file

__all__ = ["Group", "groups_of", "markdown", "plot", "provenance"]

_PERCENT = 100
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Group:
    """The results of an arm and a budget, one for each seed that has run."""

    arm: str
    budget: str
    seeds: int
    """The number of seeds that the table asks for."""
    results: Sequence[Result]

    def figures(self, name: str) -> list[float]:
        """Return a figure of each result that has it."""
        return [result["figures"][name] for result in self.results if name in result["figures"]]

    def summary(self, name: str, factor: float = _PERCENT, digits: int = 2) -> str:
        """Return the mean of a figure and half the range of its seeds, as text; empty without results."""
        values = [factor * value for value in self.figures(name)]
        if not values:
            return ""
        mean = sum(values) / len(values)
        spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
        return f"{mean:.{digits}f}{spread}"

    def mean(self, name: str) -> float:
        """Return the mean of a number that every result has."""
        return sum(float(result[name]) for result in self.results) / max(1, len(self.results))


def groups_of(table: Table, results: Mapping[str, Result]) -> list[Group]:
    """Return the results of a table by arm and budget, in the table's order; some may have none yet."""
    cells = defaultdict(list)
    for cell in table.cells:
        cells[cell.names.arm, cell.names.budget].append(cell)
    return [
        Group(arm, budget, len(members), [results[cell.key] for cell in members if cell.key in results])
        for (arm, budget), members in cells.items()
    ]


def markdown(table: Table, results: Mapping[str, Result]) -> str:
    """Return a table in Markdown: a row for each arm and budget, also for those without results."""
    groups = groups_of(table, results)
    names = _figures(table, groups)
    budgets = len({group.budget for group in groups}) > 1
    head = ["arm", *(["samples"] if budgets else []), "MB", *(f"{name}, %" for name in names), "seeds", "min"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for group in groups:
        done = bool(group.results)
        size = f"{group.mean('bytes') / _MEGABYTE:.2f}" if done and "bytes" in group.results[0] else ""
        minutes = f"{group.mean('seconds') / 60:.0f}" if done and "seconds" in group.results[0] else ""
        row = [
            group.arm,
            *([group.budget] if budgets else []),
            size,
            *(group.summary(name) for name in names),
            f"{len(group.results)} of {group.seeds}",
            minutes,
        ]
        lines.append(f"| {' | '.join(row)} |")
    notes = [f"{arm}: {note}." for arm, note in table.notes.items()]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", *notes] if notes else [])])


def provenance(groups: Iterable[Group]) -> str:
    """Return a sentence on the machines, commits and steps that results come from."""
    results = [result for group in groups for result in group.results]
    if not results:
        return "No cell has run yet."
    machines = sorted({f"{each['machine']['processor']}, {each['machine']['device']}" for each in results})
    commits = sorted({each["commit"] for each in results})
    steps = sorted({each["steps"] for each in results if "steps" in each})
    of_steps = f", {' or '.join(map(str, steps))} steps" if steps else ""
    return f"{len(results)} cells on {'; '.join(machines)}{of_steps}; commits {', '.join(commits)}."


def plot(table: Table, results: Mapping[str, Result], path: Path) -> bool:
    """Draw the table's figure over bytes, a line for each arm, as SVG; return False if nothing has run.

    A bar reaches from the lowest seed to the highest. The same results give the same file.
    """
    import matplotlib
    from matplotlib.figure import Figure

    lines: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups_of(table, results):
        if group.figures(table.figure) and "bytes" in group.results[0]:
            lines[group.arm].append(group)
    if not lines:
        return False
    with matplotlib.rc_context({"svg.hashsalt": table.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for arm, groups in lines.items():
            points = sorted(_point(group, table.figure) for group in groups)
            sizes, means, lows, highs = zip(*points, strict=True)
            below = [mean - low for mean, low in zip(means, lows, strict=True)]
            above = [high - mean for mean, high in zip(means, highs, strict=True)]
            axes.errorbar(sizes, means, yerr=[below, above], fmt="o-", capsize=3, markersize=4, label=arm)
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:g}")  # 2, not 2x10^0
        axes.set_xlabel("MB of the training data")
        axes.set_ylabel(f"{table.figure}, %")
        axes.set_title(table.title, fontsize=10)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
        with whole_file(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
    return True


def _point(group: Group, name: str) -> tuple[float, float, float, float]:
    """Return MB, mean, lowest and highest figure of a group, figures in percent."""
    values = [_PERCENT * value for value in group.figures(name)]
    return group.mean("bytes") / _MEGABYTE, sum(values) / len(values), min(values), max(values)


def _figures(table: Table, groups: Sequence[Group]) -> list[str]:
    """Return the names of the figures to show: the table's own first, then those that results have."""
    first = {"top1": ["top1", "top5", "training_top1"], "miou": ["miou", "accuracy"]}
    known: dict[str, Any] = dict.fromkeys(first.get(table.figure, [table.figure, "clean"]))
    for group in groups:
        for result in group.results:
            known |= dict.fromkeys(name for name in result["figures"] if name != "loss")
    return [
        name for name in known if not groups or name == table.figure or any(g.figures(name) for g in groups)
    ]
