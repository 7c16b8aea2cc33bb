"""torchvision where its compiled operators do not load, such as a CUDA build beside a torch for CPUs.

Importing it would end in an error, and with it timm and transformers, which need its transforms alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from typing import Any

import torch

__all__ = ["import_torchvision"]

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_DECLARED: list[Any] = []
"""Operators are forgotten with their library."""


def import_torchvision() -> None:
    """Import torchvision, if it is installed; without its compiled operators where they do not load.

    torchvision describes some operators to torch without asking whether they are there; those are declared.
    """
    while "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library: Any = torch.library.Library
            _DECLARED.append(library("torchvision", "FRAGMENT"))
            _DECLARED[-1].define(f"{missing[1]}() -> ()")
