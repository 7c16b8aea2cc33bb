"""The figures of one training run: what its folder has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.run_files import read_evaluation
from seitpp_models.recipes import read_recipe, read_run
from seitpp_models.reporting.pictures import MapPicture, map_pictures
from seitpp_models.reporting.predictions import PredictionFigures, prediction_figures
from seitpp_models.training.records import RECORD
from seitpp_models.training.reports import EVALUATIONS
from tokenstore.errors import TokenstoreError
from tokenstore.networks.runs import LOG

POINTS = 400
"""The points of a curve: each is the mean of as many steps as it takes."""

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

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("folder", "pictures")}
        predictions = None if self.predictions is None else self.predictions.to_dict()
        return {**values, "folder": str(self.folder), "predictions": predictions}


def run_figures(folder: Path, name: str, pictures: int) -> RunFigures:
    """Return the figures of the run in a folder, with so many pictures of a segmenter.

    Raises ModelError for a folder that holds no run, and for files that are none of a run's.
    """
    if not (folder / LOG).is_file():
        raise ModelError(f"{folder}: expected the folder of a training run, found no {LOG} in it")
    record = folder / RECORD
    settings = read_recipe(record) if record.exists() else {}
    run = (read_run(record) or {}) if record.exists() else {}
    log = list(_lines(folder / LOG))
    evaluation, predicted = read_evaluation(folder)
    reasons: dict[str, str] = {}
    if evaluation is None:
        reasons["evaluation"] = f"it was not evaluated: seitpp evaluate {folder} evaluates it"
    elif predicted is None:
        reasons["predictions"] = "its predictions are gone, or are those of another evaluation"
    figures, shown = None, []
    if evaluation is not None and predicted is not None and predicted.suffix == ".npy":
        try:
            shown = map_pictures(evaluation, predicted, pictures)
        except (TokenstoreError, OSError, ValueError) as error:
            reasons["pictures"] = str(error)
    elif evaluation is not None and predicted is not None:
        figures = prediction_figures(predicted, len(evaluation.get("by_class", [])))
    return RunFigures(
        folder,
        name,
        settings,
        run,
        int(log[-1]["step"]) if log else 0,
        float(log[-1].get("seconds", 0.0)) if log else 0.0,
        {curve: points for curve in _CURVES if (points := _points(log, curve))},
        list(_lines(folder / EVALUATIONS)),
        evaluation,
        figures,
        shown,
        reasons,
    )


def run_names(folders: list[Path]) -> list[str]:
    """Return the shortest ends of paths that tell folders apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(map(str, folders), 1)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the values of a file of JSON lines; the last one may be half written."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                values = json.loads(line)
                if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                    raise ValueError("expected a step")
            except (ValueError, RecursionError) as error:
                raise ModelError(f"{path}: line {number}: expected figures of a step: {error}") from error
            yield values


def _points(log: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return the means of a logged value over as many steps as make few points."""
    lines = [(line["step"], line[name]) for line in log if isinstance(line.get(name), (int, float))]
    width = max(1, -(-len(lines) // POINTS))
    parts = (lines[start : start + width] for start in range(0, len(lines), width))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
