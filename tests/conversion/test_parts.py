"""A part of a conversion is an ordinary store of its samples, with the class names of the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.stores import contents
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import ArgumentError, ConversionError
from tokenstore.sources import open_source

BAD = (0, 7, 8, 9, 20)


def options_of(part: tuple[int, int], **options: object) -> ConvertOptions:
    return replace(OPTIONS, on_error="skip", part=part, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 27 images in three classes, five of them broken."""
    folder = tmp_path_factory.mktemp("parts") / "images"
    names = sorted(write_grey_folder(folder, 9))
    for number in BAD:
        (folder / names[number]).write_bytes(b"")
    return folder


@pytest.mark.parametrize(("count", "limit"), [(1, None), (7, None), (7, 20), (40, 3)])
def test_parts_have_every_sample_once_with_the_positions_and_class_names_of_the_whole(
    tmp_path: Path, images: Path, count: int, limit: int | None
) -> None:
    convert_source(
        open_source(images),
        tmp_path / "whole",
        tokenizer=BrightnessTokenizer(),
        options=replace(OPTIONS, on_error="skip", limit=limit),
    )
    whole = tokenstore.open(tmp_path / "whole")
    positions, labels, skipped = [], [], []
    for number in range(1, count + 1):
        conversion = convert_source(
            open_source(images),
            tmp_path / str(number),
            tokenizer=BrightnessTokenizer(),
            options=options_of((number, count), limit=limit),
        )
        part = tokenstore.open(tmp_path / str(number))
        assert str(part.manifest.part) == f"{number}/{count}"
        assert part.class_names == whole.class_names
        assert part.manifest.tokenizer == whole.manifest.tokenizer
        positions += part["train"].samples_table()["source_index"].to_pylist()
        labels += part["train"].labels.tolist()
        skipped += [skip.source_index for skip in conversion.skipped["train"]]
        if number in (1, 2, count):
            assert verify(str(tmp_path / str(number))).problems == []
    assert positions == whole["train"].samples_table()["source_index"].to_pylist()
    assert labels == whole["train"].labels.tolist()
    assert skipped == [number for number in BAD if number < (limit or 27)]


def test_a_part_that_was_stopped_goes_on_and_no_other_part_goes_on_in_its_place(
    tmp_path: Path, images: Path
) -> None:
    done: list[int] = []

    def stop_late(state: Progress) -> None:
        done.append(state.done)
        assert state.total == 13
        if state.done >= 10:
            raise StoppedError

    source, tokenizer = open_source(images), BrightnessTokenizer()
    options = options_of((1, 2))
    convert_source(source, tmp_path / "at-once", tokenizer=tokenizer, options=options)
    with pytest.raises(StoppedError):
        convert_source(source, tmp_path / "a", tokenizer=tokenizer, options=options, on_progress=stop_late)
    with pytest.raises(ConversionError, match=r"part was \[1, 2\], is now \[2, 2\]"):
        convert_source(source, tmp_path / "a", tokenizer=tokenizer, options=options_of((2, 2)), resume=True)
    convert_source(source, tmp_path / "a", tokenizer=tokenizer, options=options, resume=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "at-once")
    again = convert_source(source, tmp_path / "a", tokenizer=tokenizer, options=options, resume=True)
    assert again.already_complete
    with pytest.raises(ConversionError, match="expected the part 1/2, found 2/2"):
        convert_source(source, tmp_path / "a", tokenizer=tokenizer, options=options_of((2, 2)), resume=True)


def test_one_percent_of_the_whole_may_be_bad_in_a_part(tmp_path: Path) -> None:
    names = sorted(write_grey_folder(tmp_path / "images", 67))
    for name in names[:2]:
        (tmp_path / "images" / name).write_bytes(b"")
    options = replace(OPTIONS, part=(1, 20))
    convert_source(
        open_source(tmp_path / "images"), tmp_path / "a", tokenizer=BrightnessTokenizer(), options=options
    )
    (tmp_path / "images" / names[2]).write_bytes(b"")
    with pytest.raises(ConversionError, match=r"allowed are 2 \(1 % of 201\)"):
        convert_source(
            open_source(tmp_path / "images"),
            tmp_path / "b",
            tokenizer=BrightnessTokenizer(),
            options=options,
        )


@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context", "auto"])
def test_a_codec_that_depends_on_all_codes_is_left_to_the_merging(tmp_path: Path, codec: str) -> None:
    np.save(tmp_path / "codes.npy", np.arange(64, dtype=np.uint16).reshape(16, 4))
    tokenstore.convert(
        tmp_path / "codes.npy", tmp_path / "a", part=(2, 3), codec=codec, prune_codebook=codec != "zstd"
    )
    store = tokenstore.open(tmp_path / "a")
    assert store.manifest.features == ("zstd" if codec == "zstd" else "bitpack",)
    assert store.manifest.codebook_sizes == (64,)
    assert store["train"][:].tolist() == np.arange(20, 40).reshape(5, 4).tolist()


def test_a_part_that_none_is_names_the_parameter_and_the_option(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"part=\.\.\.: expected a number from 1 to 3 of 3 parts, found 0"
    ):
        tokenstore.convert(tmp_path, tmp_path / "a", part=(0, 3))
    for text in ("0/3", "4/3", "1", "1/2/3", "-1/3", "a/b"):
        result = CliRunner().invoke(cli, ["convert", str(tmp_path), "a", "--part", text])
        assert result.exit_code == 2
        assert "--part" in result.output


def test_info_says_which_part_a_store_is(tmp_path: Path, images: Path) -> None:
    result = CliRunner().invoke(
        cli,
        [
            "convert",
            str(images),
            str(tmp_path / "a"),
            "--part",
            "2/9",
            "--on-error",
            "skip",
            "--workers",
            "0",
        ],
    )
    assert result.exit_code == 0, result.output
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "a")]).output
    assert "2/9 of a conversion" in shown
    root = json.loads((tmp_path / "a" / "zarr.json").read_text())
    part = root["attributes"]["tokenstore"]["part"]
    assert (part["number"], part["count"], part["on_error"]) == (2, 9, "skip")
