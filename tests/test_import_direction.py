"""Imports that import-linter cannot hold: zarr and torch stay in their wings; the public names are these."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

MODULES = sorted((ROOT / "tokenstore").rglob("*.py"))
ZARR = {"codecs"}
ZARR_FILE = ROOT / "tokenstore/sources/layouts/zarr_arrays.py"
"""The source of arrays in other people's Zarr hierarchies."""
TORCH = {"networks", "tokenizers", "augment", "loading", "audit"}


def part(path: Path) -> str:
    return path.relative_to(ROOT / "tokenstore").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_the_wings_named_know_zarr_or_torch() -> None:
    for path in MODULES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert "zarr" not in roots or part(path) in ZARR or path == ZARR_FILE, path
        assert "torch" not in roots or part(path) in TORCH, path


def test_torchmetrics_is_imported_where_the_quality_of_images_is_measured_alone() -> None:
    # Importing it takes longer than importing torch, and every run and every test process would pay for that.
    users = [
        path.relative_to(ROOT).as_posix()
        for package in ("tokenstore", "seitpp_models")
        for path in sorted((ROOT / package).rglob("*.py"))
        if any(name.split(".")[0] == "torchmetrics" for name in imported(path))
    ]
    assert users == ["tokenstore/tokenizers/quality.py"]


def test_importing_tokenstore_pulls_in_nothing_heavy() -> None:
    heavy = "{'torch', 'zarr', 'numba', 'pyarrow', 'numpy', 'timm'}"
    code = f"import sys, tokenstore; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    import tokenstore

    assert tokenstore.__all__ == [
        "Manifest",
        "Retries",
        "TokenDataset",
        "TokenLoader",
        "TokenStore",
        "TokenstoreError",
        "__version__",
        "append",
        "concat",
        "convert",
        "copy",
        "dedupe",
        "diff",
        "export",
        "info",
        "merge",
        "mix",
        "open",
        "plan",
        "preview",
        "progress_bar",
        "recode",
        "reconstruct",
        "relabel",
        "relate",
        "rename_class",
        "report",
        "select",
        "split",
        "stats",
        "verify",
        "write",
    ]
    assert all(getattr(tokenstore, name) is not None for name in tokenstore.__all__)
    assert set(tokenstore.__all__) <= set(dir(tokenstore))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tokenstore.nothing
