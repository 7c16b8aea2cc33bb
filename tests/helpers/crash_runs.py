"""Runs of `crash_conversions.py`, which kill themselves at a file operation."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.worker_forks import program


@pytest.fixture(scope="module")
def conversions() -> Iterator[subprocess.Popen[str]]:
    """Start the program of conversions, and end it after the tests of a module."""
    command = program("helpers.crash_conversions")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run(
    conversions: subprocess.Popen[str], source: Path, out: Path, operation: int, action: str = "convert"
) -> bool:
    """Run a conversion or another action; return whether it ended before a file operation killed it."""
    assert conversions.stdin is not None
    assert conversions.stdout is not None
    print(action, source, out, operation, file=conversions.stdin, flush=True)
    status = int(conversions.stdout.readline())
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{action} failed"
    return not os.WIFSIGNALED(status)
