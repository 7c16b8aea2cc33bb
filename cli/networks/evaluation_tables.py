"""The tables that `seitpp evaluate` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table

from ..console import counted, echo
from ..terminal import Terminal

_HEADS = {
    "loss": "loss",
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "accuracy": "pixels",
    "right": "right",
}
"""The heads of the figures that the table shows."""


_MOST_CONFUSIONS = 10
"""The most pairs of confused classes that are printed."""


def print_evaluation(evaluation: Any, *, by_class: bool = False) -> None:
    """Print an evaluation (seitpp_models.evaluation.Evaluation), a classifier's also `by_class`."""
    place, split, count = evaluation.place, evaluation.split, evaluation.samples
    if evaluation.images is None:
        echo(f"{place}: {counted(count, 'sample')} of split {split}")
    else:
        _print_images(place, split, count, evaluation.images)
    for note in evaluation.notes:
        echo(f"note: {note}")
    rows = [(_condition(condition), figures) for condition, figures in evaluation.results.items()]
    _print_figures(rows, ("corruption", "severity") if len(rows) > 1 else ())
    if "iou" in evaluation.figures:
        _print_classes(evaluation.figures["iou"], evaluation.class_names)
    if by_class:
        _print_by_class(evaluation.by_class, "pixels" if "iou" in evaluation.figures else "samples")
        _print_confusions(evaluation.predictions, evaluation.by_class)


def _print_images(place: str, split: str, count: int, facts: Any) -> None:
    echo(
        f"{place}: {counted(count, 'image')} of split {split}; {_sides(facts.image_size)} pixels are "
        f"{_sides(facts.grid)} codes of {facts.tokenizer}, and the network sees {_sides(facts.crop)}"
        + ("" if facts.resize == "squash" else f"; images are resized by {facts.resize}")
    )
    if facts.skipped:
        name, reason = facts.skipped[0]
        echo(f"note: {counted(len(facts.skipped), 'image')} left out as unreadable; {name}: {reason}")


def _sides(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _condition(condition: Any) -> tuple[str, str]:
    if condition.corruption is None:
        return "none", ""
    return condition.corruption, str(condition.severity)


def _print_figures(rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]], heads: Sequence[str]) -> None:
    names = [name for name in rows[0][1] if name in _HEADS]
    table = Table(*heads, *(Column(_HEADS[name], justify="right") for name in names), box=None)
    for condition, figures in rows:
        table.add_row(*(condition if heads else ()), *(_figure(name, figures[name]) for name in names))
    Terminal().print(table)


def _print_classes(iou: Sequence[float], names: Sequence[str] | None) -> None:
    table = Table("class", Column("IoU", justify="right"), box=None)
    for label, share in enumerate(iou):
        name = str(label) if names is None or label >= len(names) else names[label]
        table.add_row(name, "does not occur" if math.isnan(share) else _figure("iou", share))
    Terminal().print(table)


def _print_by_class(classes: Sequence[Any], counted: str) -> None:
    heads = (counted, "recall" if counted == "pixels" else "top-1", "precision", "F1")
    table = Table("class", *(Column(head, justify="right") for head in heads), box=None)
    for figures in classes:
        shares = (figures.recall, figures.precision, figures.f1)
        texts = ("-" if math.isnan(share) else _figure("share", share) for share in shares)
        table.add_row(_class_name(figures), f"{figures.samples:,}", *texts)
    Terminal().print(table)


def _print_confusions(predictions: Mapping[Any, Any], classes: Sequence[Any]) -> None:
    """Print the pairs of classes that are confused most often, of samples as they are."""
    for label, predicted, count in next(iter(predictions.values())).confused(_MOST_CONFUSIONS):
        echo(f"{_class_name(classes[label])} taken for {_class_name(classes[predicted])}: {count:,}")


def _class_name(figures: Any) -> str:
    return str(figures.label) if figures.name is None else figures.name


def _figure(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"
