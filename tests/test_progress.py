"""Bars for progress callbacks, in a terminal, a notebook, and where neither is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import tokenstore


@dataclass
class State:
    split: str = "train"
    done: int = 3
    total: int = 7
    skipped: int = 0


STATES: list[Any] = [(State(),), (3, 7), ("copying", 3, 7)]


@pytest.fixture(params=["terminal", "pipe"])
def printed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Give what is printed to a terminal of 100 columns, and to none."""
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    return request.param == "terminal", lambda: capsys.readouterr().out


@pytest.mark.parametrize("state", STATES)
def test_a_bar_takes_what_every_call_tells(state: tuple[Any, ...], printed: Any) -> None:
    is_terminal, read = printed
    with tokenstore.progress_bar("files") as bar:
        bar(*state)
    out = read()
    assert ("3/7" in out) == is_terminal
    assert bool(out.strip()) == is_terminal


def test_each_step_has_a_bar_and_no_markup(printed: Any) -> None:
    is_terminal, read = printed
    with tokenstore.progress_bar() as bar:
        bar("[bold]one\x07", 1, 2)
        bar("two", 1, 2)
        bar("[bold]one\x07", 2, 2)
    out = read()
    assert ("[bold]one\\x07" in out) == is_terminal
    assert ("two" in out) == is_terminal
    assert "\x07" not in out
