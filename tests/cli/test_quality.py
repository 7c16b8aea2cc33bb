"""The quality of reconstructions, and images that are encoded again, by the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.scenes import lines, pixels, run, write_scene
from helpers.stores import edit_root

from tokenstore.tokenizers import registry
from tokenstore.tokenizers.registry import TokenizerKind


@pytest.fixture
def store(scene_store: Path) -> Path:
    return scene_store


def test_stats_tell_the_quality_of_each_split(store: Path) -> None:
    values = json.loads("\n".join(lines(run("stats", store, "--quality", 4, "--json"))))
    train, val = (values["splits"][split]["quality"] for split in ("train", "val"))
    assert (train["samples"], val["samples"]) == (4, 2)
    assert 10 < train["psnr"] < 50
    assert 0 < train["ssim"] < 1
    text = run("stats", store, "--quality", 4).output
    assert f"PSNR {train['psnr']:.2f} dB, SSIM {train['ssim']:.4f}, means of 4 samples" in text
    assert "quality" not in json.loads(run("stats", store, "--json").output)["splits"]["train"]


def test_stats_without_any_image_to_compare_with_fail(store: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "moved")
    result = run("stats", store, "--quality", 4)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "no such file or folder" in result.output
    assert "--images" in result.output
    assert "means of 4 samples" in run("stats", store, "--quality", 4, "--images", tmp_path / "moved").output
    for photo in (tmp_path / "moved" / "train").rglob("*.png"):
        photo.write_bytes(b"")
    text = run("stats", store, "--quality", 4, "--images", tmp_path / "moved").output
    assert "none compared; 4 images missing, the first: " in text
    assert "means of 2 samples" in text


def test_verify_finds_codes_equal_when_they_are_encoded_again(store: Path) -> None:
    said = lines(run("verify", store, "--retokenize", 3))
    assert said[:3] == [
        "codes were computed in: cpu float32; now: cpu float32",
        "split train: 3 of 3 samples encoded again are equal, 100.0000 % of their codes",
        "split val: 2 of 2 samples encoded again are equal, 100.0000 % of their codes",
    ]
    values = json.loads("\n".join(lines(run("verify", store, "--retokenize", 3, "--json"))))
    assert values["ok"] is True
    assert values["retokenization"]["arithmetic"] == "cpu float32"
    assert values["retokenization"]["splits"]["train"]["equal_codes_share"] == 1
    assert "retokenization" not in json.loads(run("verify", store, "--json").output)


def changed_photo(photos: Path) -> None:
    write_scene(photos / "train" / "kind 0" / "0.png", 77)


def test_verify_fails_where_an_image_gives_other_codes(store: Path, tmp_path: Path) -> None:
    changed_photo(tmp_path / "photos")
    result = run("verify", store, "--retokenize", 100)
    assert result.exit_code == 1
    assert "split train: 6 of 7 samples encoded again are equal" in result.output
    assert "damage: split train: 1 of 7 samples have other codes" in result.output
    values = json.loads(run("verify", store, "--retokenize", 100, "--json").output)
    assert values["ok"] is False
    assert values["retokenization"]["splits"]["train"]["equal_samples"] == 6
    assert values["retokenization"]["splits"]["val"]["equal_codes_share"] == 1


def test_verify_only_notes_codes_that_were_computed_on_another_device(store: Path, tmp_path: Path) -> None:
    changed_photo(tmp_path / "photos")
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["tokenizer"].update(device="cuda"))
    said = lines(run("verify", store, "--retokenize", 100))
    assert said[0] == "codes were computed in: cuda float32; now: cpu float32"
    assert any(line.startswith("note: split train: 1 of 7 samples have other codes") for line in said)


def test_verify_does_not_encode_for_a_damaged_store(store: Path) -> None:
    shard = next(path for path in (store / "train" / "tokens" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[3] ^= 16
    shard.write_bytes(data)
    result = run("verify", store, "--retokenize", 3)
    assert result.exit_code == 1
    assert "note: images were not encoded again" in result.output
    assert "encoded again are equal" not in result.output
    assert json.loads(run("verify", store, "--retokenize", 3, "--json").output)["retokenization"] is None


@pytest.mark.parametrize(("command", "needed"), [("stats", "quality"), ("verify", "retokenize")])
@pytest.mark.parametrize("option", ["--images", "--tokenizer", "--device"])
def test_options_that_would_do_nothing_are_refused(
    store: Path, command: str, needed: str, option: str
) -> None:
    result = run(command, store, option, store if option == "--images" else "cpu")
    assert result.exit_code == 2
    assert f"{option} goes with --{needed} N" in result.output


def test_info_tells_where_the_images_were_and_how_codes_were_computed(store: Path, tmp_path: Path) -> None:
    text = run("info", store).output
    assert re.search(rf"^source +{re.escape(str(tmp_path / 'photos'))}$", text, re.MULTILINE)
    assert "named default, computed in cpu float32" in text


def test_ready_codes_are_looked_at_with_a_tokenizer_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_name = "tokenstore.tokenizers.kinds.brightness_of_a_test"
    brightness = SimpleNamespace(load=lambda _: BrightnessTokenizer())
    monkeypatch.setitem(sys.modules, module_name, brightness)  # type: ignore[misc]
    kind = TokenizerKind(module_name, "", "", "", "")
    monkeypatch.setitem(registry.TOKENIZERS, "brightness", kind)
    np.save(tmp_path / "codes.npy", np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2))
    out = tmp_path / "out"
    lines(run("convert", tmp_path / "codes.npy", out, "--codebook-size", 256))
    refused = run("reconstruct", out, 2, "--out", tmp_path / "images")
    assert refused.exit_code == 1
    assert "name the tokenizer by --tokenizer" in refused.output
    lines(run("reconstruct", out, 2, "--out", tmp_path / "images", "--tokenizer", "brightness"))
    assert pixels(tmp_path / "images" / "2.png")[::8, ::8, 0].tolist() == [[8, 9], [10, 11]]
    write_grey_folder(tmp_path / "photos", 1)
    write_grey_image(tmp_path / "photos" / "class-0" / "x.png", 3)
    refused = run(
        "verify", out, "--retokenize", 1, "--images", tmp_path / "photos", "--tokenizer", "brightness"
    )
    assert refused.exit_code == 1
    assert "ready codes" in refused.output
