"""The front door: one page that shows training runs side by side, and the same figures as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seitpp_models.errors import ModelError
from seitpp_models.reporting.runs import RunFigures, run_figures, run_names
from seitpp_models.reporting.runs_page import run_views
from tokenstore.audit.report import page_path, render_page, require_matplotlib, write_page
from tokenstore.errors import ArgumentError, TokenstoreError
from tokenstore.version import __version__

SCHEMA_VERSION = 1
"""The version of the names and meanings in `RunsReport.to_dict`."""
PICTURES = 8
"""The pictures of a segmenter's samples unless the caller says otherwise."""

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class RunsReport:
    """The figures of some runs, and the page that shows them."""

    runs: tuple[RunFigures, ...]
    path: Path | None = None
    """The file of the page; None if none was written."""
    nbytes: int = 0
    """The bytes of that file."""
    unread: Mapping[str, TokenstoreError] = field(default_factory=dict)
    """The error because of which a run is not shown, by the run's name."""

    @property
    def problems(self) -> tuple[TokenstoreError | str, ...]:
        """The problems of the runs: folders that hold none, and files that are not a run's."""
        damage = (problem for run in self.runs for problem in run.problems.values())
        return (*self.unread.values(), *damage)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with the version of their names as `schema_version`."""
        return {
            "schema": "seitpp.report",
            "schema_version": SCHEMA_VERSION,
            "created_by": f"tokenstore {__version__}",
            "runs": [run.to_dict() for run in self.runs],
            "unread": {name: str(error) for name, error in self.unread.items()},
        }

    def html(self) -> str:
        """Return the page; raises ArgumentError without matplotlib."""
        return render_page("runs.html", _TEMPLATES, unread=self.unread, **run_views(self.runs))


def report(
    *runs: str | Path,
    out: str | Path | None = None,
    samples: int = PICTURES,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> RunsReport:
    """Gather the figures of training runs, and write them as one HTML page that needs no network.

    The page has the curves of all runs. Of runs whose folder was evaluated
    (`seitpp_models.evaluation.evaluate`) it has the figures of each class, confusions and calibration, and of
    segmenters `samples` pictures, by default 8. `runs` are the runs' folders, `out` is the file of the page,
    None for none. `on_progress` is called with a step's name, the runs that are done, and all runs.

    A file of a run that is damaged is named with what is wrong, and all other figures of the run are shown.
    So is a folder that holds no run, beside other runs: `RunsReport.problems` says what is wrong.

    Raises ArgumentError for arguments that cannot be used and without matplotlib, ModelError if no folder
    holds a run, and OSError if the page cannot be written.
    """
    if not runs:
        raise ArgumentError("expected the folders of training runs, found none")
    path = None if out is None else page_path(out)
    if path is not None:
        require_matplotlib()
    folders = [Path(run) for run in runs]
    gathered: list[RunFigures] = []
    unread: dict[str, TokenstoreError] = {}
    for number, (folder, name) in enumerate(zip(folders, run_names(folders), strict=True), 1):
        try:
            gathered.append(run_figures(folder, name, samples))
        except ModelError as error:
            unread[name] = error
        if on_progress is not None:
            on_progress("reading runs", number, len(folders))
    if not gathered:
        raise next(iter(unread.values()))
    made = RunsReport(tuple(gathered), unread=unread)
    return made if path is None else replace(made, path=path, nbytes=write_page(path, made.html()))
