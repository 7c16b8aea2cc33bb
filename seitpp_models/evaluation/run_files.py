"""The files that an evaluation leaves in the folder of a run: its figures, and its predictions.

`evaluation.json` has the figures with the name and digest of the file of predictions, and is written last.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.results import Evaluation
from seitpp_models.networks.shape import Output
from seitpp_models.weights.files import WEIGHTS, TrainedModel
from tokenstore.files import write_file

__all__ = ["EVALUATION", "RunFiles", "json_figures", "read_evaluation"]

EVALUATION = "evaluation.json"
"""The file of the figures in a run's folder."""
SCHEMA_VERSION = 1
"""The version of the names and meanings in that file."""

_PREDICTIONS: dict[Output, str] = {"class": "predictions.parquet", "label map": "predictions.npy"}
"""The file of predictions, by the thing that a network's logits are of."""
_DIGITS = 18
"""The digits of a whole number that certainly fits 64 bits."""
_LONGEST = 1 << 26
"""The most bytes of a file of figures: each of 21,000 classes takes about 150."""


@dataclass(frozen=True)
class RunFiles:
    """The folder of a run that is evaluated."""

    folder: Path

    @classmethod
    def of(cls, model: object) -> RunFiles | None:
        """Return the files of a run whose folder is given as the network; None for anything else."""
        if isinstance(model, (str, Path)) and Path(model).is_dir():
            return cls(Path(model))
        return None

    @property
    def weights(self) -> Path:
        """The file of the network that was trained."""
        return self.folder / WEIGHTS

    def predictions(self, trained: TrainedModel) -> Path | None:
        """Return the file that a network's predictions are written to; None for a network that has none."""
        name = _PREDICTIONS.get(trained.shape.output)
        return None if name is None else self.folder / name

    def write(self, evaluation: Evaluation, predictions: str | Path | None) -> Evaluation:
        """Write the figures of an evaluation with predictions in a file, and return it; raises OSError."""
        values = {"schema": "seitpp.evaluation", "schema_version": SCHEMA_VERSION, **evaluation.to_dict()}
        if predictions is not None:
            path = Path(predictions)
            values["predictions"] = {"file": str(path.absolute()), "sha256": _digest(path)}
        write_file(self.folder / EVALUATION, (json.dumps(values, indent=1) + "\n").encode())
        return evaluation


def read_evaluation(folder: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Return the figures of a run's last evaluation, and the file of its predictions if it is unchanged.

    Both are None if the run was not evaluated. Raises ModelError for a file of anything else.
    """
    path = folder / EVALUATION
    if not path.exists():
        return None, None
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise ValueError(f"expected at most {_LONGEST} bytes, found more")
        values = json_figures(data)
        if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"expected figures of schema version {SCHEMA_VERSION}")
        _check(values)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: expected the figures of an evaluation: {error}. Evaluate again") from error
    return values, _same(folder, values.pop("predictions", None))


def json_figures(data: bytes) -> Any:
    """Return the values of JSON text; raises ValueError or RecursionError for text that is none of figures.

    Whole numbers are of up to 18 digits, so that each can be a float.
    """
    return json.loads(data, parse_int=_whole)


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS:
        raise ValueError(f"expected whole numbers of up to {_DIGITS} digits, found one of {len(text)}")
    return int(text)


def _check(values: dict[str, Any]) -> None:
    """Raise ValueError for figures that no evaluation writes, so that readers can rely on their kinds."""
    place = values.get("store", values.get("images"))
    if not isinstance(place, str) or not isinstance(values.get("split"), str):
        raise ValueError("expected the place and the split of its samples")
    if not isinstance(values.get("samples"), int):
        raise ValueError("expected the number of its samples")
    results = values.get("results", [values])
    if not isinstance(results, list) or not results or not all(isinstance(each, dict) for each in results):
        raise ValueError("expected the figures of each condition")
    classes = values.get("by_class", [])
    if not isinstance(classes, list) or not all(map(_is_class, classes)):
        raise ValueError("expected the figures of each class")
    iou = values.get("iou", [None] * len(classes))
    if not isinstance(iou, list) or not all(map(_is_share, iou)) or (classes and len(iou) != len(classes)):
        raise ValueError("expected the IoU of each class")


def _is_class(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and all(isinstance(values.get(name), int) for name in ("label", "samples"))
        and isinstance(values.get("name", 0), (str, type(None)))
        and _is_share(values.get("recall", ""))
    )


def _is_share(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _same(folder: Path, record: Any) -> Path | None:
    """Return the file of predictions, there or beside the figures, if its bytes are those of the record."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        return None
    for path in (Path(record["file"]), folder / Path(record["file"]).name):
        if path.is_file() and _digest(path) == record.get("sha256"):
            return path
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
