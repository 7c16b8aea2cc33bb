"""Corruptions of images in five severities, after ImageNet-C, to measure a network's robustness.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
https://arxiv.org/abs/1903.12261; the strengths are those of the authors' release, which are for images of
224 pixels. Lengths in pixels, those of the blurs, are not scaled to other sizes. Images are uint8 RGB
(H, W, 3). The release's files were also compressed as JPEG, so figures differ from published ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from tokenstore.errors import did_you_mean
from tokenstore.sources.images import Pixels

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corrupted_batch"]

SEVERITIES = (1, 2, 3, 4, 5)

_Values: TypeAlias = npt.NDArray[Any]
"""The type of values (H, W, 3), brightness from 0 to 255; a corruption may give values outside."""
_WHITE = 255.0
_GAUSSIAN_REACH = 4.0
"""The standard deviations after which a Gaussian counts as nothing."""


@dataclass(frozen=True)
class _Corruption:
    apply: Callable[[Pixels, Any, np.random.Generator], _Values]
    strengths: tuple[Any, ...]
    """The strengths by severity."""


def corrupt(image: Pixels, name: str, severity: int, rng: np.random.Generator) -> Pixels:
    """Return a new image (H, W, 3) uint8 of the same size, corrupted by one of CORRUPTIONS.

    Everything random comes from `rng`. Raises ValueError for another name, severity or kind of array.
    """
    if name not in CORRUPTIONS:
        near = did_you_mean(name, CORRUPTIONS)
        raise ValueError(f"corruption: expected one of {', '.join(CORRUPTIONS)}, found {name!r}{near}")
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
    """Return images (B, H, W, 3), each corrupted with a seed of its own position, in a pool's threads."""

    def corrupt_one(image: Pixels, position: int) -> Pixels:
        return corrupt(image, name, severity, np.random.default_rng((seed, position)))

    return np.stack(list(pool.map(corrupt_one, images, map(int, positions))))


def _gaussian_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> _Values:
    """Add normal noise; `deviation` is a share of white."""
    return image + rng.normal(scale=deviation * _WHITE, size=image.shape)


def _shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> _Values:
    """Draw numbers of photons; white sends `photons` a pixel and channel."""
    return rng.poisson(image * (photons / _WHITE)) * (_WHITE / photons)


def _impulse_noise(image: Pixels, share: float, rng: np.random.Generator) -> _Values:
    """Make a `share` of all values black or white."""
    drawn = rng.random(image.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0, _WHITE), image)


def _speckle_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> _Values:
    """Multiply by one plus normal noise."""
    return image * (1 + rng.normal(scale=deviation, size=image.shape))


def _gaussian_blur(image: Pixels, deviation: float, _: np.random.Generator) -> _Values:
    """Blur by a Gaussian; `deviation` is in pixels, and the border is repeated."""
    taps = _gaussian(math.ceil(_GAUSSIAN_REACH * deviation), deviation)
    lines = _filtered(image.astype(np.float32), taps[:, None], "edge")
    return _filtered(lines, taps[None, :], "edge")


def _defocus_blur(image: Pixels, lens: tuple[int, float], _: np.random.Generator) -> _Values:
    """Average over a disk, `lens` being its radius in pixels and its rim's softness; borders are mirrored."""
    radius, softness = lens
    small = radius <= 8
    places = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (np.hypot(places[:, None], places[None, :]) <= radius).astype(np.float32)[..., None]
    rim = _gaussian(1 if small else 2, softness)
    soft = _filtered(_filtered(disk, rim[:, None], "reflect"), rim[None, :], "reflect")[..., 0]
    return _filtered(image.astype(np.float32), soft / soft.sum(), "reflect")


def _motion_blur(image: Pixels, shake: tuple[int, float], rng: np.random.Generator) -> _Values:
    """Average over half a Gaussian along a line at up to 45 degrees; the border is repeated.

    `shake` is (radius, deviation) in pixels: the line has 2 * radius + 1 pixels, as in ImageMagick.
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
    """Average the image and its middle enlarged: `zooms` is (step, count) of factors from 1 on."""
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
    """Add a share of white to the value of HSV; hue and saturation stay."""
    value = image.max(2, keepdims=True).astype(np.float64)
    brighter = np.minimum(value + added * _WHITE, _WHITE)
    # Black has no colour to keep, and becomes grey.
    changed: _Values = np.where(value > 0, image * (brighter / np.maximum(value, 1)), brighter)
    return changed


def _saturate(image: Pixels, change: tuple[float, float], _: np.random.Generator) -> _Values:
    """Scale the saturation of HSV by change[0] and add change[1], up to 1; grey counts as red."""
    value = image.max(2, keepdims=True).astype(np.float64)
    depth = value - image
    saturation = depth.max(2, keepdims=True) / np.maximum(value, 1)
    changed_saturation = (saturation * change[0] + change[1]).clip(0, 1)
    red = np.array([0.0, 1.0, 1.0]) * value
    coloured = saturation > 0
    changed: _Values = (
        value - np.where(coloured, depth / np.where(coloured, saturation, 1), red) * changed_saturation
    )
    return changed


def _contrast(image: Pixels, factor: float, _: np.random.Generator) -> _Values:
    """Bring values nearer to their channel's mean."""
    mean = image.mean((0, 1), keepdims=True)
    changed: _Values = (image - mean) * factor + mean
    return changed


def _pixelate(image: Pixels, share: float, _: np.random.Generator) -> _Values:
    """Shrink the sides to a `share` and enlarge them again, both by boxes."""
    height, width = image.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def _jpeg_compression(image: Pixels, quality: int, _: np.random.Generator) -> _Values:
    """Compress as JPEG; `quality` is libjpeg's."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _gaussian(reach: int, deviation: float) -> _Values:
    """Return a Gaussian's weights (2 * reach + 1,), which sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    normalised: _Values = weights / weights.sum()
    return normalised


def _filtered(values: _Values, kernel: _Values, border: Any) -> _Values:
    """Return values (H, W, C) float32 correlated with a kernel of odd sides; `border` as in numpy.pad."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(values, ((rows, rows), (columns, columns), (0, 0)), border)
    planes = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[:, None]
    weights = torch.from_numpy(kernel.astype(np.float32))[None, None]
    filtered: _Values = F.conv2d(planes, weights)[:, 0].numpy().transpose(1, 2, 0)
    return filtered


def _read_strengths() -> dict[str, tuple[Any, ...]]:
    strengths: dict[str, list[Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return {
        name: tuple(tuple(value) if isinstance(value, list) else value for value in values)
        for name, values in strengths.items()
    }


_APPLIED: dict[str, Callable[[Pixels, Any, np.random.Generator], _Values]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
CORRUPTIONS = {name: _Corruption(_APPLIED[name], strengths) for name, strengths in _read_strengths().items()}
"""The corruptions by their published names; the strengths are in a file, which is read quickly."""
