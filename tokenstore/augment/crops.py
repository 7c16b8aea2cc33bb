"""Crops of a whole batch at once: a box for each sample, resized by two matrix products.

A box is (top, left, height, width) in positions of the grid; the boxes of a batch are (B, 4) int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.devices import in_float32, to_device
from tokenstore.errors import did_you_mean

__all__ = [
    "CenterCrop",
    "Interpolation",
    "RandomResizedCrop",
    "nearest_crop",
    "random_boxes",
    "resized_crop",
    "taps",
]

Interpolation: TypeAlias = Literal["bicubic", "bilinear"]

_TRIES: Final = 10
"""The number of draws of a box's size before the central box is taken."""
_CUBIC_SHARPNESS: Final = -0.75
"""The parameter a of the bicubic kernel, as in torch."""
_TAP_OFFSETS: Final = (-1, 0, 1, 2)
"""The places of a kernel's taps, from the one at or before a coordinate."""


class RandomResizedCrop(nn.Module):
    """A random box of each sample, resized to `size`: (B, C, H, W) to (B, C, *size), in the input's dtype.

    `size` is (height, width), or one number for both. `scale` bounds a box's share of the grid's area, and
    `ratio` its width over its height; see `random_boxes`. The result equals cropping a sample and then
    `torch.nn.functional.interpolate(..., align_corners=False)`. Raises ValueError for a size below 1, a range
    that is not 0 < low <= high, or an unknown interpolation.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        self.size = _pair(size)
        self.scale = _range("scale", scale)
        self.ratio = _range("ratio", ratio)
        if interpolation not in _KERNELS:
            near = did_you_mean(interpolation, _KERNELS)
            raise ValueError(
                f"interpolation: expected one of {list(_KERNELS)}, found {interpolation!r}{near}"
            )
        self.interpolation = interpolation

    def boxes(self, count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw boxes (count, 4) int64 on the generator's device, as `random_boxes` does."""
        return random_boxes(count, grid, self.scale, self.ratio, generator)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a resized box of each sample. Raises ValueError for embeddings of another rank."""
        _check_embeddings(embeddings)
        grid = embeddings.shape[2], embeddings.shape[3]
        boxes = self.boxes(len(embeddings), grid, generator)
        boxes = to_device(boxes, embeddings.device)
        return resized_crop(embeddings, boxes, self.size_of(grid), self.interpolation)

    def size_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the size (h, w) that boxes of a grid (H, W) are resized to."""
        return self.size

    @override
    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}, ratio={self.ratio}, {self.interpolation}"


class CenterCrop(nn.Module):
    """The central `size` of codes, embeddings or masks (..., H, W), as a view (..., *size).

    Where a margin is odd, the smaller half is above and to the left. Raises ValueError for a size below 1.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = _pair(size)

    def forward(self, grids: Tensor) -> Tensor:
        """Return the central part of each grid. Raises ValueError for a grid smaller than `size`."""
        (height, width), (rows, columns) = grids.shape[-2:], self.size
        if height < rows or width < columns:
            raise ValueError(f"expected a grid of at least {self.size}, found {(height, width)}")
        top, left = (height - rows) // 2, (width - columns) // 2
        return grids[..., top : top + rows, left : left + columns]

    @override
    def extra_repr(self) -> str:
        return f"{self.size}"


def random_boxes(
    count: int,
    grid: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Draw boxes (count, 4) int64 inside a grid (H, W), on the generator's device.

    The rule is Inception's crop as in torchvision. Ten times, an area is drawn uniformly in `scale` of the
    grid's, and an aspect, width over height, log-uniformly in `ratio`. The first draw that fits the grid is
    placed anywhere in it. Where no draw fits, the box is the largest central one whose aspect is nearest to
    the grid's. Raises ValueError for a grid without positions.
    """
    height, width = grid
    if height < 1 or width < 1:
        raise ValueError(f"expected a grid of at least (1, 1), found {tuple(grid)}")
    device = generator.device
    share, aspect = torch.rand((2, count, _TRIES), generator=generator, device=device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * aspect)
    sides = torch.stack(((area / aspect).sqrt(), (area * aspect).sqrt())).round().long()
    largest = to_device(torch.tensor(grid), device)[:, None]
    fits = ((sides >= 1) & (sides <= largest[..., None])).all(0)
    central = to_device(torch.tensor(_largest_box(grid, ratio)), device)[:, None]
    drawn = sides.gather(2, fits.int().argmax(1).expand(2, 1, count).mT)[..., 0]
    box = torch.where(fits.any(1), drawn, central)
    margin = largest - box
    place = torch.rand((2, count), generator=generator, device=device)
    # subtle: the product can round up to margin + 1
    anywhere = (place * (margin + 1)).long().minimum(margin)
    corner = torch.where(fits.any(1), anywhere, margin // 2)
    return torch.cat((corner, box)).T.contiguous()


def resized_crop(
    embeddings: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation = "bicubic"
) -> Tensor:
    """Crop boxes (B, 4) of embeddings (B, C, H, W) and resize them to (B, C, *size), differentiably.

    Boxes must be on the embeddings' device and inside the grid; they are not checked, since that would wait
    for the device. Products are in the precision of the embeddings, unless torch is set to use TF32. Raises
    ValueError for embeddings of another rank.
    """
    _check_embeddings(embeddings)
    batch, channels, height, width = embeddings.shape
    top, left, rows, columns = boxes.unbind(1)
    vertical = _matrices(top, rows, height, size[0], interpolation).to(embeddings.dtype)
    horizontal = _matrices(left, columns, width, size[1], interpolation).to(embeddings.dtype)
    with in_float32(embeddings.device):
        lines = embeddings.reshape(batch, channels * height, width) @ horizontal.mT
        return vertical[:, None] @ lines.view(batch, channels, height, size[1])


def nearest_crop(grids: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop boxes (B, 4) of grids (B, C, H, W) of any dtype and resize them to (B, C, *size), unblended.

    The rule is torch's "nearest-exact": each place takes the value that its centre is in.
    """
    top, left, rows, columns = boxes.unbind(1)
    lines = _nearest(top, rows, size[0])[:, None, :, None].expand(-1, grids.shape[1], -1, grids.shape[3])
    cropped = grids.gather(2, lines)
    places = _nearest(left, columns, size[1])[:, None, None].expand(-1, *cropped.shape[1:3], -1)
    return cropped.gather(3, places)


def _nearest(first: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Return indices (B, size) of `size` places in the stretches from `first` (B,) of `lengths` (B,)."""
    places = 2 * torch.arange(size, device=lengths.device) + 1
    return first[:, None] + torch.div(places * lengths[:, None], 2 * size, rounding_mode="floor")


def taps(lengths: Tensor, size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Return indices and weights (n, size, 4) of the taps that resize grids of `lengths` (n,) to `size`.

    Indices are int64 from 0 to length - 1, and repeat the border's; weights are float32. Coordinates are
    fractions of integers, exact until their last division.
    """
    lengths = lengths[:, None]
    places = 2 * torch.arange(size, device=lengths.device) + 1
    numerator = places * lengths - size
    first = torch.div(numerator, 2 * size, rounding_mode="floor")
    fraction = (numerator - first * (2 * size)).float() / (2 * size)
    offsets = torch.arange(_TAP_OFFSETS[0], _TAP_OFFSETS[-1] + 1, device=lengths.device)
    indices = (first[..., None] + offsets).clamp(min=0).minimum(lengths[..., None] - 1)
    return indices, _KERNELS[interpolation]((fraction[..., None] - offsets).abs())


def _cubic(distance: Tensor) -> Tensor:
    """Return Keys' convolution kernel (1981, equation 4) with torch's sharpness, for distances up to 2."""
    a = _CUBIC_SHARPNESS
    # Factored: sums of the expanded terms lose digits.
    near = (1 - distance) * (1 + distance - (a + 2) * distance**2)
    far = a * (distance - 1) * (distance - 2) ** 2
    return torch.where(distance <= 1, near, far)


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


_KERNELS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"bicubic": _cubic, "bilinear": _linear}


def _matrices(first: Tensor, lengths: Tensor, extent: int, size: int, interpolation: Interpolation) -> Tensor:
    """Return matrices (B, size, extent) float32 that resize stretches from `first` (B,) of `lengths` (B,)."""
    indices, weights = taps(lengths, size, interpolation)
    matrices = weights.new_zeros((len(lengths), size, extent))
    return matrices.scatter_add_(2, indices + first[:, None, None], weights)


def _largest_box(grid: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the largest box in a grid whose aspect is in `ratio`."""
    height, width = grid
    if width < height * ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width > height * ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows < 1 or columns < 1:
        raise ValueError(f"size: expected one or two positive integers, found {size}")
    return rows, columns


def _range(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= high:
        raise ValueError(f"{name}: expected two numbers with 0 < low <= high, found {bounds}")
    return low, high


def _check_embeddings(embeddings: Tensor) -> None:
    if embeddings.ndim != 4:
        raise ValueError(f"expected embeddings (B, C, H, W), found shape {tuple(embeddings.shape)}")
