"""The figures of runs as the template names them: texts, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seitpp_models.reporting.runs import RunFigures
from tokenstore.audit.report import Chart, Line, heat_map, line_chart
from tokenstore.texts import printable

MATRIX_NAMES = 24
"""The most classes whose names stand beside a confusion matrix."""

_HEADS = {"loss": "loss", "top1": "top-1", "top5": "top-5", "miou": "mIoU", "accuracy": "pixels right"}
"""The names of figures on the page."""


def run_views(runs: Sequence[RunFigures]) -> dict[str, Any]:
    """Return what the template shows; raises ArgumentError without matplotlib."""
    names = [name for name in _HEADS if any(name in _last(run) for run in runs)]
    return {
        "runs": [_view(run, number) for number, run in enumerate(runs)],
        "heads": [_HEADS[name] for name in names],
        "last": [[_figure(name, _last(run).get(name)) for name in names] for run in runs],
        "curves": _curves(runs),
        "classes": _classes(runs),
        "settings": _settings(runs),
    }


def _last(run: RunFigures) -> dict[str, Any]:
    """Return the figures of the folder's evaluation, or else of the last one during training."""
    if run.evaluation is not None:
        clean = run.evaluation.get("results", [run.evaluation])
        return dict(clean[0])
    return run.evaluations[-1] if run.evaluations else {}


def _figure(name: str, value: Any) -> tuple[str, float] | str:
    if not isinstance(value, (int, float)):
        return "–"
    return (f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %", float(value))


def _view(run: RunFigures, number: int) -> dict[str, Any]:
    evaluation = run.evaluation
    where = None
    if evaluation is not None:
        place = evaluation.get("store", evaluation.get("images"))
        where = f"{evaluation['samples']:,} samples of {evaluation['split']} in {place}"
    network = run.run.get("network")
    begun = f"{run.run.get('command')} on {run.run.get('store')}" if run.run else ""
    return {
        "number": number,
        "name": printable(run.name),
        "begun": printable(begun),
        "command": str(run.run.get("command", "–")),
        "network": str(network.get("kind", "–")) if isinstance(network, dict) else "–",
        "steps": run.steps,
        "minutes": run.seconds / 60,
        "evaluated": None if where is None else printable(where),
        "calibration": _calibration(run),
        "matrix": _matrix(run),
        "confused": _confused(run),
        "pictures": run.pictures,
        "reasons": run.reasons,
        "problems": run.problems,
    }


def _curves(runs: Sequence[RunFigures]) -> list[tuple[str, Chart]]:
    """Draw each curve of training and of evaluations, all runs on one chart."""
    drawn = []
    for name, title, axis in (
        ("loss", "Loss in training", "loss, nats"),
        ("right", "Right in training", "share of samples"),
        ("learning_rate", "Learning rate", "learning rate"),
    ):
        lines = []
        for number, run in enumerate(runs):
            points = run.curves.get(name, [])
            if points:
                steps, values = [step for step, _ in points], [value for _, value in points]
                lines.append(Line(steps, values, run.name, series=number))
        if lines:
            drawn.append((title, _chart(lines, title, axis, percent=name == "right")))
    for name, head in _HEADS.items():
        lines = []
        for number, run in enumerate(runs):
            points = [
                (line["step"], line[name])
                for line in run.evaluations
                if isinstance(line.get(name), (int, float))
            ]
            if points:
                steps, values = [step for step, _ in points], [value for _, value in points]
                lines.append(Line(steps, values, run.name, marked=True, series=number))
        if lines:
            title = f"{head[0].upper() if name == 'loss' else head[0]}{head[1:]} on held-out samples"
            drawn.append((title, _chart(lines, title, head, percent=name != "loss")))
    return drawn


def _chart(lines: Sequence[Line], title: str, axis: str, *, percent: bool) -> Chart:
    ends = ", ".join(f"{line.name} {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines)
    return line_chart(lines, f"{title}, first to last: {ends}.", x="step", y=axis, percent=percent)


def _classes(runs: Sequence[RunFigures]) -> list[dict[str, Any]]:
    """Return the figures of each class of runs that were evaluated, those of equal classes together."""
    groups: dict[tuple[bool, tuple[str, ...]], list[RunFigures]] = {}
    for run in runs:
        if run.evaluation is not None and run.evaluation.get("by_class"):
            groups.setdefault(("iou" in run.evaluation, tuple(_class_names(run))), []).append(run)
    return [_class_group(group, list(names), is_iou) for (is_iou, names), group in groups.items()]


def _class_group(runs: Sequence[RunFigures], names: Sequence[str], is_iou: bool) -> dict[str, Any]:
    """Return a row for each class with the recall, or the IoU, of each run."""
    evaluations = [run.evaluation or {} for run in runs]
    values = [
        each["iou"] if is_iou else [figures["recall"] for figures in each["by_class"]] for each in evaluations
    ]
    samples = [figures["samples"] for figures in evaluations[0]["by_class"]]
    figure = "IoU" if is_iou else "top-1"
    return {
        "runs": [printable(run.name) for run in runs],
        "counted": "pixels" if is_iou else "samples",
        "figure": figure,
        "rows": [
            [(str(label), label), name, (f"{count:,}", count), *(_share(each[label]) for each in values)]
            for label, (name, count) in enumerate(zip(names, samples, strict=True))
        ],
        "chart": _class_chart(runs, values, figure),
    }


def _share(value: float | None) -> tuple[str, float]:
    return ("–", -1.0) if value is None else (f"{100 * value:.1f} %", value)


def _class_chart(runs: Sequence[RunFigures], values: Sequence[Sequence[Any]], figure: str) -> Chart | None:
    """Draw each run's classes from the best to the worst; None for few classes."""
    lines = []
    for run, own in zip(runs, values, strict=True):
        known = sorted((value for value in own if value is not None), reverse=True)
        if len(known) > 2:
            lines.append(Line(list(range(1, len(known) + 1)), known, run.name, marked=len(known) <= 40))
    if not lines:
        return None
    ends = ", ".join(f"{line.name} {100 * line.y[0]:.1f} to {100 * line.y[-1]:.1f} %" for line in lines)
    text = f"{figure} of classes, best to worst: {ends}."
    return line_chart(lines, text, x="classes", y=figure, percent=True)


def _calibration(run: RunFigures) -> dict[str, Any] | None:
    if run.predictions is None:
        return None
    found = run.predictions.calibration
    text = (
        f"Accuracy by probability: {len(found.samples)} bins, expected calibration error "
        f"{100 * found.error:.1f} %. On the dashed line, probabilities are right."
    )
    lines = [
        Line([0, 1], [0, 1], dashed=True, series=7),
        Line(found.confidence, found.accuracy, marked=True, series=0),
    ]
    chart = line_chart(lines, text, x="probability of the prediction", y="share that is right", percent=True)
    return {"error": found.error, "chart": chart}


def _matrix(run: RunFigures) -> Chart | None:
    if run.predictions is None or run.predictions.confusion is None:
        return None
    table = run.predictions.confusion
    share = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    names = _class_names(run)
    shown = names if len(names) <= MATRIX_NAMES else None
    text = (
        f"Confusion matrix of {len(table)} classes: rows are labels, columns predictions; the diagonal has "
        f"{100 * run.predictions.top1:.1f} % of the samples."
    )
    return heat_map(share, text, bar="share of the label's samples", x="predicted", y="label", names=shown)


def _class_names(run: RunFigures) -> list[str]:
    classes = [] if run.evaluation is None else run.evaluation.get("by_class", [])
    return [printable(str(each["label"]) if each["name"] is None else each["name"]) for each in classes]


def _confused(run: RunFigures) -> list[list[Any]]:
    names = _class_names(run)
    pairs = [] if run.predictions is None else run.predictions.confused
    return [[names[label], names[predicted], (f"{count:,}", count)] for label, predicted, count in pairs]


def _settings(runs: Sequence[RunFigures]) -> list[list[str]]:
    """Return the settings that differ between runs; of one run, those that were asked for."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    if len(runs) == 1:
        given = runs[0].run.get("given", [])
        asked = given if isinstance(given, list) else []
        return [[name, printable(str(runs[0].settings[name]))] for name in names if name in asked]
    rows = []
    for name in names:
        values = [str(run.settings.get(name, "–")) for run in runs]
        if len(set(values)) > 1:
            rows.append([name, *map(printable, values)])
    return rows
