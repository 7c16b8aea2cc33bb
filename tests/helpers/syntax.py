"""The syntax trees of the project's files."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file's syntax tree, the module first."""
    collects = gc.isenabled()
    gc.disable()  # collections while millions of nodes are made take most of the time
    try:
        return tuple(ast.walk(ast.parse(path.read_text())))
    finally:
        if collects:
            gc.enable()
