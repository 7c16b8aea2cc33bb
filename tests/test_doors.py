"""Names of a package are imported on first use, and stay."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

INIT = """
from tokenstore.doors import lazy_names
__all__ = ["same", "other"]
__getattr__, __dir__ = lazy_names(__name__, {"same": "same", "other": "second"})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a package of two modules, one of which has the name of its function."""
    folder = tmp_path / "package_of_doors"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "same.py").write_text("def same():\n    return 1\n")
    (folder / "second.py").write_text("other = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder.name


def test_a_module_is_imported_when_its_name_is_used(package: str) -> None:
    door = importlib.import_module(package)
    assert dir(door) == ["other", "same"]
    assert f"{package}.second" not in sys.modules
    assert door.other is door.other is sys.modules[f"{package}.second"].other
    assert f"{package}.same" not in sys.modules
    assert [door.same(), door.same()] == [1, 1]  # the function, and not the module of its name
    assert "other" in vars(door)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = door.nothing
