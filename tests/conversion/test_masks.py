"""Label maps: each lies over its own image's pixels, and whatever is wrong with one is said, not stored."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from helpers.brightness import BrightnessTokenizer, write_grey_image
from helpers.stores import write_store
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import verify
from tokenstore.conversion import images as image_conversion
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import ConversionError, IncompleteStoreError, ManifestError, SampleError, SourceError
from tokenstore.format.manifest import Manifest, TokenizerIdentity
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, Resize, decode_image
from tokenstore.sources.masks import MaskDecoder, load_mask
from tokenstore.storage import open_storage
from tokenstore.writing.recode import recode

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3)
RESIZES: tuple[Resize, ...] = ("squash", "crop", "pad")
WIDTH, HEIGHT = 30, 21
IGNORED = 200


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def random_map(seed: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 12, (height, width), np.uint8)


def write_map(path: Path, values: npt.NDArray[Any], mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(path)


def write_pairs(images: Path, masks: Path, paths: Sequence[str]) -> dict[str, npt.NDArray[np.uint8]]:
    """Images `paths` (without endings) and maps of theirs, by turns grey and of a palette."""
    maps = {path: random_map(seed) for seed, path in enumerate(paths)}
    for seed, (path, values) in enumerate(maps.items()):
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (seed, seed, seed)).save(images / f"{path}.bmp")
        write_map(masks / f"{path}.png", values, "LP"[seed % 2])
    return maps


def nearest(
    values: npt.NDArray[np.uint8], size: int, resize: Resize = "squash", image_size: int = 16
) -> npt.NDArray[np.uint8]:
    """Return the stored values of a label map, computed pixel by pixel in fractions."""
    height, width = values.shape
    out = np.full((size, size), IGNORED, np.uint8)
    for row in range(size):
        for column in range(size):
            place = []
            for at, length, other in ((row, height, width), (column, width, height)):
                pixel = Fraction(2 * at + 1, 2 * size) * image_size
                start, extent, first, span = 0, image_size, Fraction(0), Fraction(length)
                if resize == "crop":
                    span = Fraction(min(length, other))
                    first = (length - span) / 2
                elif resize == "pad":
                    extent = max(1, round(length * (image_size / max(length, other))))
                    start = (image_size - extent) // 2
                inside = start <= pixel < start + extent
                place.append(math.floor(first + (pixel - start) * span / extent) if inside else None)
            if None not in place:
                out[row, column] = values[place[0], place[1]]
    return out


def stored(path: Path, split: str = "train") -> dict[str, npt.NDArray[np.uint8]]:
    """Source name without ending -> label map."""
    reader = tokenstore.open(path)[split]
    names = [name.rpartition(".")[0] for name in reader.samples_table()["source"].to_pylist()]
    return dict(zip(names, reader.read("masks", np.arange(len(reader))), strict=True))


def converted(images: Path, masks: str | Path, out: Path, **options: Any) -> Manifest:
    chosen = replace(OPTIONS, ignore_index=IGNORED, **options)
    source = open_source(images, masks=masks)
    return convert_source(source, out, tokenizer=BrightnessTokenizer(), options=chosen).manifest


def same(found: dict[str, npt.NDArray[np.uint8]], expected: dict[str, npt.NDArray[np.uint8]]) -> bool:
    assert found.keys() == expected.keys()
    return all((found[name] == expected[name]).all() for name in expected)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Eleven images in `images` with their label maps in `masks`."""
    paths = [f"{number:02d}" for number in range(11)]
    return write_pairs(tmp_path / "images", tmp_path / "masks", paths)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [None, 16, 40, 7])
def test_a_map_is_stored_by_its_images_geometry_and_nearest_neighbours(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]], resize: Resize, size: int | None
) -> None:
    converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out", resize=resize, mask_size=size)
    found = stored(tmp_path / "out")
    assert {values.shape for values in found.values()} == {(size or 16, size or 16)}
    assert same(found, {name: nearest(values, size or 16, resize) for name, values in pairs.items()})
    assert verify(str(tmp_path / "out")).problems == []


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 24),
    image_size=st.integers(1, 24),
    resize=st.sampled_from(RESIZES),
)
def test_any_sizes_give_the_plain_nearest_neighbours(
    width: int, height: int, size: int, image_size: int, resize: Resize
) -> None:
    values, file = random_map(width * height, width, height), io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    out = np.empty((size, size), np.uint8)
    decoder = MaskDecoder(ImageOptions(image_size, resize), size, IGNORED)
    decoder.decode(file.getvalue(), width, height, out)
    assert (out == nearest(values, size, resize, image_size)).all()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (64, 64)])
def test_pixels_of_a_map_lie_over_those_of_its_image(resize: Resize, shape: tuple[int, int]) -> None:
    values = np.zeros(shape, np.uint8)
    values[shape[0] // 4 : shape[0] // 2, shape[1] // 3 :] = 1
    file, drawn = io.BytesIO(), io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    Image.fromarray(values * 255).save(drawn, "PNG")
    options = ImageOptions(64, resize)
    out = np.empty((64, 64), np.uint8)
    MaskDecoder(options, 64, 0).decode(file.getvalue(), shape[1], shape[0], out)
    assert out.any()
    differ = (decode_image(drawn.getvalue(), options).pixels[..., 0] > 127) != out
    assert differ.mean() < 0.005


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


@pytest.mark.parametrize("top", ["", "cat/", "cat/deep/"])
def test_a_folder_of_maps_is_laid_out_as_that_of_the_images(tmp_path: Path, top: str) -> None:
    names = [f"{split}/{top}{number}.v1" for split in ("train", "val") for number in range(3)]
    maps = write_pairs(tmp_path / "images", tmp_path / "masks", names)
    manifest = converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert manifest.class_names == (("cat",) if top else None)
    for split in ("train", "val"):
        expected = {name: nearest(maps[name], 16) for name in names if name.startswith(split)}
        assert same(stored(tmp_path / "out", split), expected)


@pytest.mark.parametrize("name", ["labels", "labels/"])
def test_each_split_may_have_its_images_and_maps_in_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root, maps = tmp_path / "camvid", {}
    for split in ("train", "val", "test"):
        here = write_pairs(
            root / split / "images", root / split / "labels", ["b", "a", "c"][: len(split) - 1]
        )
        maps[split] = here
    manifest = converted(root, name, tmp_path / "out")
    assert list(manifest.splits) == ["train", "val", "test"]
    assert manifest.ignore_index == IGNORED
    for split, here in maps.items():
        expected = {f"{split}/images/{path}": nearest(values, 16) for path, values in here.items()}
        assert same(stored(tmp_path / "out", split), expected)


def test_a_split_without_maps_may_be_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_pairs(root / "train" / "images", root / "train" / "labels", ["a", "b"])
    write_grey_image(root / "test" / "images" / "c.png", 3)
    source = open_source(root, masks="labels")
    assert source.notes == (f"label maps that are missing: 1 (first: {root}/test/labels/c.png)",)
    converted(root, "labels", tmp_path / "out", splits=("train",))
    assert list(stored(tmp_path / "out")) == ["train/images/a", "train/images/b"]
    with pytest.raises(ConversionError, match=r"split test: .* label map \S+/c\.png: is missing"):
        converted(root, "labels", tmp_path / "all")


def test_layouts_that_are_unclear_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_pairs(root / "train" / "images", root / "train" / "labels", ["a"])
    with pytest.raises(SourceError, match="a folder of label maps, or the name of one in each split"):
        open_source(root, masks="annotations")
    with pytest.raises(SourceError, match="would be read as images"):
        open_source(root, masks=root / "train" / "labels")
    with pytest.raises(SourceError, match="would be read as images"):
        open_source(root / "train" / "labels", masks=root / "train" / "labels")
    write_grey_image(root / "train" / "depth" / "a.png", 0)
    with pytest.raises(SourceError, match="one folder of images beside labels/, found depth/, images/"):
        open_source(root, masks="labels")
    np.savez(tmp_path / "train.npz", tokens=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(SourceError, match="label maps go with a folder of images, not with kind array"):
        open_source(tmp_path / "train.npz", masks=root)


@pytest.mark.usefixtures("pairs")
def test_maps_without_an_image_are_listed_and_end_the_conversion(tmp_path: Path) -> None:
    (tmp_path / "masks" / "colours.jpg").write_bytes(b"")
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    assert "names of label maps end in .png: 1 (first: " in source.notes[0]
    for name in ("x", "cat/00", "val/y"):
        write_map(tmp_path / "masks" / f"{name}.png", random_map(0))
    with pytest.raises(SourceError, match=r"none for 3: \S+cat/00\.png, \S+val/y\.png, \S+x\.png\. .*remove"):
        open_source(tmp_path / "images", masks=tmp_path / "masks")
    result = run("convert", tmp_path / "images", tmp_path / "out", "--masks", tmp_path / "masks")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert not (tmp_path / "out").exists()


def png(values: npt.NDArray[Any], mode: str | None = None) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(values)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return file.getvalue()


def small_depth_png(values: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Write a grey PNG file of 1, 2 or 4 bits a pixel, byte by byte; a row must fill whole bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    single = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = np.packbits(single, axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_are_the_indices_that_the_file_has(bits: int) -> None:
    values = random_map(1, 16, 9) % 2**bits
    assert (load_mask(small_depth_png(values, bits)) == values).all()
    palette, file = Image.fromarray(values), io.BytesIO()
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    palette.save(file, "PNG", bits=bits)
    assert (load_mask(file.getvalue()) == values).all()


def test_sixteen_bits_are_read_where_all_values_fit() -> None:
    values = random_map(2).astype(np.uint16)
    values[0, 0] = 255
    assert (load_mask(png(values)) == values).all()
    values[0, 0] = 256
    with pytest.raises(SampleError, match="class indices up to 255, found 256; number the classes anew"):
        load_mask(png(values))


def test_a_map_is_turned_as_its_image_is(tmp_path: Path) -> None:
    """Turn a map with its image, which is viewed upright; or both files give the same turn."""
    values = random_map(3)
    turned = np.rot90(values)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    for name in ("drawn", "tagged"):
        Image.fromarray(turned).convert("RGB").save(tmp_path / "images" / f"{name}.jpg", exif=exif)
    write_map(tmp_path / "masks" / "drawn.png", values)
    Image.fromarray(turned).save(tmp_path / "masks" / "tagged.png", exif=exif)
    converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert same(stored(tmp_path / "out"), dict.fromkeys(("drawn", "tagged"), nearest(values, 16)))


RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
BAD = {
    "RGB": (png(RGB), "one channel of class indices, palette or grey, found RGB; convert its colours to ind"),
    "RGBA": (png(RGB, "RGBA"), "one channel of class indices, palette or grey, found RGBA"),
    "LA": (png(RGB, "LA"), "one channel of class indices, palette or grey, found LA"),
    "small": (png(random_map(0, 15, 10)), "expected its image's size, 30 x 21, found 15 x 10"),
    "turned": (png(random_map(0, HEIGHT, WIDTH)), "expected its image's size, 30 x 21, found 21 x 30"),
    "large": (png(np.full((HEIGHT, WIDTH), 999, np.uint16)), "class indices up to 255, found 999"),
    "truncated": (png(random_map(0))[:-100], "cannot be decoded: "),
    "empty": (b"", "expected a PNG file, found an empty one"),
    "text": (b"not an image", "expected a PNG file, found one that begins with b'not an image'"),
    "missing": (None, "is missing; add it, or remove the image"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_map_counts_as_a_bad_image_does(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]], bad: str
) -> None:
    data, message = BAD[bad]
    path = tmp_path / "masks" / "04.png"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConversionError, match=r"1 samples cannot be read.*on_error='skip'") as caught:
        converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert caught.value.skipped[0][0] == "04.bmp"
    assert caught.value.skipped[0][1].startswith(f"label map {path}: ")
    assert message in caught.value.skipped[0][1]
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "out")
    write_map(path, pairs["04"])
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    options = replace(OPTIONS, ignore_index=IGNORED)
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options, resume=True)
    assert same(stored(tmp_path / "out"), {name: nearest(values, 16) for name, values in pairs.items()})


def test_bad_maps_are_skipped_with_their_images_and_reported(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    (tmp_path / "masks" / "00.png").unlink()
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    (tmp_path / "images" / "06.bmp").write_bytes(b"")
    (tmp_path / "masks" / "06.png").write_bytes(b"")
    converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out", on_error="skip")
    kept = {name: nearest(v, 16) for name, v in pairs.items() if name not in ("00", "05", "06")}
    assert same(stored(tmp_path / "out"), kept)
    report = pq.read_table(tmp_path / "out" / "train" / "skipped.parquet").to_pylist()
    assert [row["source"] for row in report] == ["00.bmp", "05.bmp", "06.bmp"]
    assert [row["reason"].partition(" ")[0] for row in report] == ["label", "label", "the"]
    assert verify(str(tmp_path / "out")).problems == []


def test_a_png_cut_anywhere_is_refused_or_whole() -> None:
    values = random_map(4)
    data = png(values)
    refused = 0
    for end in range(len(data)):
        try:
            assert (load_mask(data[:end]) == values).all()
        except SampleError:
            refused += 1
    assert refused > 0.9 * len(data)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.usefixtures("pairs")
def test_decode_processes_and_this_process_store_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    for workers in (0, 2):
        options = {"workers": workers, "on_error": "skip", "mask_size": 13}
        converted(tmp_path / "images", tmp_path / "masks", tmp_path / f"{workers}", **options)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


class _StoppedError(Exception):
    pass


def test_a_conversion_stopped_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 2)
    monkeypatch.setattr(image_conversion, "SAVE_SECONDS", 0.0)
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    options = replace(OPTIONS, on_error="skip", ignore_index=IGNORED)
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    convert_source(source, tmp_path / "whole", tokenizer=BrightnessTokenizer(), options=options)
    expected = contents(tmp_path / "whole")
    for stop in range(1, len(pairs) + 1):
        out = tmp_path / f"{stop}"

        def stop_here(state: Progress, stop: int = stop) -> None:
            if state.done >= stop:
                raise _StoppedError

        arguments: dict[str, Any] = {"tokenizer": BrightnessTokenizer(), "options": options}
        with pytest.raises(_StoppedError):
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


@pytest.mark.parametrize(("size", "ignored"), [(0, 255), (8, 256), (8, -1)])
def test_a_decoder_of_no_size_or_of_another_ignore_index_is_refused(size: int, ignored: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        MaskDecoder(ImageOptions(8), size, ignored)
