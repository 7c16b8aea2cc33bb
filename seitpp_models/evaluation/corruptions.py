"""Corruptions of images in five severities, after ImageNet-C: how a network stands what it never saw.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
https://arxiv.org/abs/1903.12261; the strengths are those of the authors' release, which are for images of
224 pixels. Lengths in pixels, those of the blurs, are not scaled to other sizes. Images are uint8 RGB
(H, W, 3). Numbers are not those of the release's files, which were also compressed as JPEG.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from tokenstore.sources.images import Pixels

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corrupted_batch"]

SEVERITIES = (1, 2, 3, 4, 5)

_Values: TypeAlias = npt.NDArray[Any]
"""(H, W, 3), brightness from 0 to 255; what a corruption gives may lie outside."""
_WHITE = 255.0
_GAUSSIAN_REACH = 4.0
"""Standard deviations after which a Gaussian counts as nothing."""


@dataclass(frozen=True)
class _Corruption:
    apply: Callable[[Pixels, Any, np.random.Generator], _Values]
    strengths: tuple[Any, ...]
    """By severity."""


def corrupt(image: Pixels, name: str, severity: int, rng: np.random.Generator) -> Pixels:
    """A new image (H, W, 3) uint8 of the same size, corrupted by one of CORRUPTIONS.

    All that is random comes from `rng`. Raises ValueError for another name, severity or kind of array.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption: expected one of {', '.join(CORRUPTIONS)}, found {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: expected one of {SEVERITIES}, found {severity!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image (H, W, 3) uint8, found {image.shape} {image.dtype}")
    corruption = CORRUPTIONS[name]
    values = corruption.apply(image, corruption.strengths[severity - 1], rng)
    return np.rint(values).clip(0, _WHITE).astype(np.uint8)


def corrupted_batch(
    images: Pixels, positions: Iterable[int], name: str, severity: int, seed: int, pool: Executor
) -> Pixels:
    """`corrupt` of each of images (B, H, W, 3), seeded by its position in the data, in a pool's threads."""

    def one(image: Pixels, position: int) -> Pixels:
        return corrupt(image, name, severity, np.random.default_rng((seed, position)))

    return np.stack(list(pool.map(one, images, map(int, positions))))


def _gaussian_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> _Values:
    """Adds normal noise; `deviation` is a share of white."""
    return image + rng.normal(scale=deviation * _WHITE, size=image.shape)


def _shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> _Values:
    """Counts photons, of which white sends `photons` a pixel and channel."""
    return rng.poisson(image * (photons / _WHITE)) * (_WHITE / photons)


def _impulse_noise(image: Pixels, share: float, rng: np.random.Generator) -> _Values:
    """Makes a `share` of all values black or white."""
    drawn = rng.random(image.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0, _WHITE), image)


def _speckle_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> _Values:
    """Multiplies by one and normal noise."""
    return image * (1 + rng.normal(scale=deviation, size=image.shape))


def _gaussian_blur(image: Pixels, deviation: float, _: np.random.Generator) -> _Values:
    """`deviation` in pixels; the border is repeated."""
    taps = _gaussian(math.ceil(_GAUSSIAN_REACH * deviation), deviation)
    lines = _filtered(image.astype(np.float32), taps[:, None], "edge")
    return _filtered(lines, taps[None, :], "edge")


def _defocus_blur(image: Pixels, lens: tuple[int, float], _: np.random.Generator) -> _Values:
    """Averages over a disk of a radius in pixels, whose rim is softened by a Gaussian; mirrored borders."""
    radius, softness = lens
    small = radius <= 8
    places = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (np.hypot(places[:, None], places[None, :]) <= radius).astype(np.float32)[..., None]
    rim = _gaussian(1 if small else 2, softness)
    soft = _filtered(_filtered(disk, rim[:, None], "reflect"), rim[None, :], "reflect")[..., 0]
    return _filtered(image.astype(np.float32), soft / soft.sum(), "reflect")


def _motion_blur(image: Pixels, shake: tuple[int, float], rng: np.random.Generator) -> _Values:
    """Averages over half a Gaussian along a line at up to 45 degrees; the border is repeated.

    `shake` is (radius, deviation) in pixels: the line has 2 * radius + 1 of them, as ImageMagick's has.
    """
    radius, deviation = shake
    reach = 2 * radius
    angle = math.radians(rng.uniform(-45, 45))
    weights = np.exp(-0.5 * (np.arange(reach + 1) / deviation) ** 2)
    height, width = image.shape[:2]
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), "edge")
    blurred = np.zeros(image.shape, np.float32)
    for step, weight in enumerate(weights / weights.sum()):
        top, left = reach + round(step * math.sin(angle)), reach + round(step * math.cos(angle))
        blurred += np.float32(weight) * padded[top : top + height, left : left + width]
    return blurred


def _zoom_blur(image: Pixels, zooms: tuple[float, int], _: np.random.Generator) -> _Values:
    """The mean of the image and of its middle enlarged: `zooms` is (step, count) of factors from 1 on."""
    step, count = zooms
    height, width = image.shape[:2]
    total = image.astype(np.float32)
    picture = Image.fromarray(image)
    for factor in 1 + step * np.arange(count):
        top, left = (height - height / factor) / 2, (width - width / factor) / 2
        box = (left, top, width - left, height - top)
        total += np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return total / (count + 1)


def _brightness(image: Pixels, added: float, _: np.random.Generator) -> _Values:
    """Adds a share of white to each colour's value of HSV; hue and saturation stay."""
    value = image.max(2, keepdims=True).astype(np.float64)
    brighter = np.minimum(value + added * _WHITE, _WHITE)
    # Black has no colour to keep, and becomes grey.
    changed: _Values = np.where(value > 0, image * (brighter / np.maximum(value, 1)), brighter)
    return changed


def _saturate(image: Pixels, change: tuple[float, float], _: np.random.Generator) -> _Values:
    """Saturation of HSV times change[0] plus change[1], up to 1; grey, which has no hue, counts as red."""
    value = image.max(2, keepdims=True).astype(np.float64)
    depth = value - image
    saturation = depth.max(2, keepdims=True) / np.maximum(value, 1)
    wanted = (saturation * change[0] + change[1]).clip(0, 1)
    red = np.array([0.0, 1.0, 1.0]) * value
    coloured = saturation > 0
    changed: _Values = value - np.where(coloured, depth / np.where(coloured, saturation, 1), red) * wanted
    return changed


def _contrast(image: Pixels, factor: float, _: np.random.Generator) -> _Values:
    """Brings values nearer to their channel's mean."""
    mean = image.mean((0, 1), keepdims=True)
    changed: _Values = (image - mean) * factor + mean
    return changed


def _pixelate(image: Pixels, share: float, _: np.random.Generator) -> _Values:
    """Shrinks the sides to a `share` and enlarges them again, both by boxes."""
    height, width = image.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def _jpeg_compression(image: Pixels, quality: int, _: np.random.Generator) -> _Values:
    """Encodes as JPEG of a `quality` of libjpeg's."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _gaussian(reach: int, deviation: float) -> _Values:
    """Weights (2 * reach + 1,) that sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    normalised: _Values = weights / weights.sum()
    return normalised


def _filtered(values: _Values, kernel: _Values, border: Any) -> _Values:
    """Values (H, W, C) float32 correlated with a kernel of odd sides; `border` as in numpy's pad."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(values, ((rows, rows), (columns, columns), (0, 0)), border)
    planes = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[:, None]
    weights = torch.from_numpy(kernel.astype(np.float32))[None, None]
    filtered: _Values = F.conv2d(planes, weights)[:, 0].numpy().transpose(1, 2, 0)
    return filtered


CORRUPTIONS = {
    "gaussian_noise": _Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": _Corruption(_shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": _Corruption(_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": _Corruption(_speckle_noise, (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": _Corruption(_gaussian_blur, (1, 2, 3, 4, 6)),
    "defocus_blur": _Corruption(_defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": _Corruption(_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": _Corruption(_zoom_blur, ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))),
    "brightness": _Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": _Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": _Corruption(_saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    "pixelate": _Corruption(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": _Corruption(_jpeg_compression, (25, 18, 15, 10, 7)),
}
"""Every corruption by its published name; brightness is the value of HSV, and so on as each says."""
