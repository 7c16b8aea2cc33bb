"""Bad images in a conversion: each is reported with its reason, and never shifts a label."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import stored
from helpers.stores import contents
from PIL import Image

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import (
    ConversionError,
    IncompleteStoreError,
)
from tokenstore.sources import open_source


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
    with pytest.raises(IncompleteStoreError, match="resume=True"):
        tokenstore.open(tmp_path / "out")


def test_one_bad_image_of_fewer_than_a_hundred_says_that_none_is_allowed(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    (tmp_path / "images" / "class-0" / "bad.png").write_bytes(b"")
    arguments: dict[str, Any] = {"tokenizer": BrightnessTokenizer(), "workers": 0}
    told = r"allowed are 0 \(1 % of 10, which is none below 100 samples\).* or use on_error='skip'"
    with pytest.raises(ConversionError, match=told):
        tokenstore.convert(tmp_path / "images", tmp_path / "out", **arguments)
    arguments |= {"on_error": "skip", "resume": True}
    assert len(tokenstore.convert(tmp_path / "images", tmp_path / "out", **arguments).skipped["train"]) == 1


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
