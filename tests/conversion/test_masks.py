"""Label maps in stores: with their samples' codes, their ignore index, and the same after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_image
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.label_maps import IGNORED, RGB, converted, nearest, png, run, same, stored, write_map
from helpers.stores import contents, write_store

import tokenstore
from tokenstore import TokenDataset
from tokenstore.conversion import assembly
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import Progress
from tokenstore.errors import ConversionError, ManifestError
from tokenstore.format.manifest import Manifest, TokenizerIdentity
from tokenstore.sources import open_source
from tokenstore.storage import open_storage
from tokenstore.writing.recode import recode


def test_codes_and_maps_of_a_dataset_belong_together(tmp_path: Path) -> None:
    for number in range(10):
        write_grey_image(tmp_path / "images" / f"{number}.png", number * 20)
        write_map(tmp_path / "masks" / f"{number}.png", np.full((20, 20), number, np.uint8))
    (tmp_path / "images" / "3.png").write_bytes(b"")
    converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out", on_error="skip")
    dataset = TokenDataset(tmp_path / "out", "train", columns=("tokens", "masks"))
    assert len(dataset) == 9
    for number, (tokens, mask) in zip([0, 1, 2, *range(4, 10)], dataset, strict=True):
        assert (tokens == number * 20).all()
        assert mask.shape == (16, 16)
        assert (mask == number).all()


def test_the_command_stores_masks_and_says_so(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    options = ("--masks", tmp_path / "masks", "--ignore-index", 11, "--mask-size", 24, "--image-size", 16)
    result = run("convert", tmp_path / "images", tmp_path / "out", *options, "--workers", 0)
    assert result.exit_code == 0, result.output
    store = tokenstore.open(tmp_path / "out")
    assert store.manifest.ignore_index == 11
    assert same(stored(tmp_path / "out"), {name: nearest(values, 24) for name, values in pairs.items()})
    info = run("info", tmp_path / "out").output
    assert "11 where a pixel has no class" in info
    assert "array train/masks" in info
    assert run("stats", tmp_path / "out").exit_code == 0
    assert run("verify", tmp_path / "out").exit_code == 0
    assert json.loads(run("info", tmp_path / "out", "--json").output)["manifest"]["ignore_index"] == 11


def test_class_names_without_labels_are_those_of_the_label_maps(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    (tmp_path / "names.txt").write_text("sky\nroad\ncar\n")
    options = ("--masks", tmp_path / "masks", "--class-names", tmp_path / "names.txt", "--image-size", 16)
    result = run("convert", tmp_path / "images", tmp_path / "out", *options, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert tokenstore.open(tmp_path / "out").class_names == ("sky", "road", "car")
    assert run("verify", tmp_path / "out").exit_code == 0
    assert run("stats", tmp_path / "out").exit_code == 0
    assert "3: sky, road, car" in run("info", tmp_path / "out").output


@pytest.mark.parametrize("option", ["--mask-size", "--ignore-index"])
def test_options_of_masks_go_with_masks(tmp_path: Path, option: str) -> None:
    result = run("convert", tmp_path, tmp_path / "out", option, 7)
    assert result.exit_code == 2
    assert f"{option} goes with --masks DIR" in result.output


def test_the_ignore_index_outlives_other_codecs_and_is_unknown_elsewhere(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    manifest = converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out", codec="auto")
    assert manifest.ignore_index == IGNORED
    assert same(stored(tmp_path / "out"), {name: nearest(values, 16) for name, values in pairs.items()})
    recode(tokenstore.open(tmp_path / "out"), open_storage(tmp_path / "zstd"), codec="zstd")
    assert tokenstore.open(tmp_path / "zstd").manifest.ignore_index == IGNORED
    source = open_source(tmp_path / "images")
    plain = convert_source(
        source, tmp_path / "plain", tokenizer=BrightnessTokenizer(), options=OPTIONS
    ).manifest
    assert plain.ignore_index is None
    assert "ignore_index" not in plain.to_dict()
    assert "masks" not in tokenstore.open(tmp_path / "plain")["train"].arrays
    older = np.zeros((2, 2, 2), np.uint8)
    write_store(tmp_path / "older", {"train": (older, None, {"masks": older})}, 3)
    assert tokenstore.open(tmp_path / "older").manifest.ignore_index is None


def bare_manifest() -> dict[str, Any]:
    return Manifest(TokenizerIdentity("test"), (2, 2), (3,), {}).to_dict()


@pytest.mark.parametrize("wrong", [-1, "255", True, 1.5])
def test_a_manifest_with_another_ignore_index_is_refused(wrong: object) -> None:
    values = {**bare_manifest(), "ignore_index": wrong}
    with pytest.raises(ManifestError, match=r"manifest\.ignore_index: expected"):
        Manifest.from_dict(values)


@pytest.mark.usefixtures("pairs")
def test_decode_processes_and_this_process_store_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    for workers in (0, 2):
        options = {"workers": workers, "on_error": "skip", "mask_size": 13}
        converted(tmp_path / "images", tmp_path / "masks", tmp_path / f"{workers}", **options)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_a_conversion_stopped_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 2)
    monkeypatch.setattr(assembly, "SAVE_SECONDS", 0.0)
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    options = replace(OPTIONS, on_error="skip", ignore_index=IGNORED)
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    convert_source(source, tmp_path / "whole", tokenizer=BrightnessTokenizer(), options=options)
    expected = contents(tmp_path / "whole")
    for stop in range(1, len(pairs) + 1):
        out = tmp_path / f"{stop}"

        def stop_here(state: Progress, stop: int = stop) -> None:
            if state.done >= stop:
                raise StoppedError

        arguments: dict[str, Any] = {"tokenizer": BrightnessTokenizer(), "options": options}
        with pytest.raises(StoppedError):
            convert_source(source, out, **arguments, on_progress=stop_here)
        convert_source(source, out, **arguments, resume=True)
        assert contents(out) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ignore_index": 3}, "ignore_index was 255, is now 3"),
        ({"mask_size": 8}, "mask_size was None, is now 8"),
    ],
)
@pytest.mark.usefixtures("pairs")
def test_resuming_with_other_masks_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "masks" / "10.png").unlink()
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    arguments: dict[str, Any] = {"tokenizer": BrightnessTokenizer()}
    with pytest.raises(ConversionError):
        convert_source(source, tmp_path / "out", **arguments, options=OPTIONS)
    with pytest.raises(ConversionError, match=message):
        convert_source(source, tmp_path / "out", **arguments, options=replace(OPTIONS, **change), resume=True)
    with pytest.raises(ConversionError, match="cannot resume with other inputs: source was"):
        convert_source(
            open_source(tmp_path / "images"), tmp_path / "out", **arguments, options=OPTIONS, resume=True
        )
