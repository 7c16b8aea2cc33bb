"""The folders that tests read from."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
"""The repository."""
GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"
"""Real data beside the repository, where there is any; tests that need it skip without."""
