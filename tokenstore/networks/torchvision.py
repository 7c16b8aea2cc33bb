"""The import of torchvision, which timm, torchmetrics, transformers and diffusers do by themselves.

A torchvision that does not fit the installed torch ends their import in an error about an unknown operator.
So whoever imports one of them here calls `import_torchvision` first, which says what is wrong and what fits.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import version

from tokenstore.errors import DependencyError

__all__ = ["fitting_torchvision", "import_torchvision"]

_MINOR_OFFSET = 15
"""The difference between the minor versions of torchvision 0.x and torch 2.x that belong together."""


def import_torchvision() -> None:
    """Import torchvision if it is installed.

    Raises DependencyError where the import fails, with the version that fits the installed torch.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # missing operators, symbols and modules are errors of several kinds
        torch, reason = version("torch"), str(error).splitlines()[0][:200] if str(error) else repr(error)
        fitting = fitting_torchvision(torch)
        raise DependencyError(
            f"torchvision {version('torchvision')} does not fit torch {torch} "
            f"({type(error).__name__}: {reason}). torch {torch} needs torchvision "
            f"{fitting or 'of the same release'}, built for the same kind of device (CPU, or the same CUDA): "
            "install both from one package index"
        ) from error


def fitting_torchvision(torch: str) -> str | None:
    """Return the versions of torchvision that fit a version of torch ("0.28.*" for "2.13.0"), if known."""
    major, minor, *_ = torch.split(".")
    return f"0.{int(minor) + _MINOR_OFFSET}.*" if major == "2" and minor.isdigit() else None
