"""Label maps lie over their images' pixels, by the nearest neighbour of each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.label_maps import IGNORED, converted, nearest, random_map, same, stored, write_map
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokenstore.audit.verify import verify
from tokenstore.sources.images import ImageOptions, Resize, decode_image
from tokenstore.sources.masks import MaskDecoder

RESIZES: tuple[Resize, ...] = ("squash", "crop", "pad")


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


@pytest.mark.parametrize(("size", "ignored"), [(0, 255), (8, 256), (8, -1)])
def test_a_decoder_of_no_size_or_of_another_ignore_index_is_refused(size: int, ignored: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        MaskDecoder(ImageOptions(8), size, ignored)
