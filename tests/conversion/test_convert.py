"""Conversion: what goes in comes out, in order, with its own label, whatever happens on the way."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import PATCH, BrightnessTokenizer, write_grey_folder, write_grey_image
from PIL import Image

import tokenstore
from tokenstore.audit.stats import stats
from tokenstore.audit.verify import verify
from tokenstore.conversion import images as image_conversion
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import (
    ConversionError,
    IncompleteStoreError,
    ManifestError,
    SourceError,
    StoreError,
    StoreExistsError,
    TokenizerError,
    TokenstoreError,
)
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.tables import Column
from tokenstore.sources import open_source
from tokenstore.storage.local import LocalFolder
from tokenstore.writing.spec import MAX_SHARD_SAMPLES, SHARD_NBYTES, StoreSpec

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stored(path: Path, split: str = "train") -> dict[str, tuple[int, int]]:
    """Source name -> (level, label) as the store has them."""
    reader = tokenstore.open(path)[split]
    tokens = reader[:]
    assert (tokens == tokens[:, :1, :1]).all()
    names = reader.samples_table()["source"].to_pylist()
    assert reader.labels is not None
    return dict(zip(names, zip(tokens[:, 0, 0].tolist(), reader.labels.tolist(), strict=True), strict=True))


def test_every_image_becomes_its_codes_with_its_label_and_name(tmp_path: Path) -> None:
    expected = write_grey_folder(tmp_path / "images", 7)
    conversion = convert_source(
        open_source(tmp_path / "images"), tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS
    )
    assert stored(tmp_path / "out") == expected
    assert conversion.manifest.class_names == ("class-0", "class-1", "class-2")
    assert verify(str(tmp_path / "out")).problems == []
    table = tokenstore.open(tmp_path / "out")["train"].samples_table()
    assert table["label_name"].to_pylist()[::7] == ["class-0", "class-1", "class-2"]
    assert set(table["width"].to_pylist()) == {20}
    sizes = [(tmp_path / "images" / name).stat().st_size for name in table["source"].to_pylist()]
    assert table["source_bytes"].to_pylist() == sizes
    assert conversion.manifest.splits["train"].source_bytes == sum(sizes)


def test_decode_processes_and_this_process_give_the_same_bytes(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 15)
    source = open_source(tmp_path / "images")
    for workers, out in ((0, "alone"), (2, "workers")):
        options = ConvertOptions(workers=workers, chunk_samples=4, shard_samples=8)
        convert_source(source, tmp_path / out, tokenizer=BrightnessTokenizer(), options=options)
    assert contents(tmp_path / "alone") == contents(tmp_path / "workers")


def test_batches_never_reach_over_the_end_of_a_shard(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 7)
    tokenizer = BrightnessTokenizer()
    convert_source(open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS)
    assert tokenizer.batches == [3, 3, 2, 3, 3, 2, 3, 2]


@pytest.mark.parametrize("bad", [[0], [20], [7], [8], [0, 1, 2, 3, 4, 5, 6, 7, 8], [6, 7, 8, 15, 16, 19, 20]])
def test_a_bad_image_is_reported_and_never_shifts_a_label(tmp_path: Path, bad: list[int]) -> None:
    expected = write_grey_folder(tmp_path / "images", 7)
    broken = [sorted(expected)[number] for number in bad]
    for name in broken:
        (tmp_path / "images" / name).write_text("this is not an image")
        del expected[name]
    options = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3, on_error="skip")
    source = open_source(tmp_path / "images")
    conversion = convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    assert stored(tmp_path / "out") == expected
    assert [skip.source for skip in conversion.skipped["train"]] == broken
    assert [skip.source_index for skip in conversion.skipped["train"]] == bad
    assert verify(str(tmp_path / "out")).problems == []
    import pyarrow.parquet as pq

    report = pq.read_table(tmp_path / "out" / "train" / "skipped.parquet").to_pylist()
    assert [row["source"] for row in report] == broken
    assert all("not an image" in row["reason"] for row in report)


def test_hostile_images_in_one_folder_each_get_their_own_fate(tmp_path: Path) -> None:
    root = tmp_path / "images"
    expected = write_grey_folder(root, 4)
    png = (root / "class-0" / "000.png").read_bytes()
    bad = {
        "class-0/0001-truncated.png": png[: len(png) // 2],
        "class-0/002-empty.jpg": b"",
        "class-1/0005-text.jpg": b"GET / HTTP/1.1",
        "class-1/9-pickle.png": b"\x80\x04\x95",
    }
    for name, data in bad.items():
        (root / name).write_bytes(data)
    good = {
        "class-0/1x1.png": Image.new("RGB", (1, 1), (100, 100, 100)),
        "class-0/wide.png": Image.new("RGB", (20000, 3), (101, 101, 101)),
        "class-1/grey16.png": Image.fromarray(np.full((9, 9), 102 << 8, np.uint16)),
        "class-1/animated.gif": Image.new("P", (9, 9), 0),
        "class-2/" + "n" * 251 + ".png": Image.new("RGB", (9, 9), (104, 104, 104)),
    }
    for name, image in good.items():
        image.save(root / name)
        expected[name] = (image.convert("RGB").getpixel((0, 0))[0], int(name[6]))  # type: ignore[index]
    expected["class-1/grey16.png"] = (102, 1)
    odd = os.fsencode(root / "class-2") + b"/\xff\xfe.png"
    Path(os.fsdecode(odd)).write_bytes(png)
    expected["class-2/\\xff\\xfe.png"] = (0, 2)
    (root / "class-1" / "loop").symlink_to(root / "class-1", target_is_directory=True)
    conversion = convert_source(
        open_source(root),
        tmp_path / "out",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=2, on_error="skip"),
    )
    assert stored(tmp_path / "out") == expected
    assert {skip.source for skip in conversion.skipped["train"]} == set(bad)


def test_reasons_are_the_same_in_every_run(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    for number, data in enumerate(
        [b"", b"abc", b"\xff\xd8\xff\xe0broken", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]
    ):
        (tmp_path / "images" / "class-0" / f"bad-{number}.jpg").write_bytes(data)
    options = ConvertOptions(workers=0, on_error="skip")
    runs = []
    for out in ("a", "b"):
        source = open_source(tmp_path / "images")
        convert_source(source, tmp_path / out, tokenizer=BrightnessTokenizer(), options=options)
        runs.append(contents(tmp_path / out))
    assert runs[0] == runs[1]
    assert b"0x7" not in runs[0]["train/skipped.parquet"]


def test_more_than_one_percent_of_bad_images_stops_the_conversion_by_default(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 70)
    (tmp_path / "images" / "class-0" / "bad-0.png").write_bytes(b"")
    (tmp_path / "images" / "class-0" / "bad-1.png").write_bytes(b"")
    options = ConvertOptions(workers=0)
    conversion = convert_source(
        open_source(tmp_path / "images"), tmp_path / "fine", tokenizer=BrightnessTokenizer(), options=options
    )
    assert len(conversion.skipped["train"]) == 2
    (tmp_path / "images" / "class-2" / "bad-2.png").write_bytes(b"")
    with pytest.raises(
        ConversionError, match=r"3 samples cannot be read, allowed are 2 \(1 % of 213\).*bad-2\.png.*empty"
    ):
        convert_source(
            open_source(tmp_path / "images"),
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=options,
        )
    with pytest.raises(IncompleteStoreError, match="--resume"):
        tokenstore.open(tmp_path / "out")


def test_on_error_fail_stops_at_the_first_bad_image(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 70)
    (tmp_path / "images" / "class-0" / "bad.png").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"allowed are 0 \(on_error='fail'\)"):
        convert_source(
            open_source(tmp_path / "images"),
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=ConvertOptions(workers=0, on_error="fail"),
        )


def test_a_source_of_bad_images_only_gives_no_store(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "bad.png").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"no sample could be converted.*empty"):
        convert_source(
            open_source(tmp_path / "images"),
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=ConvertOptions(workers=0, on_error="skip"),
        )
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "out")


def test_splits_limit_and_image_size_are_honoured(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images" / "train", 4)
    write_grey_folder(tmp_path / "images" / "val", 2, classes=2)
    source = open_source(tmp_path / "images")
    convert_source(
        source,
        tmp_path / "both",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=0, limit=5, image_size=32),
    )
    both = tokenstore.open(tmp_path / "both")
    assert {name: len(both[name]) for name in both.splits} == {"train": 5, "val": 4}
    assert both.manifest.grid == (4, 4)
    assert both.class_names == ("class-0", "class-1", "class-2")
    convert_source(
        source,
        tmp_path / "val",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=0, splits=("val",)),
    )
    assert tokenstore.open(tmp_path / "val").splits == ("val",)
    with pytest.raises(SourceError, match=r"no split 'test'; it has train, val"):
        convert_source(
            source, tmp_path / "x", tokenizer=BrightnessTokenizer(), options=ConvertOptions(splits=("test",))
        )
    with pytest.raises(TokenizerError, match="multiples of 8"):
        convert_source(
            source, tmp_path / "x", tokenizer=BrightnessTokenizer(), options=ConvertOptions(image_size=30)
        )


class _StoppedError(Exception):
    pass


class _StopAfter:
    """Raises when the conversion has dealt with so many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __call__(self, state: Progress) -> None:
        if state.done >= self.samples:
            raise _StoppedError


@pytest.mark.parametrize("out", ["out.zarr", "out.zip"])
def test_a_conversion_stopped_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 2)
    monkeypatch.setattr(image_conversion, "SAVE_SECONDS", 0.0)
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
        with pytest.raises(_StoppedError):
            convert_source(
                source, broken, tokenizer=BrightnessTokenizer(), options=options, on_progress=_StopAfter(stop)
            )
        with pytest.raises(IncompleteStoreError):
            tokenstore.open(broken)
        tokenizer = BrightnessTokenizer()
        convert_source(source, broken, tokenizer=tokenizer, options=options, resume=True)
        assert sum(tokenizer.batches) <= 23 - (stop - 8) * (stop > 8), "resuming did the work again"
        assert contents(broken.parent) == contents(whole.parent)


class _FailingStorage:
    """Raises at the n-th change of the disk, once, and lets all others pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.error = error
        self.left = 0
        for name in ("write", "remove", "move_into_place"):
            monkeypatch.setattr(LocalFolder, name, self.wrapped(getattr(LocalFolder, name)))

    def wrapped(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise self.error
            function(*args)

        return call


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize(("per_class", "prune"), [(8, False), (9, False), (8, True)])
def test_an_error_at_any_change_of_the_disk_can_be_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, per_class: int, prune: bool
) -> None:
    write_grey_folder(tmp_path / "images", per_class)
    (tmp_path / "images" / "class-1" / "003.png").write_bytes(b"")
    source = open_source(tmp_path / "images")
    options = replace(OPTIONS, on_error="skip", prune_codebook=prune)
    convert_source(source, tmp_path / "whole", tokenizer=BrightnessTokenizer(), options=options)
    expected = contents(tmp_path / "whole")
    failing = _FailingStorage(monkeypatch, error)
    for operation in range(1, 400, 3 if prune else 1):
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
    with pytest.raises(_StoppedError):
        convert_source(
            source,
            tmp_path / "begun",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            on_progress=_StopAfter(1),
        )
    with pytest.raises(StoreExistsError, match="resume=True"):
        convert_source(source, tmp_path / "begun", tokenizer=BrightnessTokenizer(), options=OPTIONS)


def test_resuming_with_other_inputs_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    with pytest.raises(_StoppedError):
        convert_source(
            source,
            tmp_path / "out",
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            on_progress=_StopAfter(9),
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
    with pytest.raises(_StoppedError):
        convert_source(
            source, out, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=_StopAfter(27)
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
    with pytest.raises(_StoppedError):
        convert_source(
            source, packed, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=_StopAfter(20)
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


def test_a_zip_file_is_local_and_may_be_named_by_a_url(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    url = f"file://{tmp_path}/out.zip"
    convert_source(source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert zipfile.is_zipfile(tmp_path / "out.zip")
    assert len(tokenstore.open(url)["train"]) == 6
    with pytest.raises(StoreError, match="zip file can only be written to a local path"):
        convert_source(source, "memory://x/out.zip", tokenizer=BrightnessTokenizer(), options=OPTIONS)


def test_members_of_a_zip_file_may_be_larger_than_its_old_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out.zip", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert len(tokenstore.open(tmp_path / "out.zip")["train"][:]) == 27


def test_shards_are_sized_by_the_widest_of_the_aligned_arrays(tmp_path: Path) -> None:
    spec = StoreSpec(TokenizerIdentity("x"), (4, 4), (300,))
    assert spec.samples_per_shard(10**6) == MAX_SHARD_SAMPLES
    wide = Column(np.dtype(np.uint8), (256, 256))
    assert spec.samples_per_shard(10**6, [wide]) * wide.nbytes == SHARD_NBYTES
    assert spec.samples_per_shard(10) == 64


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


def test_codes_outside_the_codebook_stop_the_conversion(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    tokenizer = BrightnessTokenizer()
    tokenizer.codebook_sizes = (5,)
    tokenizer.codebook = np.zeros((5, 1), np.float32)
    with pytest.raises(TokenizerError, match="from 0 to 4, found"):
        convert_source(
            open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS
        )


class _TwoCodebooks(BrightnessTokenizer):
    """The brightness of each patch, and its upper four bits: codes (2, H, W)."""

    name = "two"
    codebook_sizes = (256, 16)
    codebook = None

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        codes = patches.mean(dim=(1, 3, 5)).round().long()
        return torch.stack([codes, codes // 16], dim=1)


class _ListOfTokens(BrightnessTokenizer):
    """The brightness of the whole image, three times: codes (3,)."""

    name = "list"

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (3,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.float().mean(dim=(1, 2, 3)).round().long()[:, None].expand(-1, 3)


class _VideoGrid(BrightnessTokenizer):
    """An image as a film of one picture that does not move: codes (2, H, W) of one codebook."""

    name = "video"

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        return patches.mean(dim=(1, 3, 5)).round().long()[:, None].expand(-1, 2, -1, -1)


@pytest.mark.parametrize(
    ("tokenizer", "grid"), [(_TwoCodebooks(), (2, 2, 2)), (_ListOfTokens(), (3,)), (_VideoGrid(), (2, 2, 2))]
)
def test_grids_of_any_rank_and_several_codebooks_are_stored(
    tmp_path: Path, tokenizer: BrightnessTokenizer, grid: tuple[int, ...]
) -> None:
    write_grey_folder(tmp_path / "images", 40)
    convert_source(open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS)
    store = tokenstore.open(tmp_path / "out")
    levels = np.arange(120)
    tokens = store["train"][:]
    assert tokens.shape == (120, *grid)
    if tokenizer.name == "two":
        assert np.array_equal(tokens[:, 0, 0, 0], levels)
        assert np.array_equal(tokens[:, 1, 1, 1], levels // 16)
        audited = stats(store).splits["train"].codebooks
        assert [(use.size, use.used) for use in audited] == [(256, 120), (16, 8)]
    else:
        assert (tokens == levels.reshape(-1, *(1 for _ in grid))).all()
    assert store.manifest.codebook_sizes == tokenizer.codebook_sizes
    assert verify(str(tmp_path / "out")).problems == []


def test_images_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 1)
    with pytest.raises(TokenizerError, match="needs a tokenizer"):
        convert_source(open_source(tmp_path / "images"), tmp_path / "out", options=OPTIONS)


@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context", "auto"])
def test_ready_codes_are_stored_as_they_are(tmp_path: Path, codec: str) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 300, (50, 2, 3)).astype(np.uint16)
    masks = rng.integers(0, 5, (50, 4, 4)).astype(np.uint8)
    labels = rng.integers(0, 4, 50)
    np.savez(tmp_path / "a.npz", tokens=codes, labels=labels, masks=masks)
    options = ConvertOptions(codec=codec, chunk_samples=8, shard_samples=16)
    convert_source(open_source(tmp_path / "a.npz"), tmp_path / "out", options=options)
    reader = tokenstore.open(tmp_path / "out")["train"]
    assert np.array_equal(reader[:], codes)
    assert np.array_equal(reader.read("masks", np.arange(50)), masks)
    assert np.array_equal(reader.labels, labels)
    assert reader.store.manifest.codebook_sizes == (int(codes.max()) + 1,)
    assert verify(str(tmp_path / "out")).problems == []


def test_a_codebook_file_goes_into_the_store_with_its_fingerprint(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.save(tmp_path / "codebook.npy", vectors)
    np.save(tmp_path / "codes.npy", np.arange(12, dtype=np.uint8).reshape(4, 3))
    convert_source(open_source(tmp_path / "codes.npy"), tmp_path / "out", codebook=tmp_path / "codebook.npy")
    store = tokenstore.open(tmp_path / "out")
    assert np.array_equal(store.codebook, vectors)
    assert store.manifest.codebook_sizes == (20,)
    assert store.manifest.tokenizer.fingerprint is not None


def test_a_store_can_be_written_to_any_fsspec_url(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 5)
    source = open_source(tmp_path / "images")
    url = f"memory://{tmp_path.name}/out.zarr"
    with pytest.raises(_StoppedError):
        convert_source(
            source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS, on_progress=_StopAfter(12)
        )
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(url)
    convert_source(source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True)
    convert_source(source, tmp_path / "local", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert np.array_equal(tokenstore.open(url)["train"][:], tokenstore.open(tmp_path / "local")["train"][:])
    assert verify(url).problems == []
    assert verify(url).notes == []


def test_the_store_names_the_tokenizer_and_how_images_were_prepared(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 1)
    options = ConvertOptions(workers=0, resize="pad")
    convert_source(
        open_source(tmp_path / "images"), tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options
    )
    attributes = json.loads((tmp_path / "out" / "zarr.json").read_bytes())["attributes"]["tokenstore"]
    assert attributes["tokenizer"] == {"name": "brightness", "fingerprint": "b" * 64}
    assert attributes["preprocessing"] == {"height": 16, "width": 16, "resize": "pad", "filter": "bicubic"}


def test_the_store_remembers_where_its_source_was_but_no_password(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert tokenstore.open(tmp_path / "out").manifest.source_location == str(tmp_path / "images")


class _OnAnotherDevice(BrightnessTokenizer):
    device = torch.device("meta")
    dtype = torch.float16


def test_where_arithmetic_may_change_a_code_the_store_names_it_and_resuming_keeps_to_it(
    tmp_path: Path,
) -> None:
    write_grey_folder(tmp_path / "images", 4)
    source = open_source(tmp_path / "images")
    with pytest.raises(_StoppedError):
        convert_source(
            source,
            tmp_path / "out",
            tokenizer=_OnAnotherDevice(),
            options=replace(OPTIONS, shard_samples=4),
            on_progress=_StopAfter(1),
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


def test_an_unknown_codec_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((4, 3), np.uint8))
    with pytest.raises(ManifestError, match=r"codec: expected one of .*found 'gzip'"):
        convert_source(
            open_source(tmp_path / "codes.npy"), tmp_path / "out", options=ConvertOptions(codec="gzip")
        )
    assert not (tmp_path / "out").exists()
