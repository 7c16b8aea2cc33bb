"""Images that are not JPEG files of the right kind are saved as such first; batches, stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.jpeg_files import (
    by_pillow,
    codes_of,
    expected_codes,
    inputs_of,
    read_sequential,
    saved,
    scene,
    written,
)
from helpers.stores import contents
from PIL import Image

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.images import LoadedTokenizer
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.dct import load
from tokenstore.tokenizers.quality import psnr

EXIF_ORIENTATION = 0x0112


# ---- images that are not such files


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return saved(scene(), quality=91, exif=exif)


def test_what_stands_around_the_coefficients_does_not_matter() -> None:
    tokenizer = load("64")
    plain = saved(scene(), quality=91)
    expected = codes_of(tokenizer, plain)
    assert np.array_equal(expected[0], expected_codes(plain, (64, 64, 64), 2))
    described = saved(scene(), quality=91, comment=b"\xff\xd9" * 9, icc_profile=bytes(70_000), xmp=b"<x/>")
    stuffed = plain.replace(b"\xff\xdb", b"\xff\xff\xff\xdb").replace(b"\xff\xda", b"\xff\xff\xda")
    for data in (described, oriented(1), plain + b"\xff\xd8 and more", stuffed):
        assert np.array_equal(codes_of(tokenizer, data), expected)


def test_equal_sampling_factors_of_any_size_are_no_subsampling() -> None:
    blocks, tables = read_sequential(saved(scene(), subsampling="4:4:4"))
    codes = codes_of(load("64,sampling=444"), written(blocks, tables, factors=(2, 1)))
    assert np.array_equal(codes[0] - 1024, np.concatenate([part.transpose(2, 0, 1) for part in blocks]))


@pytest.mark.parametrize(
    "data",
    [
        saved(scene(), "PNG"),
        saved(scene(), "WEBP"),
        saved(scene(80, 64), quality=90),
        saved(scene(), subsampling="4:4:4", quality=90),
        saved(scene(), subsampling="4:2:2", quality=90),
        saved(scene(), keep_rgb=True),
        saved(Image.fromarray(scene()).convert("CMYK")),
        *(oriented(orientation) for orientation in range(2, 9)),
    ],
    ids=["png", "webp", "size", "444", "422", "rgb", "cmyk", *(f"orientation-{n}" for n in range(2, 9))],
)
def test_any_other_image_is_saved_as_jpeg_first(data: bytes) -> None:
    tokenizer = load("64,quality=83")
    image = decode_image(data, ImageOptions(64))
    as_jpeg = saved(image.pixels, quality=83, subsampling="4:2:0")
    inputs = inputs_of(tokenizer, data)
    codes = tokenizer.encode(torch.from_numpy(inputs))
    assert np.array_equal(codes[0], expected_codes(as_jpeg, (64, 64, 64), 2))
    assert np.array_equal(tokenizer.column_values(inputs)["quantization"][0], read_sequential(as_jpeg)[1])
    out = np.empty(inputs.shape[1:], inputs.dtype)
    assert tokenizer.decoder(ImageOptions(64)).decode(data, out) == (image.width, image.height)


def test_a_subsampled_file_is_saved_again_where_no_subsampling_is_wanted() -> None:
    data = saved(scene(), subsampling="4:2:0", quality=90)
    pixels = np.ascontiguousarray(by_pillow(data).transpose(1, 2, 0))
    as_jpeg = saved(pixels, quality=75, subsampling="4:4:4")
    assert np.array_equal(
        codes_of(load("64,sampling=444"), data)[0], expected_codes(as_jpeg, (64, 64, 64), 1)
    )


def test_images_are_encoded_as_their_files_are() -> None:
    tokenizer = load("12,quality=60")
    pixels = [scene(64, 96, seed) for seed in range(5)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    from_files = codes_of(tokenizer, *(saved(each, "PNG") for each in pixels), size=(64, 96))
    assert torch.equal(tokenizer.encode(images), from_files)
    assert torch.equal(tokenizer.encode(images.contiguous()), from_files)


def test_images_come_back_within_the_error_of_jpeg() -> None:
    """Without tables, decoding takes those of the tokenizer's quality, which are the images' own."""
    grey = [scene(seed=seed)[..., :1].repeat(3, axis=2) for seed in range(3)]
    images = torch.from_numpy(np.stack(grey)).permute(0, 3, 1, 2)
    for quality in (40, 75, 92):
        tokenizer = load(f"64,quality={quality}")
        files = [saved(image.permute(1, 2, 0).numpy(), quality=quality) for image in images]
        rebuilt = tokenizer.decode(tokenizer.encode(images))
        assert np.array_equal(rebuilt, [by_pillow(data) for data in files])
    assert psnr(images, rebuilt).min() > 35


# ---- batches


def test_codes_and_images_do_not_depend_on_batch_order_or_threads() -> None:
    tokenizer = load("20")
    tokenizer._threads = 4
    files = [saved(scene(seed=seed), quality=50 + seed) for seed in range(12)]
    images = torch.from_numpy(np.stack([scene(seed=seed) for seed in range(12)])).permute(0, 3, 1, 2)
    inputs = inputs_of(tokenizer, *files)
    tables = tokenizer.column_values(inputs)["quantization"]
    codes, of_images = tokenizer.encode(torch.from_numpy(inputs)), tokenizer.encode(images)
    rebuilt, with_own_tables = tokenizer.decode(codes, tables), tokenizer.decode(codes)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for part in torch.split(order, 5):
        assert torch.equal(tokenizer.encode(torch.from_numpy(inputs)[part]), codes[part])
        assert torch.equal(tokenizer.encode(images[part]), of_images[part])
        assert torch.equal(tokenizer.decode(codes[part], torch.from_numpy(tables)[part]), rebuilt[part])
        assert torch.equal(tokenizer.decode(codes[part].short()), with_own_tables[part])


def test_empty_batches_stay_empty() -> None:
    tokenizer = load("3")
    no_files = torch.zeros((0, *tokenizer.decoder(ImageOptions(32)).shape), dtype=torch.int32)
    no_images = torch.zeros((0, 3, 32, 32), dtype=torch.uint8)
    for inputs in (no_files, no_images):
        codes = tokenizer.encode(inputs)
        assert codes.shape == (0, 18, 2, 2)
        assert codes.dtype == torch.int64
        for tables in (None, np.zeros((0, 3, 64), np.uint16)):
            assert tokenizer.decode(codes, tables).shape == (0, 3, 32, 32)


# ---- conversion


def test_a_folder_of_files_becomes_a_store_of_their_coefficients_and_tables(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    files = {f"{seed}.jpg": saved(scene(seed=seed), quality=60 + 5 * seed) for seed in range(8)}
    files["8.png"] = saved(scene(seed=8), "PNG")
    for name, data in (files | {"9.jpg": files["0.jpg"][:-900]}).items():
        (images / name).write_bytes(data)
    spec = "dct:y=20,cb=5,cr=5,quality=80"
    tokenizer = load_tokenizer(spec)
    for workers in (0, 1):
        options = ConvertOptions(
            image_size=64, workers=workers, on_error="skip", batch_size=4, chunk_samples=4
        )
        out = tmp_path / f"out-{workers}"
        conversion = convert_source(
            open_source(images), out, tokenizer=LoadedTokenizer(tokenizer, spec), options=options
        )
        assert [skip.source for skip in conversion.skipped["train"]] == ["9.jpg"]
        assert verify(str(out)).problems == []
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-1")
    reader = tokenstore.open(tmp_path / "out-0")["train"]
    files["8.png"] = saved(scene(seed=8), quality=80)
    names = reader.samples_table()["source"].to_pylist()
    assert sorted(names) == sorted(files)
    codes, tables = reader[:], reader.read("quantization", range(9))
    assert np.array_equal(codes, [expected_codes(files[name], (20, 5, 5), 2) for name in names])
    assert tables.dtype == np.uint16
    assert np.array_equal(tables, [read_sequential(files[name])[1] for name in names])
    manifest = reader.store.manifest
    assert manifest.tokenizer.fingerprint == tokenizer.fingerprint
    assert (manifest.tokenizer.device, manifest.tokenizer.dtype) == (None, None)
    rebuilt = load_tokenizer(manifest.tokenizer.spec).decode(torch.from_numpy(codes.astype(np.int64)), tables)
    assert psnr(torch.from_numpy(np.stack([by_pillow(files[name]) for name in names])), rebuilt).min() > 20
