"""Corruptions of images: what each does to a few known pixels, and what all have in common."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from seitpp_models.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted_batch

Pixels = npt.NDArray[np.uint8]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 48, width: int = 56) -> Pixels:
    """Draw smooth colours with edges and grain."""
    drawn = rng(7)
    coarse = Image.fromarray(drawn.integers(20, 236, (6, 7, 3), np.uint8))
    smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[height // 3 :, width // 2 :] //= 2
    grain = drawn.integers(-6, 7, smooth.shape)
    return (smooth + grain).clip(0, 255).astype(np.uint8)


def plain(*colour: int, side: int = 24) -> Pixels:
    return np.full((side, side, 3), colour, np.uint8)


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_gives_another_image_of_the_same_size_and_leaves_its_own(name: str) -> None:
    image = picture()
    before = image.copy()
    image.setflags(write=False)
    for severity in SEVERITIES:
        corrupted = corrupt(image, name, severity, rng())
        assert (corrupted.shape, corrupted.dtype) == (image.shape, np.uint8)
        assert distance(corrupted, image) > 0.5
    np.testing.assert_array_equal(image, before)
    assert len(CORRUPTIONS[name].strengths) == len(SEVERITIES)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_last_severity_is_farther_from_the_image_than_the_first(name: str) -> None:
    image = picture()
    first, last = (corrupt(image, name, severity, rng()) for severity in (1, 5))
    assert distance(last, image) > 1.2 * distance(first, image)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_image(name: str) -> None:
    image = picture()
    once, again, other = (corrupt(image, name, 3, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (distance(once, other) > 0) == (name.endswith("noise") or name == "motion_blur")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_every_size_are_taken(name: str) -> None:
    for height, width in ((1, 1), (5, 9), (40, 8)):
        assert corrupt(picture(height, width), name, 5, rng()).shape == (height, width, 3)


def test_a_batch_is_corrupted_by_each_images_place_whatever_batch_it_comes_in() -> None:
    images = np.stack([picture()] * 5)
    with ThreadPoolExecutor(3) as pool:
        whole = corrupted_batch(images, range(5), "gaussian_noise", 2, 11, pool)
        parts = [
            corrupted_batch(images[rows], rows, "gaussian_noise", 2, 11, pool) for rows in ([0, 1], [2, 3, 4])
        ]
        other = corrupted_batch(images, range(5), "gaussian_noise", 2, 12, pool)
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len({image.tobytes() for image in [*whole, *other]}) == 10


def test_noise_has_the_published_strength() -> None:
    grey = plain(128, 128, 128, side=128)
    values = corrupt(grey, "gaussian_noise", 1, rng()).astype(float)
    assert values.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert values.mean() == pytest.approx(128, abs=0.5)
    speckled = corrupt(grey, "speckle_noise", 1, rng()).astype(float)
    assert speckled.std() == pytest.approx(0.15 * 128, rel=0.02)
    assert not corrupt(plain(0, 0, 0), "speckle_noise", 5, rng()).any()
    shot = corrupt(grey, "shot_noise", 1, rng()).astype(float)
    assert shot.std() == pytest.approx(255 * np.sqrt(128 / 255 / 60), rel=0.02)
    impulses = corrupt(grey, "impulse_noise", 5, rng())
    assert set(np.unique(impulses)) == {0, 128, 255}
    assert (impulses == 0).mean() == pytest.approx(0.27 / 2, abs=0.01)
    assert (impulses == 255).mean() == pytest.approx(0.27 / 2, abs=0.01)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "pixelate"])
def test_blurs_leave_a_constant_image(name: str) -> None:
    image = plain(10, 128, 250)
    for severity in SEVERITIES:
        np.testing.assert_array_equal(corrupt(image, name, severity, rng()), image)


def test_a_gaussian_blur_of_a_line_is_the_gaussian() -> None:
    image = plain(0, 0, 0, side=33)
    image[:, 16] = 255
    blurred = corrupt(image, "gaussian_blur", 2, rng())
    offsets = np.arange(-8, 9)
    weights = np.exp(-(offsets**2) / 8)
    np.testing.assert_array_equal(blurred[5, 8:25, 1], np.rint(255 * weights / weights.sum()))
    np.testing.assert_array_equal(blurred[:, :8], 0)


def test_a_defocused_point_is_a_disk() -> None:
    image = plain(0, 0, 0, side=33)
    image[16, 16] = 255
    spread = corrupt(image, "defocus_blur", 1, rng())[..., 0]
    rows, columns = np.mgrid[-16:17, -16:17]
    disk = rows**2 + columns**2 <= 9
    assert disk.sum() == 29
    np.testing.assert_array_equal(spread, np.where(disk, round(255 / 29), 0))


def test_a_point_in_motion_leaves_a_trail_to_one_side() -> None:
    image = plain(0, 0, 0, side=65)
    image[32, 48] = 255
    moved = corrupt(image, "motion_blur", 1, rng())[..., 0]
    rows, columns = np.nonzero(moved)
    assert columns.max() == 48
    assert columns.min() < 44
    assert np.abs(rows - 32).max() <= (48 - columns).max()
    assert moved[32, 48] == moved.max()


def test_brightness_is_added_to_the_brightest_channel_and_keeps_the_hue() -> None:
    assert corrupt(plain(100, 50, 0), "brightness", 2, rng())[0, 0].tolist() == [151, 76, 0]
    assert corrupt(plain(0, 0, 0), "brightness", 2, rng())[0, 0].tolist() == [51, 51, 51]
    assert corrupt(plain(250, 125, 250), "brightness", 5, rng())[0, 0].tolist() == [255, 128, 255]


def test_contrast_brings_values_nearer_to_their_channels_mean() -> None:
    image = plain(0, 100, 7)
    image[:12] = (200, 100, 9)
    changed = corrupt(image, "contrast", 1, rng())
    assert changed[0, 0].tolist() == [140, 100, 8]
    assert changed[-1, 0].tolist() == [60, 100, 8]


def test_saturation_is_scaled_and_grey_counts_as_red() -> None:
    assert corrupt(plain(200, 100, 150), "saturate", 1, rng())[0, 0].tolist() == [200, 170, 185]
    assert corrupt(plain(200, 100, 150), "saturate", 3, rng())[0, 0].tolist() == [200, 0, 100]
    assert corrupt(plain(100, 100, 100), "saturate", 3, rng())[0, 0].tolist() == [100, 100, 100]
    assert corrupt(plain(100, 100, 100), "saturate", 4, rng())[0, 0].tolist() == [100, 90, 90]
    assert corrupt(plain(0, 0, 0), "saturate", 5, rng())[0, 0].tolist() == [0, 0, 0]


def test_pixels_become_boxes() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, 4:] = 80
    image[1, 1] = 160
    boxes = corrupt(image, "pixelate", 5, rng())[..., 2]
    np.testing.assert_array_equal(boxes[:4, :4], 10)
    np.testing.assert_array_equal(boxes[:4, 4:], 80)
    np.testing.assert_array_equal(boxes[4:], 0)


def test_what_is_no_corruption_severity_or_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of gaussian_noise"):
        corrupt(picture(), "snow", 1, rng())
    for severity in (0, 6):
        with pytest.raises(ValueError, match="severity: expected one of"):
            corrupt(picture(), "contrast", severity, rng())
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        corrupt(picture().astype(np.float32), "contrast", 1, rng())
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        corrupt(picture()[..., 0], "contrast", 1, rng())
