"""The views of an image: cut as described, with boxes that say where, the same wherever they are cut."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenstore.codecs.views import Views
from tokenstore.errors import ArgumentError, SampleError
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.sources.views import (
    LEAST_SHARE,
    WIDEST_ASPECT,
    BoxDecoder,
    FixedDecoder,
    RandomCrops,
    ViewDecoder,
    parse_views,
)

Pixels = npt.NDArray[np.uint8]


def file_of(height: int, width: int, seed: int = 0, **options: Any) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(file, "PNG", **options)
    return file.getvalue()


def decoded(decoder: ViewDecoder, data: bytes) -> tuple[Pixels, npt.NDArray[np.int32] | None]:
    inputs = np.empty((1, *decoder.shape), decoder.dtype)
    decoder.decode(data, inputs[0])
    boxes = decoder.boxes(inputs)
    return decoder.pixels(inputs)[0], None if boxes is None else boxes[0]


def pixels_of(data: bytes, options: ImageOptions) -> Pixels:
    return decode_image(data, options).pixels


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_flip_pair_is_the_image_as_without_views_and_its_mirror_image(resize: Any) -> None:
    options, data = ImageOptions((24, 32), resize), file_of(37, 53)
    decoder = parse_views("flip").decoder(options)
    views, boxes = decoded(decoder, data)
    plain = pixels_of(data, options)
    np.testing.assert_array_equal(views, np.stack([plain, plain[:, ::-1]]))
    assert boxes is None
    assert decoder.views == Views(2, ((0, 0, 24, 32, 0), (0, 0, 24, 32, 1)))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("size", "factor", "larger"), [(32, 1.1, 35), (32, 1.25, 40), (20, 1.05, 21)])
def test_ten_crops_are_those_of_the_enlarged_image_then_those_of_its_mirror_image(
    resize: Any, size: int, factor: float, larger: int
) -> None:
    data = file_of(61, 47)
    decoder = parse_views(f"ten-crop:{factor}").decoder(ImageOptions(size, resize))
    views, _ = decoded(decoder, data)
    whole = pixels_of(data, ImageOptions(larger, resize))
    spare = larger - size
    corners = [(0, 0), (0, spare), (spare, 0), (spare, spare)]
    expected = [
        image[top : top + size, left : left + size]
        for image in (whole, whole[:, ::-1])
        for top, left in corners
    ]
    np.testing.assert_array_equal(views[[0, 1, 2, 3, 5, 6, 7, 8]], np.stack(expected))
    middle = round(spare / 2)
    np.testing.assert_array_equal(views[4], whole[middle : middle + size, middle : middle + size])
    np.testing.assert_array_equal(views[[6, 5, 8, 7, 9]], views[:5, :, ::-1])


def test_ten_crops_are_in_the_order_and_at_the_places_of_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    data = file_of(50, 50)
    views, _ = decoded(parse_views("ten-crop:1.1").decoder(ImageOptions(40)), data)
    image = Image.fromarray(pixels_of(data, ImageOptions(44)))
    np.testing.assert_array_equal(
        views, np.stack([np.asarray(crop) for crop in functional.ten_crop(image, 40)])
    )


@pytest.mark.parametrize("text", ["flip", "ten-crop:1.2"])
def test_boxes_of_the_store_cut_the_same_views_of_the_resized_image(text: str) -> None:
    data = file_of(70, 45)
    first = parse_views(text).decoder(ImageOptions(40))
    boxes = first.views.boxes
    assert boxes is not None
    again, _ = decoded(FixedDecoder(ImageOptions(40), boxes), data)
    np.testing.assert_array_equal(again, decoded(first, data)[0])


def test_boxes_of_another_size_are_brought_to_that_of_a_view() -> None:
    data = file_of(48, 48)
    views, _ = decoded(FixedDecoder(ImageOptions(16), ((0, 0, 16, 16, 0), (16, 8, 32, 24, 1))), data)
    whole = Image.fromarray(pixels_of(data, ImageOptions((48, 32))))
    part = whole.crop((8, 16, 32, 48)).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(views[1], np.asarray(part)[:, ::-1])


def test_boxes_of_a_huge_image_are_an_error_of_the_sample_and_no_memory() -> None:
    decoder = FixedDecoder(ImageOptions(16), ((0, 0, 16, 16, 0), (2**19, 2**19, 2**19, 2**19, 0)))
    with pytest.raises(SampleError, match="1048576 x 1048576 are of more than the 89478485 pixels allowed"):
        decoded(decoder, file_of(20, 20))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    resize=st.sampled_from(["squash", "crop"]),
    size=st.sampled_from([(8, 8), (6, 9)]),
    seed=st.integers(0, 3),
)
def test_random_crops_lie_in_the_image_and_their_boxes_cut_them_again(
    height: int, width: int, resize: Any, size: tuple[int, int], seed: int
) -> None:
    options, data = ImageOptions(size, resize), file_of(height, width, seed)
    decoder = parse_views(f"random:5:{seed}").decoder(options)
    views, boxes = decoded(decoder, data)
    assert boxes is not None
    assert boxes.dtype == np.int32
    assert boxes.min() >= 0
    assert boxes[:, 2:4].min() >= 1
    assert (boxes[:, 0] + boxes[:, 2]).max() <= height
    assert (boxes[:, 1] + boxes[:, 3]).max() <= width
    known = BoxDecoder(options, tuple(map(tuple, boxes.tolist())))
    again, _ = decoded(known, data)
    np.testing.assert_array_equal(again, views)


@pytest.mark.parametrize(
    ("resize", "height", "width"), [("squash", 41, 67), ("crop", 40, 64), ("crop", 64, 44)]
)
def test_the_first_random_view_is_the_image_as_without_views(resize: Any, height: int, width: int) -> None:
    options, data = ImageOptions(16, resize), file_of(height, width)
    views, boxes = decoded(parse_views("random:3").decoder(options), data)
    np.testing.assert_array_equal(views[0], pixels_of(data, options))
    assert boxes is not None
    side = min(height, width)
    places = {
        "squash": [0, 0, height, width],
        "crop": [(height - side) // 2, (width - side) // 2, side, side],
    }
    assert boxes[0].tolist() == [*places[resize], 0]


def test_a_mirrored_crop_is_the_mirror_image_of_its_box() -> None:
    options, data = ImageOptions(8), file_of(30, 30)
    box = (3, 5, 20, 11)
    views, _ = decoded(BoxDecoder(options, ((*box, 0), (*box, 1))), data)
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])


def test_random_crops_depend_on_the_file_and_the_seed_alone_and_spread_over_the_image() -> None:
    def boxes(text: str, data: bytes, resize: Any = "squash") -> list[list[int]]:
        found = parse_views(text).decoder(ImageOptions(16, resize)).boxes_of(data, 400, 300)
        assert found is not None
        return found.tolist()

    one, two = b"one file", b"another file"
    assert boxes("random:9", one) == boxes("random:9", one)
    assert boxes("random:9", one) == boxes("random:12", one)[:9], "more views changed the first ones"
    assert boxes("random:9", one)[1:] != boxes("random:9", two)[1:]
    assert boxes("random:9", one)[1:] != boxes("random:9:1", one)[1:]
    assert boxes("random:9:0", one) == boxes("random:9", one)
    drawn = np.array(boxes("random:256", one)[1:])
    shares = drawn[:, 2] * drawn[:, 3] / (300 * 400)
    assert LEAST_SHARE - 0.01 <= shares.min() < 0.15
    assert shares.max() > 0.85
    aspects = (drawn[:, 3] / 400) / (drawn[:, 2] / 300)
    assert 1 / WIDEST_ASPECT - 0.02 < aspects.min() < 0.85 < 1.15 < aspects.max() < WIDEST_ASPECT + 0.03
    assert 90 < drawn[:, 4].sum() < 165
    squares = np.array(boxes("random:64", one, "crop"))
    assert (squares[:, 2] == squares[:, 3]).all(), "a crop was squashed"


def test_boxes_lie_in_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    data = file_of(20, 40, exif=exif)
    decoder = parse_views("random:4").decoder(ImageOptions(8))
    inputs = np.empty((1,), decoder.dtype)
    assert decoder.decode(data, inputs[0]) == (20, 40)
    assert inputs["boxes"][0, 0].tolist() == [0, 0, 40, 20, 0]


def test_a_box_outside_the_image_is_an_error_of_the_sample() -> None:
    decoder = BoxDecoder(ImageOptions(8), ((0, 0, 10, 30, 0), (0, 0, 8, 8, 1)))
    with pytest.raises(SampleError, match=r"views inside an image of 20 x 30, found boxes \[\[0, 0, 10, 30"):
        decoded(decoder, file_of(30, 20))


@pytest.mark.parametrize("text", ["flip", "ten-crop:1.1", "random:4", "random:4:7"])
def test_a_decoder_travels_to_its_process_and_a_broken_file_is_an_error_of_the_sample(text: str) -> None:
    rule = parse_views(text)
    assert str(rule) == text
    decoder = pickle.loads(pickle.dumps(rule.decoder(ImageOptions(32))))
    assert decoder.views.count == rule.count
    assert decoder == rule.decoder(ImageOptions(32))
    with pytest.raises(SampleError, match="the file is empty"):
        decoded(decoder, b"")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flips", "Did you mean 'flip'"),
        ("", "expected 'flip'"),
        ("flip:2", "expected 'flip'"),
        ("ten-crop", "a factor above 1, up to 4"),
        ("ten-crop:1", "a factor above 1"),
        ("ten-crop:nan", "a factor above 1"),
        ("ten-crop:1.1:2", "a factor above 1"),
        ("ten-crop:1e9", "a factor above 1"),
        ("random", "2 to 256 views"),
        ("random:1", "2 to 256 views"),
        ("random:257", "2 to 256 views"),
        ("random:8:-1", "2 to 256 views"),
        ("random:eight", "2 to 256 views"),
    ],
)
def test_another_text_is_refused_with_the_forms(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as error:
        parse_views(text)
    assert [parameter.name for parameter in error.value.parameters] == ["views"]
    assert f"found {text!r}" in str(error.value)


def test_views_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(ArgumentError, match="crops smaller than the image"):
        parse_views("ten-crop:1.01").decoder(ImageOptions(32))
    with pytest.raises(ArgumentError, match="no padding; take squash or crop"):
        RandomCrops(4).decoder(ImageOptions(32, "pad"))
