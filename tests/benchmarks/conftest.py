"""The scripts of `benchmarks/`, which are no package of the project, for tests of them."""

from __future__ import annotations

import sys

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
