"""The record of how a run was begun, `config.yaml` in its folder: a recipe that repeats the run.

The file has every setting by its name, as a recipe has, and beside them `run`: the command, the versions of
the libraries, the store with its fingerprint, the network, and which settings were asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seitpp_models.errors import ModelError
from seitpp_models.recipes import read_recipe, read_run
from seitpp_models.training.augmentations import noise_identity
from seitpp_models.training.resolving import Settings
from tokenstore.errors import ArgumentError
from tokenstore.networks.records import RECORD, versions, write_record

__all__ = ["RECORD", "RunRecord"]

_FREE = frozenset(
    {
        "adapter",
        "checkpoint_minutes",
        "compile",
        "device",
        "evaluate_every",
        "evaluate_split",
        "keep_best",
        "keep_every",
        "keep_last",
        "loader_threads",
        "resident",
        "start",
        "threads",
    }
)
"""The settings that a resumed run may change: they decide no loss, or are files that may have moved."""
_LIBRARIES = ("torch", "timm", "accelerate", "numpy")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """The settings and inputs of a run, by which it can be repeated."""

    settings: Mapping[str, Any]
    """The values of all settings but `resume`, by their names."""
    run: Mapping[str, Any]
    """The facts beside the settings, as JSON values."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        precision: str,
        store: str,
        fingerprint: str,
        processes: int,
        facts: Mapping[str, Any],
    ) -> RunRecord:
        """Return the record of a run on a store, with the precision that was chosen, and further facts."""
        values = {name: value for name, value in settings.values.items() if name != "resume"}
        for name in ("start", "adapter"):
            if values[name] is not None and Path(values[name]).is_file():
                values[name] = str(Path(values[name]).absolute())
        values["precision"] = precision
        run = {
            "command": settings.command,
            "store": store,
            "fingerprint": fingerprint,
            "processes": processes,
            "versions": versions(_LIBRARIES),
            **facts,
            "given": sorted(settings.requested - {"resume"}),
        }
        return cls(json.loads(json.dumps(values)), json.loads(json.dumps(run)))

    def write(self, folder: Path) -> None:
        """Write the record to the folder of a run, whole or not at all; raises OSError."""
        heading = f"How `seitpp {self.run['command']}` was begun. As a recipe, the file repeats the run."
        write_record(folder / RECORD, heading, self.settings, self.run)

    def check(self, folder: Path) -> None:
        """Raise ModelError if the run in a folder was begun by another command or with other settings.

        A folder without a record, of an older version, is not compared. Other versions of libraries are
        logged.
        """
        path = folder / RECORD
        if not path.exists():
            return
        try:
            settings, run = read_recipe(path), read_run(path) or {}
        except ArgumentError as error:
            raise ModelError(f"{path}: expected the record of a run: {error}. Remove the file") from error
        changed = []
        if run.get("command") != self.run["command"]:
            changed.append(f"command {run.get('command')} -> {self.run['command']}")
        elif run.get("fingerprint") != self.run["fingerprint"]:
            changed.append(f"store {run.get('store')!s:.200} -> {self.run['store']!s:.200}, of other samples")
        compared = [] if changed else [name for name in self.settings if name not in _FREE]
        for name in compared:
            was = settings.get(name, self.settings[name])  # an older version knew fewer settings
            if _compared(name, was) != _compared(name, self.settings[name]):
                changed.append(f"{name} {was!s:.80} -> {self.settings[name]}")
        if changed:
            raise ModelError(
                f"{path}: the run was begun with other inputs ({'; '.join(changed)}). Give those it was "
                "begun with, or train into another folder"
            )
        before, now = run.get("versions"), self.run["versions"]
        if isinstance(before, dict):
            others = [
                f"{name} {before[name]} -> {now[name]}"
                for name in now
                if before.get(name, now[name]) != now[name]
            ]
            if others:
                _log.warning("%s: the run goes on with other versions (%s)", folder, ", ".join(others))


def _compared(name: str, value: Any) -> Any:
    """Return the value of a setting as it is compared: 1.0 and the name of that noise are the same."""
    return noise_identity(value) if name == "noise" else value
