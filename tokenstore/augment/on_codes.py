"""Augmentation of codes (B, H, W): Token-EDA's synonyms and swapped patches, and plain crops.

SeiT, https://arxiv.org/abs/2303.11114, section 3.3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.codebooks import check_dtype, codebook_vectors
from tokenstore.augment.devices import to_device
from tokenstore.augment.geometry import probability

__all__ = ["SYNONYMS", "PatchSwap", "RandomCrop", "SynonymReplacement", "nearest_codes", "synonym_table"]

SYNONYMS = 5
"""The most synonyms of a code, of which one is drawn, as published."""
_ROWS_AT_ONCE = 1024
"""The codes whose similarity to all others is computed at once."""


class SynonymReplacement(nn.Module):
    """The replacement of codes by synonyms: with probability `p` a batch, then `rate` for each code.

    `synonyms` (K, M) are each code's nearest codes, best first, filled up with -1: `nearest_codes` of a
    codebook, or `synonym_table` of the release's synonyms.json. One of the first `most` is drawn; a code
    without synonyms stays as it is. Codes are (B, *grid) of any integer dtype, and so is the result. Raises
    ValueError for synonyms of another shape or not below K, or numbers out of range.
    """

    synonyms: Tensor
    counts: Tensor

    def __init__(
        self, synonyms: Tensor | npt.NDArray[Any], rate: float = 0.25, most: int = SYNONYMS, p: float = 0.25
    ) -> None:
        super().__init__()
        table = torch.as_tensor(synonyms).long()
        if table.ndim != 2 or most < 1 or (table.numel() and int(table.max()) >= len(table)):
            raise ValueError(
                f"expected synonyms (K, M) below K and most >= 1, found {tuple(table.shape)}, most={most}"
            )
        table = table[:, :most].clone()
        self.register_buffer("synonyms", table)
        self.register_buffer("counts", (table >= 0).long().cumprod(1).sum(1))
        self.rate, self.p = probability("rate", rate), probability("p", p)

    def forward(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the codes, some replaced. Raises CodecError for codes that are not integers."""
        return self.replaced(
            codes, torch.rand((), generator=generator, device=generator.device) < self.p, generator
        )

    def replaced(self, codes: Tensor, changed: Tensor, generator: torch.Generator) -> Tensor:
        """Replace codes of the samples of a mask (B,) or () bool, and return all codes.

        Raises CodecError for codes that are not integers.
        """
        check_dtype(codes)
        device = generator.device
        changed = to_device(changed, codes.device).view(-1, *[1] * (codes.ndim - 1))
        chance, place = torch.rand((2, *codes.shape), generator=generator, device=device)
        chance, place = to_device(chance, codes.device), to_device(place, codes.device)
        wide = codes.long()
        counts = self.counts[wide]
        # subtle: the product can round up to the count itself
        number = (place * counts).long().minimum(counts - 1).clamp(min=0)
        replaced = self.synonyms[wide, number].to(codes.dtype)
        change = (chance < self.rate) & (counts > 0) & changed
        return torch.where(change, replaced, codes)

    @override
    def extra_repr(self) -> str:
        codes, most = self.synonyms.shape
        return f"{codes} codes of up to {most} synonyms, rate={self.rate}, p={self.p}"


class PatchSwap(nn.Module):
    """The swap of two square patches of each sample that do not overlap, with probability `p` for a batch.

    The patches' side is drawn from 1 up to `side` of the shorter side of the grid, or with `shortest` 0 from
    0, which swaps nothing, to below that. Samples are codes (B, H, W) or embeddings (B, C, H, W). Raises
    ValueError for a side not above 0 and up to 1/3, a `p` not from 0 to 1, or another `shortest`.
    """

    def __init__(self, side: float = 0.25, p: float = 0.25, shortest: int = 1) -> None:
        super().__init__()
        if shortest not in (0, 1):
            raise ValueError(f"shortest: expected 0 or 1, found {shortest}")
        self.shortest = shortest
        if not 0 < side <= 1 / 3:  # so that there is always room for a second patch
            raise ValueError(f"side: expected a share of the grid above 0 and up to 1/3, found {side}")
        self.side, self.p = side, probability("p", p)

    def forward(self, grids: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the grids, with two patches swapped or as they are."""
        swaps = torch.rand((), generator=generator, device=generator.device) < self.p
        return self.swapped(grids, swaps, generator)

    def swapped(self, grids: Tensor, swaps: Tensor, generator: torch.Generator) -> Tensor:
        """Swap two patches of the samples of a mask (B,) or () bool, and return all grids."""
        count, (rows, columns) = len(grids), grids.shape[-2:]
        sides = int(self.side * min(rows, columns))
        if sides < 1:
            return grids
        if not self.shortest:
            sides = max(sides, 2)  # so that small grids have a side above 0 too
        device = generator.device
        chances = torch.rand((5, count), generator=generator, device=device)
        side = self.shortest + (chances[0] * sides).long().clamp(max=sides - 1)
        heights, widths = rows - side + 1, columns - side + 1
        top, left = _below(chances[1], heights), _below(chances[2], widths)
        # The second patch is drawn from all places where it does not overlap the first.
        places = heights * widths
        barred_top = torch.stack(((top - side + 1).clamp(min=0), (top + side).minimum(heights)))
        barred_left = torch.stack(((left - side + 1).clamp(min=0), (left + side).minimum(widths)))
        barred_rows, barred_columns = barred_top[1] - barred_top[0], barred_left[1] - barred_left[0]
        free = places - barred_rows * barred_columns
        number = _below(chances[3], free)
        # Free places row by row: those above the barred rows, those beside them, those below.
        above = barred_top[0] * widths
        beside = barred_rows * (widths - barred_columns)
        in_beside = number - above
        beside_row = torch.div(in_beside, (widths - barred_columns).clamp(min=1), rounding_mode="floor")
        beside_column = in_beside - beside_row * (widths - barred_columns)
        beside_column = beside_column + barred_columns * (beside_column >= barred_left[0])
        in_below = number - above - beside
        is_above, is_beside = number < above, (number >= above) & (number < above + beside)
        row_above, row_below = torch.div(number, widths, rounding_mode="floor"), in_below // widths
        other_top = torch.where(
            is_above, row_above, torch.where(is_beside, barred_top[0] + beside_row, barred_top[1] + row_below)
        )
        other_left = torch.where(
            is_above, number - row_above * widths, torch.where(is_beside, beside_column, in_below % widths)
        )
        return _swapped(grids, top, left, other_top, other_left, side * swaps)

    @override
    def extra_repr(self) -> str:
        return f"side={self.side}, p={self.p}, shortest={self.shortest}"


class RandomCrop(nn.Module):
    """A random crop of `size` (h, w) of each sample: codes (B, H, W) or embeddings (B, C, H, W)."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, grids: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a crop of each grid. Raises ValueError for a grid smaller than `size`."""
        rows, columns = grids.shape[-2:]
        if rows < self.size[0] or columns < self.size[1]:
            raise ValueError(f"expected a grid of at least {self.size}, found {(rows, columns)}")
        chances = torch.rand((2, len(grids)), generator=generator, device=generator.device)
        chances = to_device(chances, grids.device)
        tops = (chances[0] * (rows - self.size[0] + 1)).long().clamp(max=rows - self.size[0])
        lefts = (chances[1] * (columns - self.size[1] + 1)).long().clamp(max=columns - self.size[1])
        lines = tops[:, None] + torch.arange(self.size[0], device=grids.device)
        places = lefts[:, None] + torch.arange(self.size[1], device=grids.device)
        inner = [1] * (grids.ndim - 3)
        cropped = grids.gather(
            -2, lines.view(len(grids), *inner, -1, 1).expand(*grids.shape[:-2], -1, columns)
        )
        wide = places.view(len(grids), *inner, 1, -1).expand(*grids.shape[:-2], self.size[0], -1)
        return cropped.gather(-1, wide)

    @override
    def extra_repr(self) -> str:
        return f"{self.size}"


def nearest_codes(codebook: Tensor | npt.NDArray[Any], most: int = SYNONYMS) -> Tensor:
    """Return each code's nearest codes (K, most) int64, by cosine similarity of vectors (K, D), best first.

    Raises ValueError unless `most` is from 1 to K - 1.
    """
    rows = nn.functional.normalize(codebook_vectors(codebook), dim=1)
    if not 1 <= most < len(rows):
        raise ValueError(f"expected vectors (K, D) of more than {most} codes, found {tuple(rows.shape)}")
    nearest = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        similarity = rows[start : start + _ROWS_AT_ONCE] @ rows.T
        similarity.diagonal(start).fill_(-torch.inf)
        nearest.append(similarity.topk(most, 1).indices)
    return torch.cat(nearest)


def synonym_table(path: Path | str, codebook_size: int) -> Tensor:
    """Read the synonyms.json of SeiT's release as a table (K, M) int64, filled up with -1.

    Raises ValueError where a code or a synonym is not from 0 to codebook_size - 1.
    """
    listed = {int(code): list(map(int, near)) for code, near in json.loads(Path(path).read_text()).items()}
    most = max(map(len, listed.values()), default=0)
    table = torch.full((codebook_size, most), -1)
    for code, near in listed.items():
        if not all(0 <= number < codebook_size for number in (code, *near)):
            raise ValueError(f"{path}: expected codes from 0 to {codebook_size - 1}, found {code}: {near}")
        table[code, : len(near)] = torch.tensor(near, dtype=torch.long)
    return table


def _below(chance: Tensor, limit: Tensor) -> Tensor:
    """Return integers (B,) from 0 to limit - 1 for chances from 0 to 1; 0 where the limit is 0."""
    return (chance * limit).long().minimum(limit - 1).clamp(min=0)


def _swapped(
    grids: Tensor, top: Tensor, left: Tensor, other_top: Tensor, other_left: Tensor, side: Tensor
) -> Tensor:
    """Swap the patches of `side` at two corners of grids (B, ..., H, W); sides of 0 change nothing."""
    rows, columns = grids.shape[-2:]
    device = grids.device
    corners = to_device(torch.stack((top, left, other_top, other_left, side)), device)
    top, left, other_top, other_left, side = corners[:, :, None, None]
    y = torch.arange(rows, device=device)[:, None]
    x = torch.arange(columns, device=device)
    in_first = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    in_other = (y >= other_top) & (y < other_top + side) & (x >= other_left) & (x < other_left + side)
    offset = (other_top - top) * columns + other_left - left
    source = y * columns + x + offset * in_first.long() - offset * in_other.long()
    flat = grids.flatten(-2)
    index = source.flatten(1).view(len(grids), *[1] * (flat.ndim - 2), -1).expand_as(flat)
    return flat.gather(-1, index).view_as(grids)
