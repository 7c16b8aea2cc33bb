"""What a wheel holds, and that the lists in pyproject.toml are complete."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tokenstore

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == tokenstore.__version__
    assert f"## {tokenstore.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_listed() -> None:
    tops = ("tokenstore", "seitpp_models")
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names | {"tokenstore_cli"} == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_a_wheel_holds_every_module_the_weights_and_the_type_markers(wheel: set[str]) -> None:
    tops = ("tokenstore", "seitpp_models")
    modules = {str(path.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*.py")}
    modules |= {f"tokenstore_cli/{path.name}" for path in (ROOT / "cli").glob("*.py")}
    assert modules <= wheel
    assert {"tokenstore/py.typed", "tokenstore_cli/py.typed", "seitpp_models/py.typed"} <= wheel
    assert "tokenstore/tokenizers/weights/default.safetensors" in wheel
    assert "tokenstore/tokenizers/weights/MODEL_CARD.md" in wheel
    assert "tokenstore/augment/weights/default.safetensors" in wheel
    assert "tokenstore/augment/weights/MODEL_CARD.md" in wheel


def test_a_wheel_puts_nothing_else_at_the_top_level(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {
        "tokenstore",
        "seitpp_models",
        "tokenstore_cli",
        f"tokenstore-{tokenstore.__version__}.dist-info",
    }
