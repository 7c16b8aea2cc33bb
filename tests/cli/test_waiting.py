"""The line on a terminal while a command is silent, its last line, hints of what to do next, and rates."""

from __future__ import annotations

import io
import re
import subprocess
import time
from contextlib import redirect_stderr

import pytest
from helpers.waiting import wait_until
from rich.table import Table
from tokenstore_cli import terminal as console
from tokenstore_cli import waiting as module
from tokenstore_cli.console import echo, echo_facts, finished, hint, hint_commands, human_rate, wrapped
from tokenstore_cli.progress import step_bars
from tokenstore_cli.waiting import waiting

from tokenstore.texts import human_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def unstyled(text: str) -> str:
    """Return what a terminal shows of lines in colours."""
    return re.sub(r"\x1b\[\d*m", "", text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Give what stderr, a terminal, gets; the line is shown at once."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    return Terminal()


def test_a_silent_command_says_that_it_works_until_it_ends(terminal: Terminal) -> None:
    with redirect_stderr(terminal), waiting("tokenstore convert"):
        wait_until(lambda: "tokenstore convert ... " in terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_cursor_is_left_where_a_library_that_prints_covers_the_line(terminal: Terminal) -> None:
    with redirect_stderr(terminal), waiting("tokenstore convert"):
        wait_until(lambda: terminal.getvalue().endswith(" s\r"))


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


def test_the_line_stays_until_a_step_of_the_work_has_begun(terminal: Terminal) -> None:
    with redirect_stderr(terminal), waiting("tokenstore relabel"), step_bars() as on_progress:
        before = len(terminal.getvalue())
        wait_until(lambda: "tokenstore relabel ... " in terminal.getvalue()[before:])
        on_progress("keeping files", 1, 2)
        assert "..." not in terminal.getvalue().rpartition("\r\x1b[K")[2]


def test_a_last_line_says_where_what_and_how_long_and_hints_are_commands_to_copy(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 303.0)
    with redirect_stderr(terminal):
        finished(
            "my photos.zarr", "1 file, 2.34 kB", 3.0, ("tokenstore", "verify", "my photos.zarr"), ("ls",)
        )
    assert capsys.readouterr().out == "my photos.zarr: 1 file, 2.34 kB; 5.0 minutes\n"
    assert "next: tokenstore verify 'my photos.zarr'\n      ls\n" in unstyled(terminal.getvalue())


def test_a_hint_that_is_longer_than_the_terminal_is_still_the_same_command_to_a_shell(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = [
        "echo",
        "convert",
        "my photos",
        "OUT",
        "--tokenizer",
        "conv-vq:a/long/folder/weights.safetensors",
    ]
    with redirect_stderr(terminal):
        hint_commands(words, ("true",))
    shown = unstyled(terminal.getvalue())
    assert shown == (
        "next: echo convert 'my photos' OUT \\\n"
        "        --tokenizer \\\n"
        "        conv-vq:a/long/folder/weights.safetensors\n"
        "      true\n"
    )
    pasted = subprocess.run(["sh", "-c", shown.removeprefix("next: ")], capture_output=True, text=True)
    assert pasted.stdout == f"{' '.join(words[1:])}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (119.9, "119.9 s"), (120, "2.0 minutes"), (7200, "2.0 hours"), (200_000, "2.3 days")],
)
def test_a_time_is_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_lines_break_between_words_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    line = "  the store /a/path/that/does/not/fit has two"
    assert wrapped(line, Terminal()) == "  the store\n    /a/path/that/does/not/fit\n    has two"
    assert wrapped("short", Terminal()) == "short"
    assert wrapped("store: 600 kB; 123 s, 12.5 %", Terminal()) == "store: 600 kB;\n  123 s, 12.5 %"
    assert wrapped("all 20 columns, 100 kB", Terminal()) == "all 20 columns,\n  100 kB"
    echo(line)
    echo_facts({"a": "b " * 20, "long": "c"})
    table = Table("name", box=None, show_header=False)
    table.add_row("word " * 20)
    console.Terminal().print(table)
    printed = [text.strip() for text in capsys.readouterr().out.splitlines()]
    assert printed == [line.strip(), f"a     {'b ' * 20}".strip(), "long  c", ("word " * 20).strip()]
