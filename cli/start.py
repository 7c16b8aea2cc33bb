"""The beginning of both programs: Ctrl-C prints one line, also while modules are imported."""

from __future__ import annotations

import importlib
import signal
import sys

__all__ = ["seitpp", "tokenstore"]


def tokenstore() -> None:
    """Run the console script `tokenstore`."""
    _run("main")


def seitpp() -> None:
    """Run the console script `seitpp`."""
    _run("seitpp")


def _run(module: str) -> None:
    try:
        importlib.import_module(f"{__package__}.{module}").main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    finally:
        # subtle: Python prints a traceback of what interrupts its own end
        signal.signal(signal.SIGINT, signal.SIG_DFL)
