"""Lines on a terminal: above a bar that moves, and errors that break between words."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout

import click
import pytest
from tokenstore_cli import progress
from tokenstore_cli.console import echo, hint
from tokenstore_cli.main import cli
from tokenstore_cli.terminal import Terminal

ERASED = "\r\x1b[2K"
"""The sequence that takes a bar of one line off the terminal."""


class Screen:
    """A terminal of 60 columns."""

    def __init__(self) -> None:
        self._reading, writing = pty.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
        self.file = os.fdopen(writing, "w")

    def shown(self) -> str:
        """Return all that was written to the terminal, which is closed."""
        self.file.flush()
        os.set_blocking(self._reading, False)
        parts = []
        while True:
            try:
                parts.append(os.read(self._reading, 2**16))
            except BlockingIOError:
                return b"".join(parts).decode()

    def close(self) -> None:
        self.file.close()
        os.close(self._reading)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """Give a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with closing(Screen()) as screen:
        yield screen


def test_lines_stand_above_a_bar_that_moves(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stderr(screen.file), redirect_stdout(screen.file):
        monkeypatch.setattr(progress, "err", Terminal(stderr=True))
        with progress.progress_bar("steps") as bar:
            task = bar.add_task("training", total=3, note="")
            bar.update(task, completed=1)
            bar.refresh()
            echo("step 1: evaluated")
            echo("a note", err=True)
            hint("tokenstore info")
    shown = screen.shown()
    for line in ("step 1: evaluated", "a note", "\x1b[2mnext: tokenstore info"):
        assert f"{ERASED}{line}" in shown


def test_what_goes_to_a_file_goes_there_while_a_bar_moves(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with redirect_stderr(screen.file):
        monkeypatch.setattr(progress, "err", Terminal(stderr=True))
        with progress.progress_bar("steps") as bar:
            bar.add_task("training", total=3, note="")
            echo("step 1: evaluated")
            print("of a library")
    assert capsys.readouterr().out == "step 1: evaluated\nof a library\n"
    assert "library" not in screen.shown()


WRONG = {
    "a typo": ["train-tokenizer", ".", "--out", "x", "--evaluate-every", "3"],
    "a wrong value": ["convert", ".", "x", "--on-error", "neither of the two that are known"],
    "a store that is none": ["info", "/a/folder/of/quite/some/length/that/is/not/there"],
}


def refused(words: Sequence[str]) -> click.ClickException:
    with pytest.raises(click.ClickException) as raised:
        cli.main(words, standalone_mode=False)
    return raised.value


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_an_error_breaks_between_words_and_only_on_a_terminal(words: list[str], screen: Screen) -> None:
    elsewhere = refused(words)
    with redirect_stderr(screen.file):
        here = refused(words)
    assert here.exit_code == elsewhere.exit_code
    assert isinstance(here, click.UsageError) == isinstance(elsewhere, click.UsageError)
    assert "\n" not in elsewhere.format_message()
    text = f"Error: {here.format_message()}"
    assert text.split() == f"Error: {elsewhere.format_message()}".split()
    assert len(text.splitlines()) > 1
    assert all(len(line) <= 60 for line in text.splitlines())
