"""Appends of sources: images are converted as the store was, and follow its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.grey_conversions import OPTIONS, stored
from helpers.stores import contents

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import ArgumentError, IncompleteStoreError, StoreError, StoreExistsError
from tokenstore.sources import open_source
from tokenstore.writing import in_place
from tokenstore.writing.editing.new_store import EditedStore


def written(folder: Path) -> Path:
    """Write a store of six images in three classes."""
    write_grey_folder(folder / "images", 2)
    source = open_source(folder / "images")
    convert_source(source, folder / "a", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    return folder / "a"


def append(store: Path, source: Path, **options: object) -> EditedStore:
    return tokenstore.append(store, source, tokenizer=BrightnessTokenizer(), workers=0, **options)  # type: ignore[arg-type]


def test_images_follow_with_the_store_s_size_and_new_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path)
    for number, name in enumerate(("class-1", "zebra", "aardvark")):
        write_grey_image(tmp_path / "more" / name / f"{number}.png", 100 + number)
    steps: list[str] = []
    append(store, tmp_path / "more", on_progress=lambda step, done, total: steps.append(step))
    assert verify(store).problems == []
    found = stored(store)
    assert len(found) == 9
    assert (found["class-1/0.png"], found["zebra/1.png"], found["aardvark/2.png"]) == (
        (100, 1),
        (101, 4),
        (102, 3),
    )
    assert tokenstore.open(store).class_names == ("class-0", "class-1", "class-2", "aardvark", "zebra")
    assert set(steps) == {"train, converting", "train, appending"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images", "more"]
    before = contents(store)
    with pytest.raises(StoreExistsError, match=f"the samples of {tmp_path / 'more'} are in it already"):
        append(store, tmp_path / "more")
    assert contents(store) == before
    monkeypatch.chdir(tmp_path)
    result = append(Path(store.name), tmp_path / "more", again=True)
    assert result.location == store.name  # as it was given, as of other operations
    assert len(tokenstore.open(store)["train"]) == 12


def test_a_conversion_that_fails_goes_on_with_the_next_call(tmp_path: Path) -> None:
    store = written(tmp_path)
    write_grey_folder(tmp_path / "more", 3)
    (tmp_path / "more/class-0/000.png").write_bytes(b"")
    before = contents(store)
    with pytest.raises(tokenstore.TokenstoreError, match="cannot be read"):
        append(store, tmp_path / "more")
    assert contents(store) == before
    append(store, tmp_path / "more", on_error="skip")
    assert len(tokenstore.open(store)["train"]) == 14
    assert tokenstore.open(store).manifest.splits["train"].skipped == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images", "more"]


def test_ready_codes_follow_ready_codes(tmp_path: Path) -> None:
    codes = np.arange(40, dtype=np.int64).reshape(10, 2, 2) % 17
    np.save(tmp_path / "one.npy", codes[:6])
    np.save(tmp_path / "two.npy", codes[6:] % 5)
    options = {"tokenizer_name": "vq", "codebook_size": 17}
    tokenstore.convert(tmp_path / "one.npy", tmp_path / "a", **options)
    tokenstore.append(tmp_path / "a", tmp_path / "two.npy")
    opened = tokenstore.open(tmp_path / "a")
    np.testing.assert_array_equal(opened[opened.splits[0]][:], [*codes[:6], *(codes[6:] % 5)])


def test_another_tokenizer_and_options_without_use_are_refused(tmp_path: Path) -> None:
    store = written(tmp_path)
    with pytest.raises(StoreError, match="expected stores of one tokenizer"):
        tokenstore.append(store, tmp_path / "images", tokenizer="default", image_size=16, workers=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images"]
    tokenstore.copy(store, tmp_path / "b")
    with pytest.raises(ArgumentError, match="labels: expected no options of a conversion"):
        tokenstore.append(store, tmp_path / "b", labels="x.csv")


def test_an_append_that_was_killed_between_two_renames_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plain = written(tmp_path), in_place.rename
    write_grey_folder(tmp_path / "more", 3)
    calls: list[object] = []

    def killed(*paths: object) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        plain(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(in_place, "exchange", lambda *_: False)
    with monkeypatch.context() as patched:
        patched.setattr(in_place, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            append(store, tmp_path / "more")
    assert not store.exists()
    with pytest.raises(IncompleteStoreError, match="or repeat what was interrupted, which ends the change"):
        tokenstore.open(store)
    assert append(store, tmp_path / "more").already_complete  # type: ignore[attr-defined]
    assert len(tokenstore.open(store)["train"]) == 15
    assert verify(store).problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "images", "more"]
