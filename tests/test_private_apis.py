"""The private parts of other libraries: each is on a page, with a reason, and is still there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import dataclass

import pytest
from helpers.paths import ROOT
from helpers.syntax import nodes

PAGE = ROOT / "docs" / "private-apis.md"
FOLDERS = ("tokenstore", "seitpp_models", "cli", "benchmarks", "tests", ".ci")
PUBLIC = {"_exit", "_replace", "_asdict", "_fields", "_make"}
"""Names of the standard library that begin with an underscore and are documented."""
WORD = re.compile(r"_[a-z]\w*")


@dataclass(frozen=True)
class Row:
    """A row of the page."""

    name: str
    places: str
    reason: str
    remedy: str


def rows() -> list[Row]:
    """Return the rows of the page's tables."""
    cells = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [Row(name.strip().strip("`"), *(cell.strip() for cell in others)) for name, *others in cells]


ROWS = rows()


def exists(name: str) -> bool:
    """Return True if a dotted name can be imported; attributes of instances are looked up in the source."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        *path, last = parts[count:]
        try:
            for part in path:
                owner = getattr(owner, part)
        except AttributeError:
            return False
        return hasattr(owner, last) or f"self.{last} = " in inspect.getsource(owner)
    return False


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_private_name_is_still_there(row: Row) -> None:
    pytest.importorskip(row.name.split(".")[0])
    assert exists(row.name), (
        f"{row.name} is gone. {row.places} uses it: {row.reason}. What to do: {row.remedy}. See {PAGE}"
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_page_names_the_files_that_use_a_name(row: Row) -> None:
    last = row.name.rsplit(".", 1)[1]
    spelled = re.sub("^_is_(.*)_supported$", r"\1", last)
    for place in re.findall("`([^`]+)`", row.places):
        path = ROOT / place
        files = path.rglob("*.py") if path.is_dir() else [path]
        assert any(spelled in file.read_text() for file in files), place


SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def own_names() -> set[str]:
    """Return the names that the project defines: modules, functions, variables, attributes, arguments."""
    names = set()
    for path in SOURCES:
        names.add(path.stem)
        for node in nodes(path):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    names.add(node.name)
                case ast.Attribute(value=ast.Name("self" | "cls"), ctx=ast.Store()):
                    names.add(node.attr)
                case ast.Name(ctx=ast.Store()):
                    names.add(node.id)
                case ast.arg():
                    names.add(node.arg)
                case ast.Call(func=ast.Attribute(attr="__setattr__"), args=[_, ast.Constant(str(name)), _]):
                    names.add(name)
    return names


def mentioned(node: ast.AST) -> list[str]:
    """Return the names that a node of a syntax tree takes from an object or a module."""
    match node:
        case ast.Attribute():
            return [node.attr]
        case ast.ImportFrom():
            return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        case ast.Import():
            return [part for alias in node.names for part in alias.name.split(".")]
        case ast.Call(func=ast.Name("getattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]):
            return [name]
        case _:
            return []


def test_every_private_name_in_the_code_is_on_the_page() -> None:
    known = {part for row in ROWS for part in row.name.split(".")} | own_names() | PUBLIC
    unknown = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"  # type: ignore[attr-defined]
        for path in SOURCES
        for node in nodes(path)
        for name in mentioned(node)
        if WORD.fullmatch(name) and name not in known
    ]
    assert not unknown, f"use a public way, or give the reason in {PAGE}: {unknown}"
