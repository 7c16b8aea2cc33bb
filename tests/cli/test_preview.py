"""Looking at a store: sheets, reconstructions as files, quality, and encoding again, by the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.stores import Samples, edit_root, write_store
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit import preview
from tokenstore.audit import sheet as module
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.augment import AdapterConfig, TokenAdapt
from tokenstore.augment.adapters import load_adapter, save_adapter
from tokenstore.augment.examples import augmented_examples
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.tokenizers import registry
from tokenstore.tokenizers.registry import TokenizerKind, load_tokenizer

SIZE = 64


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def write_scene(path: Path, seed: int) -> None:
    """Write an image of SIZE pixels a side that no tokenizer has to resize: 16 patches of colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(patches.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)).save(path)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two splits, and a store of them by the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("looking")
    for number in range(7):
        write_scene(folder / "photos" / "train" / f"kind {number % 2}" / f"{number}.png", number)
    for number in range(2):
        write_scene(folder / "photos" / "val" / "kind 0" / f"v{number}.png", 100 + number)
    result = run("convert", folder / "photos", folder / "store", "--image-size", SIZE, "--workers", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def store(origin: Path, tmp_path: Path) -> Path:
    """Copy the store, with its images beside it and nowhere else."""
    shutil.copytree(origin, tmp_path, dirs_exist_ok=True)
    edit_root(tmp_path / "store", lambda root: locate(root, tmp_path / "photos"))
    return tmp_path / "store"


def locate(root: dict[str, dict[str, dict[str, object]]], photos: Path) -> None:
    root["attributes"]["tokenstore"]["source_location"] = str(photos)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def place(
    sheet: np.ndarray, number: int, column: int, size: int, columns: int, images: int = 2
) -> np.ndarray:
    """Cut one image out of a sheet of images of one size, by its sample and its place in the row."""
    gap, caption = module.GAP, module.CAPTION_HEIGHT
    scale = -(-module.MIN_WIDTH // size)
    side = scale * size
    top = gap + number // columns * (side + caption + gap)
    left = gap + number % columns * (images * (side + gap) + gap) + column * (side + gap)
    return sheet[top : top + side : scale, left : left + side : scale]


# ---- preview


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
    names = ("original", "naive flip", "TokenAdapt flip", "naive crop", "TokenAdapt crop", "ColorAdapt")
    assert said == [f"{out}: 2 samples of split train: {', '.join(names)}"]
    tokenizer = load_tokenizer("default")
    codes = torch.from_numpy(tokenstore.open(store)["train"].read("tokens", [4, 1]).astype(np.int64))
    examples = augmented_examples(codes, torch.from_numpy(tokenizer.codebook), load_adapter(adapter))
    assert tuple(examples) == names[1:]
    assert torch.equal(examples["naive flip"], codes.flip(2))
    sheet = pixels(out)[module.CAPTION_HEIGHT :]
    for number in range(2):
        for column, each in enumerate((codes, *examples.values())):
            expected = tokenizer.decode(each[number : number + 1])[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(place(sheet, number, column, SIZE, 1, 6), expected)


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
    assert not list(tmp_path.glob(".*partial"))


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
    assert not list(tmp_path.glob(".*partial"))


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


# ---- video, and tokenizers by name


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a store of two films of 6 frames; frame f of film i has level 10 i + f."""

    class Film(BrightnessTokenizer):
        def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
            return (6, 2, 2)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            grey = codes.to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
            return grey[:, :, None].expand(-1, -1, 3, -1, -1)

    name = "tokenstore.tokenizers.kinds.film_of_a_test"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(load=lambda _: Film()))  # type: ignore[misc]
    kind = TokenizerKind(name, "", "", "", "")
    monkeypatch.setitem(registry.TOKENIZERS, "film", kind)
    levels = np.add.outer([0, 10], np.arange(6)).astype(np.uint8)
    codes = levels[:, :, None, None].repeat(2, 2).repeat(2, 3)
    identity = TokenizerIdentity("brightness", "b" * 64, spec="film")
    write_store(tmp_path / "film", {"clips": Samples(codes)}, 256, tokenizer=identity)
    return tmp_path / "film"


def test_a_sheet_shows_four_frames_of_a_film(film: Path, tmp_path: Path) -> None:
    said = lines(run("preview", film, "-o", tmp_path / "sheet.png", "--columns", 1))
    assert said[0].endswith("2 samples of split clips, 0 with their originals")
    assert "ready codes" in said[1]
    scale = -(-module.MIN_WIDTH // (4 * 16 + 3 * module.GAP))
    sheet = pixels(tmp_path / "sheet.png")
    row = sheet[module.GAP, module.GAP :: scale, 0]
    assert [row[frame * (16 + module.GAP)] for frame in range(4)] == [0, 1, 3, 4]


def test_a_film_is_written_frame_by_frame(film: Path, tmp_path: Path) -> None:
    said = lines(run("reconstruct", film, 1, "--out", tmp_path / "frames"))
    assert said == [f"{tmp_path / 'frames'}: 6 images of 1 samples of split clips"]
    for frame in range(6):
        assert (pixels(tmp_path / "frames" / f"1-{frame}.png") == 10 + frame).all()


# ---- reconstruct


def test_reconstructions_are_written_by_their_index(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "images"
    said = lines(run("reconstruct", store, 5, -1, 0, 5, "--out", out))
    assert said == [f"{out}: 3 images of 3 samples of split train"]
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "5.png", "6.png"]
    rebuilt = decode_samples(tokenstore.open(store), "train", [0, 5, 6], load_tokenizer("default"))
    for index, image in zip((0, 5, 6), rebuilt, strict=True):
        np.testing.assert_array_equal(pixels(out / f"{index}.png"), image)


def test_reconstructions_can_be_of_another_format_and_split(store: Path, tmp_path: Path) -> None:
    lines(run("reconstruct", store, -2, "--out", tmp_path / "o", "--split", "val", "--format", "jpg"))
    with Image.open(tmp_path / "o" / "0.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (SIZE, SIZE))


@pytest.mark.parametrize("index", [7, -8, 10**30])
def test_an_index_out_of_range_is_refused_with_the_size(store: Path, tmp_path: Path, index: int) -> None:
    result = run("reconstruct", store, 0, index, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert f"index {index} is out of range: split train has 7 samples" in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("word", ["one", "--bogus", "-x"])
def test_what_is_no_index_is_refused(store: Path, tmp_path: Path, word: str) -> None:
    result = run("reconstruct", store, word, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert f"'{word}' is not a valid integer" in result.output


def test_a_split_that_there_is_not_is_refused_with_those_there_are(store: Path, tmp_path: Path) -> None:
    for command in (("reconstruct", store, 0, "--out", tmp_path / "o"), ("preview", store, "-o", "x.png")):
        result = run(*command, "--split", "nothing")
        assert result.exit_code == 1
        assert "no split 'nothing'; it has train, val" in result.output


def test_a_tokenizer_that_did_not_make_the_store_is_refused(store: Path, tmp_path: Path) -> None:
    packaged = load_tokenizer("default").fingerprint
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["tokenizer"].update(fingerprint="a" * 64))
    for command in (
        ("reconstruct", store, 0, "--out", tmp_path / "o"),
        ("preview", store, "-o", tmp_path / "x.png"),
        ("stats", store, "--quality", 1),
        ("verify", store, "--retokenize", 1),
    ):
        result = run(*command)
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert f"fingerprint {'a' * 64}" in result.output
        assert packaged in result.output


# ---- stats --quality


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
    assert "none compared; 4 images are missing, the first: " in text
    assert "means of 2 samples" in text


# ---- verify --retokenize


def test_verify_finds_codes_equal_when_they_are_encoded_again(store: Path) -> None:
    said = lines(run("verify", store, "--retokenize", 3))
    assert said[:3] == [
        "codes were computed in: cpu float32; now: cpu float32",
        "split train: 3 of 3 samples encoded again are equal, 100.0000% of their codes",
        "split val: 2 of 2 samples encoded again are equal, 100.0000% of their codes",
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


def test_a_caption_that_is_too_long_is_cut_as_late_as_can_be() -> None:
    font = module.ImageFont.load_default(module.FONT_SIZE)
    assert module.shortened("17  cat", font, 100) == "17  cat"
    cut = module.shortened("17  " + "cat " * 100, font, 100)
    assert cut.startswith("17  cat cat")
    assert cut.endswith("...")
    assert 85 < font.getlength(cut) <= 100
    assert module.shortened("cat", font, 1) == "..."
