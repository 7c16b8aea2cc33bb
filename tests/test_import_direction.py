"""Data flows one way, and so do imports; only the modules named here know zarr or torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    "errors",
    "version",
    "machine",
    "randomness",
    "files",
    "codecs",
    "storage",
    "sources",
    "networks",
    "format",
    "tokenizers",
    "reading",
    "augment",
    "writing",
    "loading",
    "audit",
    "conversion",
]
MODULES = sorted((ROOT / "tokenstore").rglob("*.py"))
ZARR = {"codecs"}
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    here = part(path)
    if here == "__init__":
        return
    assert here in ORDER, f"{here} has no place in the order; give it one"
    for name in imported(path):
        if name.startswith("tokenstore."):
            there = name.split(".")[1]
            if there in ORDER:
                assert ORDER.index(there) <= ORDER.index(here), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_modules_named_know_zarr_or_torch(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert "zarr" not in roots or part(path) in ZARR
    assert "torch" not in roots or part(path) in TORCH
    assert "tokenstore_cli" not in roots


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
        "concat",
        "mix",
        "open",
    ]
    assert all(getattr(tokenstore, name) is not None for name in tokenstore.__all__)
    assert set(tokenstore.__all__) <= set(dir(tokenstore))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tokenstore.nothing


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_store_knows_no_models(path: Path) -> None:
    assert not [name for name in imported(path) if name.startswith(("seitpp_models", "tokenstore_cli"))]


def test_no_model_imports_a_command() -> None:
    for path in (ROOT / "seitpp_models").rglob("*.py"):
        assert not [name for name in imported(path) if name.startswith("tokenstore_cli")]
