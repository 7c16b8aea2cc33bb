"""The line on a terminal while a command is silent, hints of what to do next, and rates."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest
from helpers.waiting import wait_until
from tokenstore_cli import waiting as module
from tokenstore_cli.console import echo, hint, human_rate
from tokenstore_cli.waiting import waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Give what stderr, a terminal, gets; the line is shown at once."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    return Terminal()


def test_a_silent_command_says_that_it_works_until_it_ends(terminal: Terminal) -> None:
    with redirect_stderr(terminal), waiting("tokenstore convert"):
        wait_until(lambda: "tokenstore convert ... " in terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_line_goes_before_anything_is_printed(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    with redirect_stderr(terminal), waiting("tokenstore convert"):
        wait_until(lambda: bool(terminal.getvalue()))
        echo("found")
        shown = terminal.getvalue()
        assert shown.endswith("\r\x1b[K")
        echo("again")
    assert terminal.getvalue() == shown
    assert capsys.readouterr().out == "found\nagain\n"


def test_no_line_is_written_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    with waiting("tokenstore convert"):
        hint("tokenstore verify photos.zarr")
    assert capsys.readouterr() == ("", "")


def test_a_hint_is_for_people_on_a_terminal(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        hint("tokenstore verify a\x1bb.zarr")
    assert "next: tokenstore verify a\\x1bb.zarr" in terminal.getvalue()


@pytest.mark.parametrize(
    ("number", "text"), [(0.468, "0.47"), (9.9, "9.9"), (9.96, "10"), (12_345.6, "12,346"), (0.0, "0")]
)
def test_a_slow_rate_has_digits(number: float, text: str) -> None:
    assert human_rate(number) == text
