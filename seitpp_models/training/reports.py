"""The reports of a run: its evaluations, TensorBoard's files, and a picture of its loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seitpp_models.evaluation.figures import without_nan
from seitpp_models.training.network_run import NetworkStep
from tokenstore.files import whole_file
from tokenstore.networks.runs import LOG, cut_log

__all__ = ["CURVE", "EVALUATIONS", "RunReport", "draw_curve"]

EVALUATIONS = "evaluations.jsonl"
CURVE = "curve.png"
_TENSORBOARD = "tensorboard"
_SHOWN_POINTS = 400


class RunReport:
    """The reports of a run beside its log: evaluations as JSON lines, TensorBoard's files, a picture.

    A resumed run replaces the reports of steps after `step`. Only the process that `writes` does.
    """

    def __init__(
        self, folder: Path, step: int, *, writes: bool, reference: tuple[str, float] | None = None
    ) -> None:
        """Open the reports. `reference` is the name and the value of a loss that the picture shows too."""
        self._folder, self._writes, self._reference = folder, writes, reference
        if writes:
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            cut_log(folder / EVALUATIONS, step)
            writer: Any = SummaryWriter
            self._board = writer(str(folder / _TENSORBOARD), purge_step=step + 1)

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self._writes:
            self._board.close()

    def step(self, result: NetworkStep) -> None:
        """Note a step."""
        if self._writes:
            for name in ("loss", "right", "learning_rate", "epoch"):
                self._board.add_scalar(f"train/{name}", asdict(result)[name], result.step)

    def evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Note the figures of an evaluation; lists of figures go into the JSON lines alone."""
        if not self._writes:
            return
        with (self._folder / EVALUATIONS).open("a") as file:
            file.write(json.dumps(without_nan({"step": step, **figures})) + "\n")
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"val/{name}", value, step)
        draw_curve(self._folder, self._reference)


def draw_curve(folder: Path, reference: tuple[str, float] | None = None) -> None:
    """Draw the loss of a run, smoothed, and of its evaluations into curve.png in its folder.

    `reference` is the name and the value of a loss, drawn as a line.
    """
    from matplotlib.figure import Figure  # rather than pyplot, whose backend belongs to the whole process

    steps = _lines(folder / LOG)
    evaluations = _lines(folder / EVALUATIONS)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    width = max(1, len(steps) // _SHOWN_POINTS)
    means = [
        (part[-1]["step"], sum(line["loss"] for line in part) / len(part))
        for part in (steps[start : start + width] for start in range(0, len(steps), width))
    ]
    if means:
        axes.plot(*zip(*means, strict=True), label="training", linewidth=1)
    held_out = [(line["step"], line["loss"]) for line in evaluations if "loss" in line]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", label="held out", markersize=3)
    if reference is not None:
        axes.axhline(reference[1], linestyle="--", color="grey", linewidth=1, label=reference[0])
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(folder / CURVE) as file:
        figure.savefig(file, dpi=110, format=Path(CURVE).suffix[1:])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
