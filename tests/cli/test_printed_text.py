"""Names out of files on the terminal: no control sequence, no markup and no faked line gets there."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.image_folders import fill
from helpers.paths import ROOT
from helpers.stores import edit_root, random_codes, write_store
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table
from tokenstore_cli.main import cli
from tokenstore_cli.progress import progress_bar
from tokenstore_cli.terminal import Terminal

import tokenstore
from tokenstore.audit.preview import captions
from tokenstore.errors import ManifestError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.texts import printable

EVIL = "\x1b[2J\x1b]0;owned\x07[bold]ant[/bold]\n\nok; checked\r\x9b31m\u202e\u2028\ud800:smile:"
PLAIN = "ant"


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def write(path: Path, name: str) -> Path:
    """Write a store whose every free text is `name`."""
    write_store(
        path,
        {"train": (random_codes(6, (2, 2), 5), np.array([0, 1, 0, 1, 0, 1], np.int32))},
        5,
        tokenizer=TokenizerIdentity("test", "ab" * 32),
    )

    def enter(root: dict[str, Any]) -> None:
        values = root["attributes"]["tokenstore"]
        values["tokenizer"] |= {"name": name, "spec": name, "device": name, "dtype": name}
        values |= {"created_by": name, "source_kind": name, "source_location": name, "requires": name}
        values["class_names"] = [f"{name}0", f"{name}1"]
        values["preprocessing"] = {"height": 8, "width": 8, "resize": name, "filter": name}

    edit_root(path, enter)
    return path


def another_split(store: Path) -> None:
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["splits"].update({EVIL: {}}))


def another_feature(store: Path) -> None:
    edit_root(store, lambda root: root["attributes"]["tokenstore"].update(features=["bitpack", EVIL]))


@pytest.mark.parametrize(
    ("words", "damage"),
    [
        (("info",), None),
        (("stats",), None),
        (("verify",), another_feature),
        (("info",), another_split),
        (("preview", "-o", "sheet.png"), None),
        (("verify", "--retokenize", "1"), None),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_what_a_store_says_of_itself_takes_its_own_lines_and_is_printable(
    tmp_path: Path, words: tuple[str, ...], damage: Callable[[Path], None] | None
) -> None:
    printed = []
    for name in (EVIL, PLAIN):
        store = write(tmp_path / f"{len(name)}", name)
        if damage is not None:
            damage(store)
        command, *options = words
        printed.append(run(command, store, *options).output)
    evil, plain = printed
    assert all(line.isprintable() for line in evil.splitlines())
    assert len(evil.splitlines()) == len(plain.splitlines())
    assert "ant" in evil
    assert "Traceback" not in evil


@pytest.mark.usefixtures("brightness_by_name")
def test_what_a_conversion_says_of_its_source_is_printable(tmp_path: Path) -> None:
    name = EVIL.replace("/", "").replace("\ud800", "")
    fill(tmp_path / "images", f"{name}/a.jpg", f"{name}/b.jpg", "bee/a.jpg")
    (tmp_path / "images" / name / f"{name}.jpg").write_bytes(b"no image")
    options = ["--tokenizer", "brightness", "--workers", "0", "--on-error", "skip", "--image-size", "64"]
    result = run("convert", tmp_path / "images", tmp_path / "store", *options)
    assert result.exit_code == 0, result.output
    assert all(line.isprintable() for line in result.output.splitlines())
    assert "skipped" in result.output
    assert r"\x1b[2J" in result.output
    (tmp_path / "empty" / name).mkdir(parents=True)
    refused = run("convert", tmp_path / "empty", tmp_path / "other", *options)
    assert refused.exit_code == 1
    assert all(line.isprintable() for line in refused.output.splitlines())


def test_captions_of_a_sheet_are_printable(tmp_path: Path) -> None:
    store = tokenstore.open(write(tmp_path / "store", EVIL))
    for caption in captions(store, store["train"], np.arange(6)):
        assert caption.isprintable()


@pytest.mark.parametrize(
    "name", ["", "a b", "-x", "a/b", "..", "ä", "a\n", EVIL, "a" * 10 + "\x1b"], ids=repr
)
def test_a_split_whose_name_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    store = write(tmp_path / "store", PLAIN)
    edit_root(
        store,
        lambda root: root["attributes"]["tokenstore"]["splits"].update(
            {name: {"samples": 0, "skipped": 0, "source_bytes": None}}
        ),
    )
    with pytest.raises(ManifestError, match="expected a name of letters, digits, _ and -") as refused:
        tokenstore.open(store)
    assert str(refused.value).isprintable()


@given(st.text())
def test_any_text_becomes_one_printable_line_and_plain_text_stays(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert all(
        char.isprintable() or char in "\u00a0\u1680\u2007\u202f\u205f\u3000" or char.isspace()
        for char in shown
    )
    assert "\x1b" not in shown
    if text.isprintable():
        assert shown == text
    shown.encode()  # no lone surrogate is left


def test_tables_and_bars_print_names_as_they_are() -> None:
    file = io.StringIO()
    table = Table(EVIL)
    table.add_row(EVIL)
    Terminal(file=file, width=200).print(table)
    with progress_bar("samples", quiet=True) as quiet:
        bar = Progress(*quiet.columns, console=Terminal(file=file, width=200), transient=False)
        bar.add_task(EVIL, total=3, note=EVIL)
        bar.refresh()
        Terminal(file=file, width=200).print(bar)
    shown = file.getvalue()
    assert r"\x1b[2J" in shown
    assert "[bold]ant[/bold]" in shown
    assert ":smile:" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_commands_print_through_one_place() -> None:
    for file in (ROOT / "cli").rglob("*.py"):
        if file.name in ("console.py", "terminal.py", "completion.py"):
            continue
        text = file.read_text()
        assert not re.search(
            r"click\.s?echo\(|\bprint\((?!\))|\bConsole\(", re.sub(r"\.print\(", "", text)
        ), file
