"""The contents of a wheel, and the lists in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

import tokenstore

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"tokenstore": "tokenstore", "seitpp_models": "seitpp_models", "cli": "tokenstore_cli"}
"""The folders of the packages here, and the packages' names where they are installed."""
MODULES = {
    f"{package}/{path.relative_to(ROOT / folder)}"
    for folder, package in FOLDERS.items()
    for path in (ROOT / folder).rglob("*.py")
}


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == tokenstore.__version__
    assert f"## {tokenstore.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_listed() -> None:
    folders = [Path(module).parent for module in MODULES if module.endswith("/__init__.py")]
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert {".".join(folder.parts) for folder in folders} == set(listed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_a_wheel_holds_every_module_the_weights_and_the_type_markers(wheel: set[str]) -> None:
    assert wheel >= MODULES
    assert {"tokenstore/py.typed", "tokenstore_cli/py.typed", "seitpp_models/py.typed"} <= wheel
    assert "tokenstore/tokenizers/weights/conv-vq-8x-2k.safetensors" in wheel
    assert "tokenstore/tokenizers/weights/conv-vq-symmetric-8x-2k.safetensors" in wheel
    assert "tokenstore/tokenizers/weights/MODEL_CARD.md" in wheel
    assert "tokenstore/tokenizers/weights/conv-vq-symmetric-8x-2k.md" in wheel
    assert "tokenstore/augment/weights/conv-vq-8x-2k.safetensors" in wheel
    assert "tokenstore/augment/weights/conv-vq-symmetric-8x-2k.safetensors" in wheel
    assert "tokenstore/augment/weights/conv-vq-symmetric-8x-2k.md" in wheel
    assert "tokenstore/augment/weights/MODEL_CARD.md" in wheel


def test_a_wheel_puts_nothing_else_at_the_top_level(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {
        "tokenstore",
        "seitpp_models",
        "tokenstore_cli",
        f"tokenstore-{tokenstore.__version__}.dist-info",
    }
