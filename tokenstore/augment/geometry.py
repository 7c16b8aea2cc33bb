"""The geometry of a batch: drawn once, then applied to embeddings, images and label maps of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.crops import RandomResizedCrop, nearest_crop, resized_crop
from tokenstore.augment.devices import in_float32, to_device

__all__ = ["DrawnGeometry", "Geometry", "HorizontalFlip", "RandomAffine"]


class HorizontalFlip(nn.Module):
    """A flip of each sample (B, ..., H, W), left to right, with probability `p`.

    A flip of codes is naive: the codes change places, but each still stands for a patch that was not flipped.
    With `shared`, all samples of a batch are flipped, or none. Raises ValueError for a probability that is
    not from 0 to 1.
    """

    def __init__(self, p: float = 0.5, *, shared: bool = False) -> None:
        super().__init__()
        self.p, self.shared = probability("p", p), shared

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the samples to flip as a mask (count,) bool on the generator's device."""
        number = 1 if self.shared else count
        drawn = torch.rand(number, generator=generator, device=generator.device) < self.p
        return drawn.repeat(count) if self.shared else drawn

    def forward(self, grids: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the grids, some of them flipped."""
        return self.flipped(grids, self.draw(len(grids), generator))

    def flipped(self, grids: Tensor, mask: Tensor) -> Tensor:
        """Flip the samples of a mask (B,), and return all grids."""
        return flipped(grids, to_device(mask, grids.device))

    def flipped_labels(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Flip the label maps (B, h, w) of a mask (B,), and return all."""
        return self.flipped(labels, mask)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}, shared=True" if self.shared else f"p={self.p}"


class RandomAffine(nn.Module):
    """An affine map of each sample (B, C, H, W) about its centre, bilinear, with zeros around the sample.

    A sample is changed with probability `group_p`, and then each of five parts is made with probability `p`:
    a rotation by up to `degrees`, a translation by up to `translate` of the width and of the height, and a
    shear along x and along y by up to `shear` degrees. The parts make one map and one interpolation. With
    `shared`, as SeiT++'s code draws, all samples of a batch have the same map, shears are from 0 degrees, and
    translations by whole positions. Raises ValueError for numbers out of range.
    """

    def __init__(
        self,
        degrees: float = 30.0,
        translate: float = 0.2,
        shear: float = 15.0,
        p: float = 0.5,
        group_p: float = 0.5,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.shared = shared
        for name, value, most in (
            ("degrees", degrees, 180),
            ("translate", translate, 1),
            ("shear", shear, 89),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name}: expected a number from 0 to {most}, found {value}")
        self.degrees, self.translate, self.shear = degrees, translate, shear
        self.p, self.group_p = probability("p", p), probability("group_p", group_p)

    def draw(self, count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw maps (count, 2, 3) float32 for grids of the shape of `grid`, as `affine` takes them."""
        device = generator.device
        number = 1 if self.shared else count
        changed = torch.rand(number, generator=generator, device=device) < self.group_p
        chance, size = torch.rand((2, 5, number), generator=generator, device=device)
        size = (2 * size - 1) * (changed & (chance < self.p))
        if self.shared:
            size[3:] = size[3:].abs()
        turn = math.radians(self.degrees) * size[0]
        across, down = self.translate * size[1], self.translate * size[2]
        if self.shared:
            across, down = (across * grid[1]).round() / grid[1], (down * grid[0]).round() / grid[0]
        along_x, along_y = (math.radians(self.shear) * size[3:]).tan()
        maps = affine_maps(turn, across, down, along_x, along_y, grid)
        return maps.repeat(count, 1, 1) if self.shared else maps

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the embeddings, some of them mapped."""
        rows, columns = embeddings.shape[2:]
        maps = self.draw(len(embeddings), (rows, columns), generator)
        return affine(embeddings, to_device(maps, embeddings.device))

    @override
    def extra_repr(self) -> str:
        return (
            f"degrees={self.degrees}, translate={self.translate}, shear={self.shear}, p={self.p}, "
            f"group_p={self.group_p}{', shared=True' if self.shared else ''}"
        )


class Geometry(nn.Module):
    """A flip, an affine map and a random resized crop, in this order; any of them may be None."""

    def __init__(
        self,
        flip: HorizontalFlip | None = None,
        affine: RandomAffine | None = None,
        crop: RandomResizedCrop | None = None,
    ) -> None:
        super().__init__()
        self.flip, self.affine, self.crop = flip, affine, crop

    def draw(self, count: int, grid: tuple[int, int], generator: torch.Generator) -> DrawnGeometry:
        """Draw the geometry of `count` samples, with positions counted on `grid` (H, W)."""
        return DrawnGeometry(
            grid,
            None if self.flip is None else self.flip.draw(count, generator),
            None if self.affine is None else self.affine.draw(count, grid, generator),
            None if self.crop is None else self.crop.boxes(count, grid, generator),
            grid if self.crop is None else self.crop.size_of(grid),
            "bicubic" if self.crop is None else self.crop.interpolation,
        )

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the embeddings with one draw of the geometry applied."""
        rows, columns = embeddings.shape[2:]
        return self.draw(len(embeddings), (rows, columns), generator).apply(embeddings)


@dataclass(frozen=True)
class DrawnGeometry:
    """The result of one draw of a `Geometry` for B samples, which applies at any resolution."""

    grid: tuple[int, int]
    """The grid (H, W) in whose positions boxes and size are counted."""
    flip: Tensor | None
    """The samples that are flipped (B,) bool."""
    maps: Tensor | None
    """The affine maps (B, 2, 3) float32."""
    boxes: Tensor | None
    """The boxes (B, 4) int64: top, left, height, width in positions of the grid."""
    size: tuple[int, int]
    """The size that boxes are resized to, in positions of the grid."""
    interpolation: str = "bicubic"

    def __getitem__(self, samples: slice) -> DrawnGeometry:
        """Return the geometry of some of the samples."""
        parts = {
            name: None if drawn is None else drawn[samples]
            for name, drawn in (("flip", self.flip), ("maps", self.maps), ("boxes", self.boxes))
        }
        return replace(self, **parts)  # type: ignore[arg-type]

    def apply(self, samples: Tensor) -> Tensor:
        """Return samples (B, C, H, W) of any float dtype with the geometry applied, interpolated.

        Raises ValueError unless H and W are whole multiples of the grid's.
        """
        return self._applied(samples, nearest=False)

    def needed(self) -> Tensor | None:
        """Return the positions of the grid that the result of `apply` depends on, (B, H, W) bool.

        Returns None where the result may depend on all positions. Waits for the device of the draw.
        """
        drawn = self.maps if self.boxes is None else self.boxes
        if drawn is None:
            return None
        rows, columns = self.grid
        needed = torch.ones(len(drawn), rows, columns, dtype=torch.bool)
        if self.boxes is not None:
            top, left, height, width = self.boxes.cpu().T[..., None]
            row, column = torch.arange(rows), torch.arange(columns)
            down, across = (row >= top) & (row < top + height), (column >= left) & (column < left + width)
            needed = down[:, :, None] & across[:, None]
        if self.maps is not None:
            needed = _source_positions(needed, self.maps.cpu())
        return needed if self.flip is None else flipped(needed, self.flip.cpu())

    def apply_to_labels(self, labels: Tensor, fill: int = 255) -> Tensor:
        """Return label maps (B, H, W) of any dtype with the geometry applied, by nearest neighbour.

        Labels from outside the map are `fill`. Raises ValueError as `apply` does.
        """
        return self._applied(labels[:, None], nearest=True, fill=fill)[:, 0]

    def _applied(self, samples: Tensor, *, nearest: bool, fill: int = 0) -> Tensor:
        scale = self._scale(samples)
        if self.flip is not None:
            samples = flipped(samples, to_device(self.flip, samples.device))
        if self.maps is not None:
            maps = to_device(self.maps, samples.device)
            samples = affine_nearest(samples, maps, fill) if nearest else affine(samples, maps)
        if self.boxes is None:
            return samples
        boxes = scale * to_device(self.boxes, samples.device)
        size = scale * self.size[0], scale * self.size[1]
        if nearest:
            return nearest_crop(samples, boxes, size)
        return resized_crop(samples, boxes, size, self.interpolation)  # type: ignore[arg-type]

    def _scale(self, samples: Tensor) -> int:
        rows, columns = samples.shape[-2:]
        scale = max(1, rows // self.grid[0])
        if (rows, columns) != (scale * self.grid[0], scale * self.grid[1]):
            raise ValueError(f"expected whole multiples of the grid {self.grid}, found {(rows, columns)}")
        return scale


def flipped(grids: Tensor, mask: Tensor) -> Tensor:
    """Flip the grids (B, ..., H, W) of the mask (B,) left to right, and return all grids."""
    return torch.where(mask.view(-1, *[1] * (grids.ndim - 1)), grids.flip(-1), grids)


def affine_maps(
    turn: Tensor, across: Tensor, down: Tensor, along_x: Tensor, along_y: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Return maps (B, 2, 3) float32 from places in the result to places in the source, for `affine`.

    The result is the source turned clockwise by `turn` radians, then translated by `across` of its width and
    `down` of its height, then sheared: x grows by `along_x` times y, then y by `along_y` times x. All
    arguments but `grid` are (B,).
    """
    rows, columns = grid
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    unturn = _matrices(turn.cos(), turn.sin(), zero, -turn.sin(), turn.cos(), zero)
    unmove = _matrices(one, zero, -across * columns, zero, one, -down * rows)
    unshear_x = _matrices(one, -along_x, zero, zero, one, zero)
    unshear_y = _matrices(one, zero, zero, -along_y, one, zero)
    with in_float32(turn.device):
        places = unturn @ unmove @ unshear_x @ unshear_y
    # From positions about the centre to torch's unit, half a side.
    half = places.new_tensor([columns / 2, rows / 2, 1.0])
    return (places * half / half[:, None])[:, :2]


def affine(samples: Tensor, maps: Tensor) -> Tensor:
    """Map samples (B, C, H, W) by `maps` (B, 2, 3), bilinearly and differentiably, with zeros around them."""
    return _sampled(samples, maps, "bilinear")


def affine_nearest(samples: Tensor, maps: Tensor, fill: int) -> Tensor:
    """Map samples (B, C, H, W) of any dtype by nearest neighbour, with `fill` around them."""
    mapped = _sampled(samples.double() - fill, maps.double(), "nearest") + fill
    return mapped.round().to(samples.dtype)


def _source_positions(needed: Tensor, maps: Tensor) -> Tensor:
    """Return the positions of the source that `affine` interpolates the `needed` ones (B, H, W) from."""
    count, rows, columns = needed.shape
    samples, *_ = needed.nonzero(as_tuple=True)
    with in_float32(maps.device):
        places = F.affine_grid(maps, [count, 1, rows, columns], align_corners=False)[needed]
    sides = torch.tensor([columns, rows])
    first = ((places + 1) * sides / 2 - 0.5).floor().long()  # the first of two positions along each side
    source = torch.zeros_like(needed)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = first + torch.tensor(corner)
        inside = ((place >= 0) & (place < sides)).all(1)
        column, row = place[inside].T
        source[samples[inside], row, column] = True
    return source


def _sampled(samples: Tensor, maps: Tensor, mode: str) -> Tensor:
    if not len(samples):  # torch refuses an empty grid
        return samples
    with in_float32(samples.device):
        places = F.affine_grid(maps.to(samples.dtype), list(samples.shape), align_corners=False)
        return F.grid_sample(samples, places, mode, "zeros", align_corners=False)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) of the rows a b c, d e f and 0 0 1."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack((a, b, c, d, e, f, zero, zero, one), -1).view(-1, 3, 3)


def probability(name: str, value: float) -> float:
    """Return the value. Raises ValueError unless it is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability from 0 to 1, found {value}")
    return value
