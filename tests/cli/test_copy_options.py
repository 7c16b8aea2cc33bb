"""Options of remote storage go to the places that are remote, and are refused where none is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import ArgumentError
from tokenstore.reading import open as opening


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "store.zarr", {"train": (random_codes(3, (2, 2), 16),)}, 16)
    return tmp_path / "store.zarr"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Note the places that are opened with options, and open them without: no option here is a real one."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ("open_storage", "open_store"):
        plain: Callable[..., Any] = getattr(opening, name)

        def note(
            place: Any, given: Any = None, *, plain: Callable[..., Any] = plain, storage_options: Any = None
        ) -> Any:
            options = given or storage_options
            if options and opening.is_remote(place):
                calls.append((str(place), options))
                options = None
            return plain(place, storage_options=options)

        monkeypatch.setattr(opening, name, note)
    return calls


MEMORY = "memory://copied-with-options/b.zarr"


@pytest.mark.parametrize("option", ["storage_options", "target_storage_options"])
def test_options_of_a_copy_go_to_a_remote_target(
    store: Path, opened: list[tuple[str, dict[str, Any]]], option: str
) -> None:
    for words in (store, tokenstore.open(store)):
        opened.clear()
        target = f"{MEMORY}/{option}/{type(words).__name__}"
        tokenstore.copy(words, target, **{option: {"key": 1}})  # type: ignore[arg-type]
        assert opened == [(target, {"key": 1})]


def test_options_of_a_copy_go_to_a_remote_source(
    store: Path, tmp_path: Path, opened: list[tuple[str, dict[str, Any]]]
) -> None:
    source = f"{MEMORY}/source"
    tokenstore.copy(store, source)
    tokenstore.copy(source, tmp_path / "b.zarr", storage_options={"key": 1})
    tokenstore.copy(source, f"{MEMORY}/c", storage_options={"key": 2}, target_storage_options={"key": 3})
    assert opened == [(source, {"key": 1}), (source, {"key": 2}), (f"{MEMORY}/c", {"key": 3})]


def test_options_of_a_recoding_go_to_whichever_place_is_remote(
    store: Path, tmp_path: Path, opened: list[tuple[str, dict[str, Any]]]
) -> None:
    there = f"{MEMORY}/recoded"
    tokenstore.recode(store, there, codec="zstd", storage_options={"key": 1})
    tokenstore.recode(there, tmp_path / "back.zarr", codec="bitpack", storage_options={"key": 2})
    assert opened == [(there, {"key": 1}), (there, {"key": 2})]


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda store: tokenstore.open(store, storage_options={"a": 1}), "storage_options"),
        (lambda store: tokenstore.TokenDataset(store, storage_options={"a": 1}), "storage_options"),
        (lambda store: tokenstore.info(tokenstore.open(store), storage_options={"a": 1}), "storage_options"),
        (lambda store: tokenstore.copy(store, f"{store}.zip", storage_options={"a": 1}), "storage_options"),
        (
            lambda store: tokenstore.copy(MEMORY, f"{store}.zip", target_storage_options={"a": 1}),
            "target_storage_options",
        ),
        (
            lambda store: tokenstore.copy(
                store, MEMORY, storage_options={"a": 1}, target_storage_options={"a": 1}
            ),
            "storage_options",
        ),
        (lambda store: tokenstore.recode(store, f"{store}.zip", storage_options={"a": 1}), "storage_options"),
    ],
    ids=["open", "dataset", "open store", "copy", "copy to", "copy both", "recode"],
)
def test_options_that_no_place_has_a_use_for_are_refused(
    store: Path, call: Callable[[Path], Any], option: str
) -> None:
    with pytest.raises(ArgumentError, match=rf"^{option}=... has no use: expected the URL") as refused:
        call(store)
    assert [parameter.name for parameter in refused.value.parameters] == [option]


def test_the_command_names_its_option(store: Path, tmp_path: Path) -> None:
    words = ["copy", str(store), str(tmp_path / "b.zarr"), "--target-storage-options", json.dumps({"a": 1})]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2, done.output
    assert "--target-storage-options has no use" in done.output
