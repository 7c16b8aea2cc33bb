"""The report of training runs: one HTML page of several runs, and the same figures as values.

One front door, `report`. `runs.py` reads what a run's folder has: its record, log and evaluations, and what
`seitpp_models.evaluation.evaluate` left there. `predictions.py` makes figures of predictions: calibration and
confusions. `pictures.py` has the samples of a segmenter. `runs_page.py` turns figures into what the template
`templates/runs.html` names; page and charts are those of `tokenstore.audit.report`. This wing imports
evaluation and training. Names are imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.reporting.report import RunsReport, report
    from seitpp_models.reporting.runs import RunFigures

__all__ = ["RunFigures", "RunsReport", "report"]

_HOMES = {"RunFigures": "runs", "RunsReport": "report", "report": "report"}
"""The module of each name."""


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
