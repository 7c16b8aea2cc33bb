"""kill -9 at any file operation of an operation on stores: the old store or the new one, never neither."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.crash_runs import conversions as conversions
from helpers.crash_runs import run
from helpers.grey_conversions import OPTIONS
from helpers.stores import contents

import tokenstore
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import IncompleteStoreError, NotAStoreError
from tokenstore.sources import open_source

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images, and stores of 12 and of 15 of them in shards of 8 samples."""
    folder = tmp_path_factory.mktemp("stores")
    for name, count in (("one", 4), ("two", 5)):
        write_grey_folder(folder / f"images/{name}", count)
        source = open_source(folder / f"images/{name}")
        convert_source(source, folder / "stores" / name, tokenizer=BrightnessTokenizer(), options=OPTIONS)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder but locks, which a killed process leaves."""
    return {path: data for path, data in contents(folder).items() if not path.endswith(".lock")}


def digest(path: Path) -> str:
    """Return the root digest of a store, all of whose samples are read."""
    opened = tokenstore.open(path)
    for split in opened.splits:
        assert opened[split][:].shape[1:] == (2, 2)
        assert opened[split].labels is not None
        assert len(opened[split].samples_table()) == len(opened[split])
    return opened.files.root_digest


@pytest.mark.parametrize(
    ("action", "source", "step"),
    [
        ("relabel", "stores/one", 13),
        ("append", "stores/two", 13),
        ("append-images", "images/two", 41),
        pytest.param("relabel", "stores/one", 1, marks=pytest.mark.thorough),
        pytest.param("append", "stores/two", 1, marks=pytest.mark.thorough),
        pytest.param("append-images", "images/two", 2, marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("name", ["a.zarr", pytest.param("a.zip", marks=pytest.mark.thorough)])
def test_in_its_place_a_store_is_the_old_or_the_new_one_and_the_next_call_ends_it(
    stores: Path,
    tmp_path: Path,
    name: str,
    action: str,
    source: str,
    step: int,
    conversions: subprocess.Popen[str],
) -> None:
    old, whole, out = (tmp_path / folder / name for folder in ("old", "whole", "killed"))
    old.parent.mkdir()
    tokenstore.copy(stores / "stores/one", old)
    shutil.copytree(old.parent, whole.parent)
    assert run(conversions, stores / source, whole, 0, action)
    expected, before, after = everything(whole.parent), digest(old), digest(whole)
    assert before != after
    for operation in range(1, 1000, step):
        shutil.copytree(old.parent, out.parent)
        finished = run(conversions, stores / source, out, operation, action)
        found = digest(out)
        assert found in (before, after)
        if found == before or set(everything(out.parent)) != set(expected):
            assert run(conversions, stores / source, out, 0, action)
        assert everything(out.parent) == expected, f"killed at file operation {operation}"
        shutil.rmtree(out.parent)
        if finished:
            break
    assert finished
    assert operation > 20


@pytest.mark.parametrize(
    ("action", "source", "step"),
    [
        ("select", "stores/two", 19),
        ("merge", "stores", 23),
        pytest.param("select", "stores/two", 1, marks=pytest.mark.thorough),
        pytest.param("merge", "stores", 1, marks=pytest.mark.thorough),
    ],
)
def test_a_new_store_is_whole_or_goes_on_and_its_sources_stay(
    stores: Path, tmp_path: Path, action: str, source: str, step: int, conversions: subprocess.Popen[str]
) -> None:
    whole, out = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    whole.parent.mkdir()
    before = contents(stores)
    assert run(conversions, stores / source, whole, 0, action)
    expected = everything(whole.parent)
    for operation in range(1, 1000, step):
        out.parent.mkdir()
        finished = run(conversions, stores / source, out, operation, action)
        try:
            assert digest(out) == digest(whole)
        except (IncompleteStoreError, NotAStoreError):
            assert not finished
        assert run(conversions, stores / source, out, 0, action)
        assert everything(out.parent) == expected, f"killed at file operation {operation}"
        shutil.rmtree(out.parent)
        if finished:
            break
    assert finished
    assert operation > 20
    assert contents(stores) == before


def test_images_are_appended_behind_the_samples_of_a_store(
    stores: Path, tmp_path: Path, conversions: subprocess.Popen[str]
) -> None:
    tokenstore.copy(stores / "stores/one", tmp_path / "a")
    assert run(conversions, stores / "images/two", tmp_path / "a", 0, "append-images")
    codes = [tokenstore.open(stores / f"stores/{name}")["train"][:] for name in ("one", "two")]
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "a")["train"][:], np.concatenate(codes))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
