"""The error where torchvision does not fit torch, and the repair of an environment with such a pair."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tokenstore.networks.torchvision import fitting_torchvision

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.13.0+cpu", "0.28.*"), ("2.4.1", "0.19.*"), ("3.0.0", None), ("2.dev", None)],
)
def test_each_torch_names_the_torchvision_that_fits(torch: str, torchvision: str | None) -> None:
    assert fitting_torchvision(torch) == torchvision


@pytest.mark.parametrize(
    "statement", ["import seitpp_models", "from tokenstore.tokenizers.quality import psnr; psnr(0, 0)"]
)
def test_a_torchvision_that_does_not_fit_is_one_clear_error(tmp_path: Path, statement: str) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tokenstore.errors.DependencyError: torchvision "), done.stderr
    assert "nms does not exist). torch 2." in last
    assert f"needs torchvision {fitting_torchvision(last.split('fit torch ')[1].split()[0])}" in last


def test_the_repair_declares_two_operators_once(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("fit_torchvision", ROOT / ".ci" / "fit_torchvision.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    extension = tmp_path / "extension.py"
    extension.write_text("import torch\n\ndef _has_ops():\n    return False\n")
    assert script.declare_operators(extension)
    assert not script.declare_operators(extension)
    assert extension.read_text().count("torch.library.Library") == 1
