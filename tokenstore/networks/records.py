"""The record of how a training was begun: a YAML file of its settings, its inputs and the versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenstore.files import write_file
from tokenstore.version import __version__

__all__ = ["RECORD", "RUN", "versions", "write_record"]

RECORD = "config.yaml"
"""The file of the record in a run's folder."""


RUN = "run"
"""The key of what a record has beside the settings."""


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of tokenstore, of Python, and of installed libraries by their names."""
    return {
        "tokenstore": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def write_record(path: Path, heading: str, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all: a `heading` of one line, `settings`, and beside them `run`.

    Values are JSON's; tuples become lists. Raises OSError.
    """
    import yaml  # which takes a tenth of a second

    values = json.loads(json.dumps({**settings, RUN: run}))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_file(path, f"# {heading}\n{text}".encode())
