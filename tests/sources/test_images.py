"""Any image file becomes the pixels that Pillow alone would give, or one clear reason."""

from __future__ import annotations

import io
import struct
import tarfile
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tokenstore.errors import SampleError
from tokenstore.sources import images
from tokenstore.sources.file_bytes import read_file
from tokenstore.sources.images import ImageOptions, decode_image

ORIENTATION = 0x0112
REAL_IMAGES = SHARED / "data/imagenet-sample.tar"


def scene(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Draw smooth colours with some noise, RGB uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
    noise = rng.integers(-20, 20, (height, width, 3))
    return (np.asarray(small).astype(int) + noise).clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def same_size(data: bytes) -> np.ndarray:
    """Decode an image without resizing."""
    probe = decode_image(data, ImageOptions(1))
    image = decode_image(data, ImageOptions((probe.height, probe.width)))
    assert image.pixels.shape == (probe.height, probe.width, 3)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.writeable
    return image.pixels


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(SampleError) as caught:
        decode_image(data, ImageOptions(8, **options))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 64), (201, 133)])
def test_a_jpeg_decodes_to_the_bits_that_pillow_gives(
    size: tuple[int, int], subsampling: str, progressive: bool
) -> None:
    data = encoded(scene(*size), quality=83, subsampling=subsampling, progressive=progressive)
    assert np.array_equal(same_size(data), np.asarray(by_pillow(data)))


@pytest.mark.parametrize("subsampling", ["411", "440"])
def test_a_jpeg_of_rarer_subsampling_decodes_to_the_bits_that_pillow_gives(subsampling: str) -> None:
    simplejpeg = images.simplejpeg
    data = simplejpeg.encode_jpeg(scene(), 85, "RGB", subsampling)
    assert np.array_equal(same_size(data), np.asarray(by_pillow(data)))


def test_grayscale_and_rgb_coded_jpegs_decode_to_the_bits_that_pillow_gives() -> None:
    for data in (
        encoded(Image.fromarray(scene()).convert("L")),
        encoded(scene(), keep_rgb=True),
        encoded(scene(), restart_marker_blocks=2),
    ):
        assert np.array_equal(same_size(data), np.asarray(by_pillow(data)))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 100), st.integers(0, 2), st.booleans())
def test_the_fast_jpeg_path_equals_the_plain_one(
    height: int, width: int, quality: int, subsampling: int, progressive: bool
) -> None:
    data = encoded(
        scene(height, width, quality), quality=quality, subsampling=subsampling, progressive=progressive
    )
    fast = images._decode_jpeg(data, height, width)
    assert fast is not None
    assert np.array_equal(fast, np.asarray(by_pillow(data)))


@pytest.mark.skipif(not REAL_IMAGES.exists(), reason=f"no photographs at {REAL_IMAGES.name}")
def test_photographs_decode_and_resize_to_the_bits_that_pillow_gives() -> None:
    with tarfile.open(REAL_IMAGES) as tar:
        photographs = [tar.extractfile(member).read() for member in tar.getmembers()[::10]]
    for data in photographs:
        expected = by_pillow(data)
        image = decode_image(data, ImageOptions(256))
        assert (image.width, image.height) == expected.size
        assert np.array_equal(image.pixels, np.asarray(expected.resize((256, 256), Image.Resampling.BICUBIC)))
        assert np.array_equal(same_size(data), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_all_exif_orientations_are_turned_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(scene(20, 30), format, exif=exif)
    upright = same_size(data)
    assert upright.shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))
    assert np.array_equal(upright, np.asarray(by_pillow(data)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_no_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert same_size(encoded(scene(20, 30), exif=exif)).shape == (20, 30, 3)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05", b"Exif\0\0garbage here", b"x" * 50]
)
def test_a_damaged_exif_block_spoils_neither_pixels_nor_warnings(exif: bytes) -> None:
    data = encoded(scene(20, 30), exif=exif)
    assert np.array_equal(same_size(data), np.asarray(by_pillow(data)))


def test_sixteen_bit_grey_loses_its_low_byte() -> None:
    values = np.array([[0, 255, 256, 0x1234], [0x7FFF, 0x8000, 0xFF00, 0xFFFF]], np.uint16)
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    pgm = b"P5 4 2 65535\n" + values.astype(">u2").tobytes()
    for data in (encoded(values, "PNG"), encoded(values, "TIFF"), pgm):
        assert np.array_equal(same_size(data), expected)


def test_big_endian_sixteen_bit_tiff_is_read_in_its_byte_order() -> None:
    values = np.array([[0x0102, 0xF0E0]], np.uint16)
    image = Image.frombytes("I;16B", (2, 1), values.astype(">u2").tobytes())
    assert same_size(encoded(image, "TIFF"))[0, :, 0].tolist() == [0x01, 0xF0]


@pytest.mark.parametrize(("mode", "format"), [("I", "TIFF"), ("F", "TIFF")])
def test_pixels_of_32_bits_are_refused_with_the_reason(mode: str, format: str) -> None:
    assert "32 bits" in reason(encoded(Image.new(mode, (4, 4)), format))


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(scene()).quantize(17)
    for format in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(same_size(encoded(image, format)), np.asarray(image.convert("RGB")))


def test_transparency_lies_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]
    pixels = same_size(encoded(Image.fromarray(rgba), "PNG"))
    assert pixels[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert pixels[0, 2].tolist() == pytest.approx([127, 127, 127], abs=1)
    grey = np.array([[[7, 255], [7, 0]]], np.uint8)
    assert same_size(encoded(Image.fromarray(grey, "LA"), "PNG"))[0, :, 0].tolist() == [7, 255]


def test_a_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        data = encoded(image, format, transparency=0)
        assert same_size(data)[0].tolist() == [[255, 255, 255], [0, 0, 200]]
    as_bytes = encoded(image, "PNG", transparency=b"\x00\xff")
    assert same_size(as_bytes)[0].tolist() == [[255, 255, 255], [0, 0, 200]]


@pytest.mark.parametrize("pixels", [1, 53, 200])
def test_transparency_drawn_in_strips_is_that_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    rgba = Image.fromarray(np.random.default_rng(3).integers(0, 256, (37, 53, 4), np.uint8))
    for image in (rgba, rgba.convert("LA"), rgba.convert("RGB").quantize(9)):
        options = {"transparency": bytes(range(0, 250, 50))} if image.mode == "P" else {}
        data = encoded(image, "PNG", **options)
        with Image.open(io.BytesIO(data)) as opened:
            white = Image.new("RGBA", image.size, "white")
            expected = Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB")
        monkeypatch.setattr(images, "_STRIP_PIXELS", pixels)
        assert np.array_equal(same_size(data), np.asarray(expected))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("#ff0000", "#00ff00")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (same_size(data) == [255, 0, 0]).all()


def test_cmyk_becomes_rgb_as_pillow_converts_it() -> None:
    image = Image.fromarray(scene()).convert("CMYK")
    for format in ("JPEG", "TIFF"):
        data = encoded(image, format)
        assert np.array_equal(same_size(data), np.asarray(by_pillow(data)))


def test_one_bit_images_are_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    for format in ("PNG", "TIFF", "PPM", "BMP"):
        assert same_size(encoded(image, format))[:, :, 1].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_a_truncated_image_is_refused(format: str, kept: float) -> None:
    data = encoded(scene(64, 64), format)
    assert reason(data[: int(len(data) * kept)])


@pytest.mark.parametrize("cut", range(1, 700, 23))
def test_a_jpeg_cut_anywhere_gives_a_reason_or_what_pillow_gives(cut: int) -> None:
    data = encoded(scene(16, 16))[:cut]
    try:
        expected = np.asarray(by_pillow(data))
    except Exception:
        assert reason(data)
    else:
        assert np.array_equal(same_size(data), expected)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "JPEG2000"]), st.data())
def test_flipped_bytes_give_pixels_or_a_reason_and_nothing_else(format: str, data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = bytearray(encoded(scene(16, 12), format, **({"exif": exif} if format == "JPEG" else {})))
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=4)):
        file[place] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(file), ImageOptions(8)).pixels.shape == (8, 8, 3)
    except SampleError:
        assert reason(bytes(file))


def test_an_empty_file_says_that_it_is_empty() -> None:
    assert reason(b"") == "the file is empty"


def test_text_with_an_image_name_is_refused_with_its_beginning() -> None:
    assert "b'Dear reader,'" in reason(b"Dear reader, this is no image.\n" * 9)


def test_formats_that_start_programs_are_not_read() -> None:
    assert "not an image of a known format" in reason(encoded(Image.new("RGB", (4, 4)), "EPS"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    assert "pixels" in reason(bomb)
    assert reason(encoded(scene(20, 30), "PNG"), max_pixels=599) == (
        "30 x 20 is more than the 599 pixels allowed"
    )
    decode_image(encoded(scene(20, 30), "PNG"), ImageOptions(8, max_pixels=600))


def test_pillows_own_pixel_limit_neither_warns_nor_stays_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert same_size(encoded(scene(20, 30), "PNG")).shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (20000, 3), (3, 20000), (2, 2000)])
def test_extreme_shapes_resize_without_a_fuss(height: int, width: int, resize: str) -> None:
    image = decode_image(encoded(scene(height, width)), ImageOptions((24, 32), resize))
    assert image.pixels.shape == (24, 32, 3)
    assert (image.height, image.width) == (height, width)


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (32, 24), (5, 7)])
def test_resizing_gives_the_bits_that_pillow_alone_gives(height: int, width: int) -> None:
    data, size, bicubic = encoded(scene(height, width)), (32, 24), Image.Resampling.BICUBIC
    plain = by_pillow(data)
    squashed = decode_image(data, ImageOptions((24, 32), "squash")).pixels
    assert np.array_equal(squashed, np.asarray(plain.resize(size, bicubic)))
    padded = decode_image(data, ImageOptions((24, 32), "pad")).pixels
    assert np.array_equal(padded, np.asarray(ImageOps.pad(plain, size, bicubic)))
    cropped = decode_image(data, ImageOptions((24, 32), "crop")).pixels
    wide = width * 24 > height * 32
    part = (height * 32 / 24, height) if wide else (width, width * 24 / 32)
    left, top = (width - part[0]) / 2, (height - part[1]) / 2
    box = (left, top, width - left, height - top)
    assert np.array_equal(cropped, np.asarray(plain.resize(size, bicubic, box=box)))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_an_image_of_the_right_size_is_not_resampled(resize: str) -> None:
    pixels = scene(24, 32)
    assert np.array_equal(decode_image(encoded(pixels, "PNG"), ImageOptions((24, 32), resize)).pixels, pixels)


def test_padding_is_black_and_centred() -> None:
    pixels = decode_image(encoded(Image.new("RGB", (10, 20), "white"), "PNG"), ImageOptions(20, "pad")).pixels
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 5:15] == 255).all()
    assert (pixels[:, 15:] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "at least 1 pixel"),
        ({"size": 8, "resize": "zoom"}, "squash"),
        ({"size": 8, "max_pixels": 0}, "1"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageOptions(**options)


@pytest.mark.parametrize("error", [struct.error, SyntaxError, OSError, ValueError, MemoryError, RuntimeError])
def test_whatever_pillow_raises_becomes_a_reason_in_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("went\nwrong")

    def fail_without_a_word(*_: object, **__: object) -> None:
        raise error

    data = encoded(scene())
    monkeypatch.setattr(images.Image, "open", fail)
    assert "went wrong" in reason(data)
    monkeypatch.setattr(images.Image, "open", fail_without_a_word)
    assert error.__name__ in reason(data)


def test_threads_decode_at_the_same_time_without_warnings_and_without_mixing() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05"
    files = [encoded(scene(30, 40, seed), exif=exif) for seed in range(4)]
    expected = [np.asarray(by_pillow(data)) for data in files]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(50):
            if not np.array_equal(decode_image(files[which], ImageOptions((30, 40))).pixels, expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_folder_in_the_place_of_an_image_leaves_no_file_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list a process's descriptors")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        assert isinstance(read_file(str(tmp_path)), SampleError)
    assert len(list(descriptors.iterdir())) == before
