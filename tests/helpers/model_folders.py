"""Folders of saved models, to be spoiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def spoil_config(folder: Path, change: dict[str, Any]) -> None:
    """Change fields of a model's config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
