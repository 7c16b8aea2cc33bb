"""The threat model names code that exists."""

from __future__ import annotations

import re

from helpers.paths import ROOT


def test_every_file_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    named = re.findall(r"`((?:tokenstore|cli)/[a-z_/]+\.py)`", text)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).is_file()] == []
