"""Sheets of samples, by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from helpers.scenes import SIZE, lines, pixels, place, run, write_scene
from helpers.stores import Samples, write_store
from PIL import Image

import tokenstore
from tokenstore import sheet as module
from tokenstore.audit import preview
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.augment import AdapterConfig, TokenAdapt
from tokenstore.augment.adapters import load_adapter, save_adapter
from tokenstore.augment.examples import augmented_examples
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.tokenizers.registry import load_tokenizer


@pytest.fixture
def store(scene_store: Path) -> Path:
    return scene_store


def test_a_sheet_shows_each_image_beside_what_its_codes_give(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    said = lines(run("preview", store, "-o", out, "--indices", "3,0,-1", "--columns", 2))
    assert said == [f"{out}: 3 samples of split train, 3 with their originals"]
    sheet = pixels(out)
    opened = tokenstore.open(store)
    rebuilt = decode_samples(opened, "train", [3, 0, 6], load_tokenizer("default"))
    names = opened["train"].samples_table()["source"].to_pylist()
    for number, index in enumerate((3, 0, 6)):
        original = pixels(tmp_path / "photos" / names[index])
        np.testing.assert_array_equal(place(sheet, number, 0, SIZE, 2), original)
        np.testing.assert_array_equal(place(sheet, number, 1, SIZE, 2), rebuilt[number])


def test_captions_are_drawn_below_the_images_and_differ(store: Path, tmp_path: Path) -> None:
    run("preview", store, "-o", tmp_path / "sheet.png", "--indices", "0,1", "--columns", 1)
    sheet = pixels(tmp_path / "sheet.png")
    height = 2 * SIZE + module.CAPTION_HEIGHT + module.GAP
    top = module.GAP + 2 * SIZE
    first, second = (sheet[start : start + module.CAPTION_HEIGHT] for start in (top, top + height))
    assert (first < 128).any()
    assert (second < 128).any()
    assert not np.array_equal(first, second)


def test_captions_name_the_class_or_its_number_or_nothing(store: Path, tmp_path: Path) -> None:
    opened = tokenstore.open(store)
    assert preview.captions(opened, opened["train"], np.array([0, 5])) == ["0  kind 0", "5  kind 1"]
    codes = np.zeros((2, 2, 2), np.uint8)
    write_store(
        tmp_path / "bare", {"a": Samples(codes, np.array([4, 2], np.int32)), "b": Samples(codes)}, 1024
    )
    bare = tokenstore.open(tmp_path / "bare")
    assert preview.captions(bare, bare["a"], np.array([1])) == ["1  2"]
    assert preview.captions(bare, bare["b"], np.array([1])) == ["1"]


def test_samples_are_spaced_evenly_over_the_split_that_is_asked_for(store: Path, tmp_path: Path) -> None:
    for words, count, split in (((), 7, "train"), (("-n", 3), 3, "train"), (("--split", "val"), 2, "val")):
        said = lines(run("preview", store, "-o", tmp_path / "sheet.png", *words))
        assert said == [
            f"{tmp_path / 'sheet.png'}: {count} samples of split {split}, {count} with their originals"
        ]


def test_augmented_samples_are_shown_beside_each_other(store: Path, tmp_path: Path) -> None:
    out, adapter = tmp_path / "sheet.png", tmp_path / "adapter.safetensors"
    write_adapter(adapter)
    said = lines(
        run("preview", store, "-o", out, "--augment", "seitpp", "--adapter", adapter, "--indices", "4,1")
    )
    names = (
        "codes as stored",
        "naive flip",
        "TokenAdapt flip",
        "naive crop",
        "TokenAdapt crop",
        "exact flip",
        "ColorAdapt",
    )
    assert said == [f"{out}: 2 samples of split train: {', '.join(names)} (all decoded by the tokenizer)"]
    tokenizer = load_tokenizer("default")
    codes = torch.from_numpy(tokenstore.open(store)["train"].read("tokens", [4, 1]).astype(np.int64))
    examples = augmented_examples(
        codes,
        torch.from_numpy(tokenizer.codebook),
        load_adapter(adapter),
        symmetries=tokenizer.symmetries,
    )
    assert tuple(examples) == names[1:]
    assert torch.equal(examples["naive flip"], codes.flip(2))
    sheet = pixels(out)[module.CAPTION_HEIGHT :]
    for number in range(2):
        for column, each in enumerate((codes, *examples.values())):
            expected = tokenizer.decode(each[number : number + 1])[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(place(sheet, number, column, SIZE, 1, 7), expected)


def test_label_maps_are_drawn_beside_what_the_codes_give(tmp_path: Path) -> None:
    values = np.zeros((2, SIZE, SIZE), np.uint8)
    values[:, :8], values[0, 8:20, 8:], values[1, 30:] = 1, 11, 255
    for number, each in enumerate(values):
        write_scene(tmp_path / "photos" / f"{number}.png", number)
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(each).save(tmp_path / "maps" / f"{number}.png")
    words = ("--image-size", SIZE, "--workers", 0, "--masks", tmp_path / "maps", "--mask-size", SIZE // 2)
    assert run("convert", tmp_path / "photos", tmp_path / "store", *words).exit_code == 0
    out = tmp_path / "sheet.png"
    said = lines(run("preview", tmp_path / "store", "-o", out, "--columns", 1))
    assert said == [f"{out}: 2 samples of split train, 2 with their originals, all with their label maps"]
    sheet = pixels(out)
    expected = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    colours = {1: (128, 0, 0), 11: (192, 128, 0), 255: (255, 255, 255)}
    for label, colour in colours.items():
        expected[values == label] = colour
    for number in range(2):
        original = pixels(tmp_path / "photos" / f"{number}.png")
        np.testing.assert_array_equal(place(sheet, number, 0, SIZE, 1, 3), original)
        np.testing.assert_array_equal(place(sheet, number, 2, SIZE, 1, 3), expected[number])
    shutil.rmtree(tmp_path / "photos")
    bare = tokenstore.preview(tmp_path / "store", columns=1)
    assert (bare.originals, bare.label_maps) == (0, True)
    np.testing.assert_array_equal(place(np.asarray(bare.image), 1, 1, SIZE, 1, 2), expected[1])


def test_adapters_of_other_tokenizers_are_refused(store: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.safetensors"
    words = ("preview", store, "-o", tmp_path / "sheet.png", "--augment", "seitpp", "--adapter", adapter)
    write_adapter(adapter, tokenizer=TokenizerIdentity("another", "cd" * 32))
    refused = run(*words)
    assert refused.exit_code == 1
    assert "expected an adapter for the codes of" in refused.output
    write_adapter(adapter, codebook_size=9)
    refused = run(*words)
    assert refused.exit_code == 1
    assert "a codebook of (9, " in refused.output
    assert not (tmp_path / "sheet.png").exists()


def test_options_that_have_nothing_to_do_are_refused(store: Path, tmp_path: Path) -> None:
    sheet = ("preview", store, "-o", tmp_path / "sheet.png")
    for words in (("--adapter", "default"), ("--augment", "seitpp", "--images", tmp_path / "photos")):
        refused = run(*sheet, *words)
        assert refused.exit_code == 2
        assert f"{words[-2]} goes with" in refused.output


def write_adapter(path: Path, tokenizer: TokenizerIdentity | None = None, **sizes: int) -> None:
    """Write a small, untrained adapter for the packaged tokenizer's codes."""
    codebook = load_tokenizer("default").codebook
    wanted = {"codebook_size": len(codebook), "channels": codebook.shape[1]} | sizes
    save_adapter(TokenAdapt(AdapterConfig(**wanted, width=64, heads=1, mlp=64), tokenizer=tokenizer), path)


def test_without_the_images_the_sheet_says_why_and_shows_the_rest(store: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "moved")
    out = tmp_path / "sheet.png"
    said = lines(run("preview", store, "-o", out, "-n", 2, "--columns", 2))
    assert said[0] == f"{out}: 2 samples of split train, 0 with their originals"
    assert said[1].startswith("  no original of 2; the first reason: ")
    assert f"{tmp_path / 'photos'}: no such file or folder" in said[1]
    rebuilt = decode_samples(tokenstore.open(store), "train", [0, 3], load_tokenizer("default"))
    for number in range(2):
        np.testing.assert_array_equal(place(pixels(out), number, 0, SIZE, 2, 1), rebuilt[number])
    said = lines(run("preview", store, "-o", out, "-n", 2, "--images", tmp_path / "moved"))
    assert said == [f"{out}: 2 samples of split train, 2 with their originals"]


def test_an_image_that_is_missing_leaves_a_grey_place(store: Path, tmp_path: Path) -> None:
    names = tokenstore.open(store)["train"].samples_table()["source"].to_pylist()
    (tmp_path / "photos" / names[1]).unlink()
    out = tmp_path / "sheet.png"
    said = lines(run("preview", store, "-o", out, "--indices", "0,1", "--columns", 1))
    assert said[0].endswith("2 samples of split train, 1 with their originals")
    assert f"{names[1]}: no longer there under this name" in said[1]
    assert (place(pixels(out), 1, 0, SIZE, 1) == module.EMPTY).all()


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")]
)
def test_the_ending_decides_the_format_and_an_old_image_is_overwritten(
    store: Path, tmp_path: Path, ending: str, kind: str
) -> None:
    out = tmp_path / f"sheet.{ending}"
    out.write_bytes(b"an old image")
    lines(run("preview", store, "-o", out, "-n", 1))
    with Image.open(out) as sheet:
        assert sheet.format == kind
    assert not list(tmp_path.glob("*partial"))


def test_what_is_no_image_is_never_overwritten(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    result = run("preview", store, "-o", tmp_path / "thesis.txt")
    assert result.exit_code == 2
    assert "expected a name ending in .png" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "important"
    (tmp_path / "folder.png").mkdir()
    result = run("preview", store, "-o", tmp_path / "folder.png")
    assert result.exit_code == 2
    assert "is a directory" in result.output


def test_a_sheet_that_fails_leaves_the_old_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sheet.png"
    out.write_bytes(b"an old image")

    def full(self: Image.Image, file: BinaryIO, *_: object, **__: object) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = run("preview", store, "-o", out, "-n", 1)
    assert (result.exit_code, result.output) == (1, "Error: No space left on device\n")
    assert out.read_bytes() == b"an old image"
    assert not list(tmp_path.glob("*partial"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--indices", "0,7"), "index 7 is out of range: split train has 7 samples"),
        (("--indices", "1;2"), "expected numbers such as 0,5,17; found '1;2'"),
        (("--indices", "1", "-n", "2"), "expected --indices or -n, found both"),
    ],
)
def test_samples_that_there_are_not_are_a_wrong_command_line(
    store: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = run("preview", store, "-o", tmp_path / "sheet.png", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_beyond_reason_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 10_000)
    result = run("preview", store, "-o", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "ask for fewer samples" in result.output


@pytest.mark.parametrize(("size", "scale"), [(8, 16), (64, 2), (128, 1), (130, 1), (512, 1)])
def test_small_images_are_enlarged_by_whole_factors_and_large_ones_left(size: int, scale: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    sheet = module.draw_sheet([(image, image)] * 6, ["x" * 500] * 6, None)
    assert 1 < sheet.width / sheet.height < 3
    shown = np.asarray(sheet)[module.GAP :, module.GAP :][: scale * size, : scale * size]
    np.testing.assert_array_equal(shown, image.repeat(scale, 0).repeat(scale, 1))


def test_a_caption_that_is_too_long_is_cut_as_late_as_can_be() -> None:
    font = module.ImageFont.load_default(module.FONT_SIZE)
    assert module.shortened("17  cat", font, 100) == "17  cat"
    cut = module.shortened("17  " + "cat " * 100, font, 100)
    assert cut.startswith("17  cat cat")
    assert cut.endswith("...")
    assert 85 < font.getlength(cut) <= 100
    assert module.shortened("cat", font, 1) == "..."
