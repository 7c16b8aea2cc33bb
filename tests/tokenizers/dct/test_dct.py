"""DCT codes are the first coefficients of each block, and decode to the files' own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.jpeg_files import by_pillow, codes_of, expected_codes, inputs_of, read_sequential, saved, scene

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import FileTokenizer, load_tokenizer
from tokenstore.tokenizers.kinds.dct import load

FINGERPRINT = "708a5b91110ae4f0dab753b625cfe2381f91f83f5c8dee2dd2ec27f06ff8c0a2"


# ---- codes


@pytest.mark.parametrize(
    ("argument", "kept", "luma_side"),
    [
        (None, (15, 6, 6), 2),
        ("64", (64, 64, 64), 2),
        ("y=1,cb=2,cr=3", (1, 2, 3), 2),
        ("y=7,cb=0,cr=4,sampling=444", (7, 0, 4), 1),
        ("9,sampling=444", (9, 9, 9), 1),
    ],
)
def test_codes_are_the_first_coefficients_of_each_block_in_planes_of_their_own(
    argument: str | None, kept: tuple[int, int, int], luma_side: int
) -> None:
    tokenizer = load(argument)
    subsampling = "4:2:0" if luma_side == 2 else "4:4:4"
    colour = saved(scene(48, 80), quality=70, subsampling=subsampling)
    grey = saved(scene(48, 80)[..., 1], quality=90)
    codes = codes_of(tokenizer, colour, grey, size=(48, 80))
    planes = luma_side**2 * kept[0] + kept[1] + kept[2]
    stride = 8 * luma_side
    assert tokenizer.codebook_sizes == (2048,) * planes
    assert codes.shape[1:] == (planes, 48 // stride, 80 // stride) == tokenizer.grid((3, 48, 80))
    assert codes.dtype == torch.int64
    assert np.array_equal(codes[0], expected_codes(colour, kept, luma_side))
    assert np.array_equal(codes[1], expected_codes(grey, kept, luma_side))


def test_a_single_plane_has_no_axis_of_its_own() -> None:
    tokenizer = load("y=1,cb=0,cr=0,sampling=444")
    data = saved(scene(), subsampling="4:4:4")
    codes = codes_of(tokenizer, data)
    assert codes.shape == (1, 8, 8) == (1, *tokenizer.grid((3, 64, 64)))
    assert np.array_equal(codes[0], read_sequential(data)[0][0][..., 0] + 1024)
    images = torch.from_numpy(scene().transpose(2, 0, 1).copy())[None]
    assert tokenizer.encode(images).shape == (1, 8, 8)
    assert tokenizer.decode(codes).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("sampling", ["420", "444"])
@pytest.mark.parametrize("quality", [50, 80, 95, 100])
def test_all_coefficients_decode_to_the_files_own_pixels(quality: int, sampling: str) -> None:
    tokenizer = load(f"64,sampling={sampling}")
    pixels = scene(48, 80, seed=quality)
    options = {"quality": quality, "subsampling": ":".join(sampling)}
    files = [
        saved(pixels, **options),
        saved(pixels, progressive=True, **options),
        saved(pixels[..., 0], quality=quality),
        saved(pixels, qtables=[list(range(1, 65)), list(range(64, 0, -1))], subsampling=":".join(sampling)),
    ]
    inputs = inputs_of(tokenizer, *files, size=(48, 80))
    rebuilt = tokenizer.decode(tokenizer.encode(torch.from_numpy(inputs)), **tokenizer.column_values(inputs))
    assert rebuilt.dtype == torch.uint8
    assert np.array_equal(rebuilt, [by_pillow(data) for data in files])


def test_coefficients_that_were_not_kept_decode_as_zeros() -> None:
    whole, part = load("64"), load("y=10,cb=3,cr=2")
    data = saved(scene(), subsampling="4:2:0")
    codes, inputs = codes_of(whole, data), inputs_of(part, data)
    cut = codes.clone()
    cut[:, :256].unflatten(1, (4, 64))[:, :, 10:] = 1024
    cut[:, 256 + 3 : 320] = 1024
    cut[:, 320 + 2 :] = 1024
    tables = part.column_values(inputs)["quantization"]
    assert torch.equal(part.decode(codes_of(part, data), tables), whole.decode(cut, tables))
    assert not torch.equal(whole.decode(cut, tables), whole.decode(codes, tables))


def test_the_column_holds_each_files_own_tables() -> None:
    tokenizer = load("3")
    assert isinstance(tokenizer, FileTokenizer)
    files = [saved(scene(), quality=quality) for quality in (30, 60, 90)] + [saved(scene()[..., 0])]
    inputs = inputs_of(tokenizer, *files)
    found = tokenizer.column_values(inputs)["quantization"]
    column = tokenizer.columns["quantization"]
    assert (found.dtype, found.shape[1:]) == (column.dtype, column.shape)
    for tables, data in zip(found[:3], files, strict=False):
        luma, blue, red = read_sequential(data)[1]
        assert np.array_equal(tables, [luma, blue, red])
    assert np.array_equal(found[3], [read_sequential(files[3])[1][0], np.ones(64), np.ones(64)])
    assert tokenizer.column_values(inputs[:0])["quantization"].shape == (0, 3, 64)


def test_grids_too_small_to_hold_the_tables_in_one_plane_hold_them_in_several() -> None:
    tokenizer = load("2")
    for size in ((16, 16), (16, 48), (256, 256)):
        data = saved(scene(*size), quality=44)
        inputs = inputs_of(tokenizer, data, size=size)
        tables = tokenizer.column_values(inputs)["quantization"][0]
        assert np.array_equal(tables, read_sequential(data)[1])


# ---- options


def test_the_tokenizer_says_what_it_is() -> None:
    tokenizer = load_tokenizer("dct")
    assert (tokenizer.name, tokenizer.codebook, tokenizer.dtype) == ("dct", None, None)
    assert tokenizer.codebook_sizes == (2048,) * 72
    assert tokenizer.grid((3, 256, 256)) == (72, 16, 16)
    assert (tokenizer.image_size, tokenizer.device) == (256, torch.device("cpu"))
    assert load_tokenizer("dct:size=64").image_size == 64
    assert tokenizer.to("cuda").device == torch.device("cpu")


def test_the_fingerprint_is_of_all_that_decides_codes() -> None:
    """Stores hold this number: it may only change together with what the codes mean."""
    assert load(None).fingerprint == FINGERPRINT
    assert load("y=15,quality=75,size=64").fingerprint == FINGERPRINT
    options = [None, "y=14", "cb=5", "cr=5", "quality=76", "sampling=444", "15"]
    assert len({load(argument).fingerprint for argument in options}) == len(options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("z=3", "an option of y, cb, cr, quality, sampling, size; found 'z=3' in 'z=3'"),
        ("y=3,", "found '' in 'y=3,'"),
        ("y=", "found 'y='"),
        ("y=-1", "found 'y=-1'"),
        ("y=1.5", "found 'y=1.5'"),
        ("y=٣", "found 'y=٣'"),
        ("fast", "found 'fast'"),
        ("y=3,y=4", "each option once, found 'y=4' again"),
        ("y=3,20", "each option once, found '20' again"),
        ("y=0", r"y to be in 1\.\.64, found 0"),
        ("65", r"y to be in 1\.\.64, found 65"),
        ("cb=65", r"cb to be in 0\.\.64, found 65"),
        ("quality=0", r"quality to be in 1\.\.100, found 0"),
        ("quality=101", r"quality to be in 1\.\.100, found 101"),
        ("sampling=422", "sampling to be 420 or 444, found 422"),
        ("size=40", "size to be a multiple of 16, found 40"),
        ("size=0", r"size to be in 1\.\.65500, found 0"),
        ("size=70000", r"size to be in 1\.\.65500, found 70000"),
    ],
)
def test_wrong_options_are_refused(argument: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(f"dct:{argument}")
