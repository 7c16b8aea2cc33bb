"""The figures of one training run: what its folder has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.run_files import json_figures, read_evaluation
from seitpp_models.recipes import read_recipe, read_run
from seitpp_models.reporting.pictures import MapPicture, map_pictures
from seitpp_models.reporting.predictions import PredictionFigures, prediction_figures
from seitpp_models.training.records import RECORD
from seitpp_models.training.reports import EVALUATIONS
from tokenstore.errors import ArgumentError, TokenstoreError
from tokenstore.networks.runs import LOG

POINTS = 400
"""The points of a curve: each is the mean of as many steps as it takes."""

_Read = TypeVar("_Read")

_CURVES = ("loss", "right", "learning_rate")


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run."""

    folder: Path
    name: str
    """The shortest end of the folder's path that no other run of the report has."""
    settings: dict[str, Any]
    run: dict[str, Any]
    """The command, the store, the network, the versions and what was asked for."""
    steps: int
    """The number of the last step in the log."""
    seconds: float
    """The seconds of training until then."""
    curves: dict[str, list[tuple[int, float]]]
    """The points (step, value) of what was logged, by its name."""
    evaluations: list[dict[str, Any]]
    """The figures of each evaluation during training, with its step."""
    evaluation: dict[str, Any] | None
    """The figures of the evaluation of the folder, if there was one."""
    predictions: PredictionFigures | None = None
    pictures: list[MapPicture] = field(default_factory=list)
    """Some samples of a segmenter."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The reasons why figures are missing, by the names of the figures."""
    problems: dict[str, str] = field(default_factory=dict)
    """The problems of files of the run, by the names of the figures that they have."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("folder", "pictures")}
        predictions = None if self.predictions is None else self.predictions.to_dict()
        return {**values, "folder": str(self.folder), "predictions": predictions}


def run_figures(folder: Path, name: str, pictures: int) -> RunFigures:
    """Return the figures of the run in a folder, with so many pictures of a segmenter.

    Files that are none of a run's are named among the problems. Raises ModelError for a folder that holds
    no run.
    """
    try:
        if not (folder / LOG).is_file() and not (folder / RECORD).is_file():
            raise ModelError(f"{folder}: expected the folder of a training run, found no {LOG} in it")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror or error}") from error
    problems: dict[str, str] = {}
    settings, run = _read("settings", problems, lambda: _record(folder / RECORD)) or ({}, {})
    log = _lines("log", problems, folder / LOG)
    evaluations = _lines("evaluations", problems, folder / EVALUATIONS)
    evaluation, predicted = _read("evaluation", problems, lambda: read_evaluation(folder)) or (None, None)
    reasons: dict[str, str] = {}
    if evaluation is None and "evaluation" not in problems:
        reasons["evaluation"] = f"it was not evaluated: seitpp evaluate {folder} evaluates it"
    elif evaluation is not None and predicted is None:
        reasons["predictions"] = "its predictions are gone, or are those of another evaluation"
    if (end := _unfinished(settings, log)) is not None:
        reasons["training"] = end
    figures: PredictionFigures | None = None
    shown: list[MapPicture] = []
    if evaluation is not None and predicted is not None and predicted.suffix == ".npy":
        try:
            shown = map_pictures(evaluation, predicted, pictures)
        except (TokenstoreError, OSError, ValueError) as error:
            reasons["pictures"] = str(error)
    elif evaluation is not None and predicted is not None:
        classes = len(evaluation.get("by_class", []))
        figures = _read("predictions", problems, lambda: prediction_figures(predicted, classes))
    return RunFigures(
        folder,
        name,
        settings,
        run,
        int(log[-1]["step"]) if log else 0,
        float(log[-1].get("seconds", 0.0)) if log else 0.0,
        {curve: points for curve in _CURVES if (points := _points(log, curve))},
        evaluations,
        evaluation,
        figures,
        shown,
        reasons,
        problems,
    )


def _read(part: str, problems: dict[str, str], read: Callable[[], _Read]) -> _Read | None:
    """Return what `read` returns; if files are not those of a run, note it and return None."""
    try:
        return read()
    except (TokenstoreError, OSError) as error:
        problems[part] = str(error)
        return None


def _record(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a run and the facts beside them, empty without a record; raises ModelError."""
    if not path.exists():
        return {}, {}
    try:
        return read_recipe(path), read_run(path) or {}
    except ArgumentError as error:
        raise ModelError(f"{path}: expected the record of a run: {error.__cause__ or error}") from error


def _unfinished(settings: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str | None:
    """Return how far a run is that has not logged its last epoch; None for any other."""
    epochs, done = settings.get("epochs"), log[-1].get("epoch") if log else 0
    if not isinstance(epochs, (int, float)) or not isinstance(done, (int, float)):
        return None
    if not done < epochs - 0.01:  # NaN is not below it
        return None
    return f"training is not at its end: epoch {done:.2f} of {epochs:g}"


def run_names(folders: list[Path]) -> list[str]:
    """Return the shortest ends of paths that tell folders apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(map(str, folders), 1)]


def _lines(part: str, problems: dict[str, str], path: Path) -> list[dict[str, Any]]:
    """Return the values of a file of JSON lines, up to one that is none; the last one may be half written."""
    lines: list[dict[str, Any]] = []

    def read() -> None:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    lines.append(_line(line, f"{path}: line {number}"))

    if path.exists():
        _read(part, problems, read)
    return lines


def _line(line: bytes, where: str) -> dict[str, Any]:
    """Return the values of a line of figures; raises ModelError."""
    try:
        values = json_figures(line)
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise ValueError("expected a step")
        if not isinstance(values.get("seconds", 0.0), (int, float)):
            raise ValueError("expected seconds as a number")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: expected figures of a step: {error}") from error
    return values


def _points(log: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return the means of a logged value over as many steps as make few points."""
    known = [line for line in log if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])]
    lines = [(line["step"], line[name]) for line in known]
    width = max(1, -(-len(lines) // POINTS))
    parts = (lines[start : start + width] for start in range(0, len(lines), width))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
