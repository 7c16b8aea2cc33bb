"""The entry points of other packages: read once, and again when a package comes or goes."""

from __future__ import annotations

import itertools
import os
import shutil
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import Mock

import pytest

from tokenstore import plugins as module
from tokenstore.plugins import plugins

GROUP = "tokenstore.plugins.of.a.test"


_seconds = itertools.count(1)


def changed(site: Path) -> None:
    """Give a folder a time of its own, since two changes may come within one tick of the file system."""
    os.utime(site, (next(_seconds),) * 2)


def install(site: Path, name: str) -> Path:
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = a.module:Name\n")
    changed(site)
    return folder


def test_what_is_declared_is_read_once_until_a_package_comes_or_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    read = Mock(side_effect=entry_points)
    monkeypatch.setattr(module, "entry_points", read)
    assert plugins(GROUP) == {}
    folder = install(tmp_path, "one")
    assert plugins(GROUP)["one"].value == "a.module:Name"
    count = read.call_count
    assert list(plugins(GROUP)) == ["one"]
    assert read.call_count == count == 2
    install(tmp_path, "two")
    assert sorted(plugins(GROUP)) == ["one", "two"]
    shutil.rmtree(folder)
    changed(tmp_path)
    assert list(plugins(GROUP)) == ["two"]


def test_what_is_declared_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(TypeError):
        plugins(GROUP)["other"] = Mock()  # type: ignore[index]


def test_a_path_that_is_no_folder_has_no_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path / "missing"), ""])
    monkeypatch.chdir(tmp_path)
    assert plugins(GROUP) == {}
    install(tmp_path, "here")
    assert list(plugins(GROUP)) == ["here"]
