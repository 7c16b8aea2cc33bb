"""Conversions that stop anywhere resume to the same bytes, and never overwrite another's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.stores import contents
from helpers.tar_files import write_tar

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion import assembly
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import (
    ConversionError,
    IncompleteStoreError,
    StoreExistsError,
    TokenstoreError,
)
from tokenstore.sources import listings, open_source
from tokenstore.storage.local import LocalFolder
from tokenstore.writing import journal


class StopAfter:
    """A progress callback that raises when the conversion has dealt with so many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __call__(self, state: Progress) -> None:
        if state.done >= self.samples:
            raise StoppedError


@pytest.mark.parametrize("out", ["out.zarr", "out.zip"])
def test_a_conversion_stopped_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 2)
    monkeypatch.setattr(assembly, "SAVE_SECONDS", 0.0)
    write_grey_folder(tmp_path / "images", 9)
    for name in ("class-0/000.png", "class-0/007.png", "class-1/006.png", "class-2/008.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    source = open_source(tmp_path / "images")
    options = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3, on_error="skip")
    whole = tmp_path / "whole" / out
    whole.parent.mkdir()
    convert_source(source, whole, tokenizer=BrightnessTokenizer(), options=options)
    for stop in range(1, 28):
        broken = tmp_path / f"{stop}" / out
        broken.parent.mkdir()
        with pytest.raises(StoppedError):
            convert_source(
                source, broken, tokenizer=BrightnessTokenizer(), options=options, on_progress=StopAfter(stop)
            )
        with pytest.raises(IncompleteStoreError):
            tokenstore.open(broken)
        tokenizer = BrightnessTokenizer()
        convert_source(source, broken, tokenizer=tokenizer, options=options, resume=True)
        assert sum(tokenizer.batches) <= 23 - (stop - 8) * (stop > 8), "resuming did the work again"
        assert contents(broken.parent) == contents(whole.parent)


class _FailingStorage:
    """A storage that raises at the n-th change of the disk, once, and lets all others pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.error = error
        self.left = 0
        for name in ("write", "write_ahead", "create", "remove", "move_into_place"):
            monkeypatch.setattr(LocalFolder, name, self.wrapped(getattr(LocalFolder, name)))
        monkeypatch.setattr(journal, "append_file", self.wrapped(journal.append_file))

    def wrapped(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise self.error
            function(*args)

        return call


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize(
    ("per_class", "prune", "step"),
    [
        (8, False, 3),
        (8, True, 7),
        pytest.param(8, False, 1, marks=pytest.mark.thorough),
        pytest.param(9, False, 1, marks=pytest.mark.thorough),
        pytest.param(8, True, 3, marks=pytest.mark.thorough),
    ],
)
def test_an_error_at_any_change_of_the_disk_can_be_resumed_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    per_class: int,
    prune: bool,
    step: int,
) -> None:
    write_grey_folder(tmp_path / "images", per_class)
    (tmp_path / "images" / "class-1" / "003.png").write_bytes(b"")
    source = open_source(tmp_path / "images")
    options = replace(OPTIONS, on_error="skip", prune_codebook=prune)
    convert_source(source, tmp_path / "whole", tokenizer=BrightnessTokenizer(), options=options)
    expected = contents(tmp_path / "whole")
    failing = _FailingStorage(monkeypatch, error)
    for operation in range(1, 400, step):
        out = tmp_path / f"{operation}"
        failing.left = operation
        try:
            convert_source(source, out, tokenizer=BrightnessTokenizer(), options=options)
        except type(error):
            convert_source(source, out, tokenizer=BrightnessTokenizer(), options=options, resume=True)
            assert contents(out) == expected, f"failed at change {operation}"
        else:
            break
    assert operation > 20


def test_resuming_a_complete_store_changes_nothing(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / ".partial").mkdir()
    (tmp_path / "out" / ".partial" / "left-over").write_bytes(b"")
    again = convert_source(
        source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True
    )
    assert again.already_complete
    assert contents(tmp_path / "out") == before


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    with pytest.raises(StoreExistsError, match="already there"):
        convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("important")
    for resume in (False, True):
        with pytest.raises(StoreExistsError, match="already there"):
            convert_source(
                source, tmp_path / "thesis", tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=resume
            )
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "important"
    with pytest.raises(StoppedError):
        convert_source(
            source,
            tmp_path / "begun",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            on_progress=StopAfter(1),
        )
    with pytest.raises(StoreExistsError, match="resume=True"):
        convert_source(source, tmp_path / "begun", tokenizer=BrightnessTokenizer(), options=OPTIONS)


def test_resuming_with_other_inputs_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    with pytest.raises(StoppedError):
        convert_source(
            source,
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            on_progress=StopAfter(9),
        )
    other = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, resize="crop")
    with pytest.raises(ConversionError, match="resize was 'squash', is now 'crop'"):
        convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=other, resume=True)
    write_grey_image(tmp_path / "images" / "class-0" / "new.png", 3)
    with pytest.raises(ConversionError, match="source was"):
        convert_source(
            open_source(tmp_path / "images"),
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            resume=True,
        )


def test_what_to_do_with_bad_images_may_change_when_resuming(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    (tmp_path / "images" / "class-2" / "000.png").write_bytes(b"")
    source = open_source(tmp_path / "images")
    with pytest.raises(ConversionError, match="on_error='skip', and go on with resume=True") as caught:
        convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert caught.value.skipped == (("class-2/000.png", "the file is empty"),)
    skipping = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3, on_error="skip")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=skipping, resume=True)
    assert len(tokenstore.open(tmp_path / "out")["train"]) == 26


def test_files_that_are_not_the_stores_are_left_alone(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        convert_source(
            source, out, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=StopAfter(27)
        )
    mine = [out / "notes.txt", out / ".partialfoo", out / "train" / "mine.txt"]
    for path in mine:
        path.write_text("mine")
    resumed = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3)
    with pytest.raises(StoreExistsError):
        convert_source(source, out, tokenizer=BrightnessTokenizer(), options=resumed)
    convert_source(source, out, tokenizer=BrightnessTokenizer(), options=resumed, resume=True)
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert verify(str(out)).problems == []
    assert "3 files are not the store's" in verify(str(out)).notes[0]


def test_resuming_never_removes_what_it_cannot_show_to_be_its_own(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    packed = tmp_path / "out.zip"
    with pytest.raises(StoppedError):
        convert_source(
            source, packed, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=StopAfter(20)
        )
    packed.write_bytes(b"another file")
    before = contents(tmp_path / "out.zip.partial")
    with pytest.raises(TokenstoreError):
        convert_source(source, packed, tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True)
    assert contents(tmp_path / "out.zip.partial") == before
    foreign = tmp_path / "foreign"
    (foreign / ".partial").mkdir(parents=True)
    (foreign / ".partial" / "x").write_text("x")
    (foreign / "zarr.json").write_text("{}")
    with pytest.raises(TokenstoreError):
        convert_source(source, foreign, tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True)
    assert (foreign / ".partial" / "x").read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="locks are posix's")
def test_two_conversions_cannot_write_one_store(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")

    def begin_another(state: Progress) -> None:
        convert_source(
            source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True
        )

    with pytest.raises(ConversionError, match="another process"):
        convert_source(
            source,
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            on_progress=begin_another,
        )


@pytest.mark.skipif(os.name != "posix", reason="locks are posix's")
def test_no_listing_is_saved_where_another_process_is_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_FEWEST_ROWS", 1)
    write_grey_folder(tmp_path / "images", 9)
    images = {f"{path.stem}.png": path.read_bytes() for path in (tmp_path / "images/class-0").iterdir()}
    tar = write_tar(tmp_path / "train.tar", images)

    def begin_another(state: Progress) -> None:
        with pytest.raises(ConversionError, match="another process"):
            tokenstore.convert(tar, tmp_path / "out", tokenizer=BrightnessTokenizer(), resume=True)
        assert not (tmp_path / "out/.partial/.listings").exists()

    convert_source(
        open_source(tar),
        tmp_path / "out",
        tokenizer=BrightnessTokenizer(),
        options=OPTIONS,
        on_progress=begin_another,
    )
    # with nobody there, one is saved, and goes with the conversion
    tokenstore.convert(tar, tmp_path / "other", tokenizer=BrightnessTokenizer(), image_size=8)
    assert not (tmp_path / "other/.partial").exists()
    assert not list(tmp_path.glob(".*.lock"))


def test_a_store_can_be_written_to_any_fsspec_url(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 5)
    source = open_source(tmp_path / "images")
    url = f"memory://{tmp_path.name}/out.zarr"
    with pytest.raises(StoppedError):
        convert_source(
            source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=StopAfter(12)
        )
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(url)
    convert_source(source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True)
    convert_source(source, tmp_path / "local", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert np.array_equal(tokenstore.open(url)["train"][:], tokenstore.open(tmp_path / "local")["train"][:])
    assert verify(url).problems == []
    assert verify(url).notes == []


class _OnAnotherDevice(BrightnessTokenizer):
    device = torch.device("meta")
    dtype = torch.float16


def test_where_arithmetic_may_change_a_code_the_store_names_it_and_resuming_keeps_to_it(
    tmp_path: Path,
) -> None:
    write_grey_folder(tmp_path / "images", 4)
    source = open_source(tmp_path / "images")
    with pytest.raises(StoppedError):
        convert_source(
            source,
            tmp_path / "out",
            tokenizer=_OnAnotherDevice(),
            options=replace(OPTIONS, shard_samples=4),
            on_progress=StopAfter(1),
        )
    with pytest.raises(ConversionError, match=r"computed was .*meta.*float16"):
        convert_source(
            source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True
        )
    convert_source(source, tmp_path / "other", tokenizer=_OnAnotherDevice(), options=OPTIONS)
    made = tokenstore.open(tmp_path / "other").manifest.tokenizer
    assert (made.device, made.dtype) == ("meta", "float16")
    convert_source(source, tmp_path / "exact", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    exact = tokenstore.open(tmp_path / "exact").manifest.tokenizer
    assert (exact.device, exact.dtype) == (None, None)
    assert exact == made, "the device is no part of a tokenizer's identity"
