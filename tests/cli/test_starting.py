"""The beginning of the programs: whatever Ctrl-C interrupts, one line is printed, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.waiting import HANG

PROGRAM = """
import importlib.abc, os, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = {words!r}
from tokenstore_cli.start import {entry}
{entry}()
"""


@pytest.mark.parametrize(
    ("entry", "module", "words"),
    [
        ("tokenstore", "click", ["--help"]),
        ("tokenstore", "tokenstore.errors", ["info", "store"]),
        ("tokenstore", "tokenstore_cli.store.stats", ["stats", "."]),
        ("tokenstore", "tokenstore.audit.stats", ["stats", "."]),
        ("seitpp", "tokenstore_cli.seitpp", ["--version"]),
        ("seitpp", "yaml", ["pretrain", ".", "--out", "run"]),
    ],
)
def test_ctrl_c_while_a_program_imports_its_modules_prints_one_line(
    entry: str, module: str, words: list[str], tmp_path: Path
) -> None:
    program = PROGRAM.format(entry=entry, module=module, words=words)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


def test_an_import_that_an_interrupt_made_fail_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner
    from tokenstore_cli.main import cli

    def importing(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("tokenstore.info", importing)
    result = CliRunner().invoke(cli, ["info", str(tmp_path)])
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_the_console_scripts_begin_so() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {
        "tokenstore": "tokenstore_cli.start:tokenstore",
        "seitpp": "tokenstore_cli.start:seitpp",
    }
