"""Large JPEG images decoded at a reduced scale give nearly the pixels of those that are decoded in full."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tokenstore
from tokenstore.errors import ArgumentError, ManifestError, SampleError, TokenizerError
from tokenstore.format import Preprocessing
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers.encoder import options_of


def jpeg(width: int, height: int, orientation: int | None = None) -> bytes:
    """Draw smooth colours, and some noise at a scale of a few pixels, as a JPEG file."""
    rng = np.random.default_rng(width * height)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (rows, rows, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for rows in (5, max(2, min(width, height) // 16))
    )
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.blend(coarse, fine, 0.2).save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


@pytest.fixture
def decoded_shapes(monkeypatch):
    """Collect the shapes that libjpeg decodes at."""
    shapes = []
    decode = simplejpeg.decode_jpeg

    def noted(*arguments, **options):
        pixels = decode(*arguments, **options)
        shapes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    return shapes


@pytest.mark.parametrize(
    ("size", "at"),
    [
        ((256, 256), (64, 64)),  # an eighth has too few pixels for inputs of 32
        ((1001, 700), (88, 126)),
        ((512, 300), (75, 128)),
        ((255, 128), (64, 128)),
        ((255, 127), (127, 255)),
        ((100, 100), (100, 100)),
    ],
)
def test_an_image_is_decoded_at_the_least_scale_of_twice_the_inputs_sides(decoded_shapes, size, at):
    image = decode_image(jpeg(*size), ImageOptions(32, fast_decode=True))
    assert decoded_shapes == [at]
    assert (image.width, image.height) == size


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.sampled_from([8, 32, (16, 40)]),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    orientation=st.sampled_from([None, *range(1, 9)]),
)
def test_pixels_are_nearly_those_of_the_image_in_full(width, height, size, resize, orientation):
    data = jpeg(width, height, orientation)
    plain, fast = (decode_image(data, ImageOptions(size, resize, fast_decode=how)) for how in (False, True))
    assert (fast.width, fast.height) == (plain.width, plain.height)
    difference = np.abs(fast.pixels.astype(int) - plain.pixels)
    assert difference.mean() < 2
    assert difference.max() < 32


def test_a_damaged_file_is_no_image_at_a_reduced_scale_either():
    data = jpeg(600, 600)
    with pytest.raises(SampleError, match="cannot be decoded"):
        decode_image(data[: len(data) // 2], ImageOptions(32, fast_decode=True))


def test_a_store_says_that_it_was_decoded_fast_and_its_images_are_read_so_again(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(600 + number, 500))
    options = {"tokenizer": "default", "image_size": 64, "workers": 0, "fast_decode": True}
    tokenstore.convert(folder, tmp_path / "fast.zarr", **options)
    steps = tokenstore.open(tmp_path / "fast.zarr").manifest.preprocessing
    assert steps == Preprocessing(64, 64, "squash", "dct-bicubic")
    assert options_of(steps, "here") == ImageOptions((64, 64), fast_decode=True)
    tokenstore.append(tmp_path / "fast.zarr", folder, again=True)
    store = tokenstore.open(tmp_path / "fast.zarr")
    codes = store[store.splits[0]][:]
    assert (codes[:3] == codes[3:]).all()


def test_views_and_tokenizers_of_files_refuse_it_and_so_does_an_unknown_filter(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(jpeg(64, 64))
    with pytest.raises(ArgumentError, match="views are cut from images of full size"):
        tokenstore.convert(images, tmp_path / "out", views="flip", fast_decode=True)
    with pytest.raises(TokenizerError, match="encodes files, of which it needs every pixel"):
        tokenstore.convert(images, tmp_path / "out", tokenizer="dct", fast_decode=True)
    with pytest.raises(ManifestError, match="expected 'bicubic' or 'dct-bicubic', found 'lanczos'"):
        options_of(Preprocessing(8, 8, "squash", "lanczos"), "preprocessing")
