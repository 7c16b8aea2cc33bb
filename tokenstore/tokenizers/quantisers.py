"""The quantisers of latent vectors, by tables that need no training of the networks around them.

Each quantiser takes latents (B, D, h, w) to codes, (B, h, w) or (B, n, h, w) of n codebooks, and codes to
vectors (B, D, h, w), in float32. The code of a position depends on the vector there and on nothing else.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError

LARGEST_LEVELS = 256
"""The most levels of one channel."""
LARGEST_FINITE_CODES = 1 << 24
"""The most codes of a FiniteScalar, as counting their use takes a number for each."""
LARGEST_SHOWN = 1 << 16
"""The most codes of a FiniteScalar whose vectors are written out as a codebook."""
_PAIRS, _PAIRS_ON_CPU = 1 << 25, 1 << 21
"""The most distances that are computed at once; on a CPU few enough for its cache."""


class Quantiser(nn.Module):
    """The base of the three quantisers."""

    kind: ClassVar[str]
    codebook_sizes: tuple[int, ...]
    dimensions: int
    """D."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The kind and sizes in a few characters, for names."""

    @abstractmethod
    def codes(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) or (B, n, h, w) int64 of latents (B, D, h, w)."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """Return vectors (B, D, h, w) of codes, all in range."""

    @property
    @abstractmethod
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The vectors (K, D) or (n, K, D); None if they are too many to write out."""


class NearestCodebook(Quantiser):
    """One table: the code is the vector nearest in Euclidean distance, the lowest code among equals."""

    kind = "nearest"
    table: Tensor  # K, D

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", _checked(table, "(K, D)"))
        self.codebook_sizes = (len(table),)
        self.dimensions = table.shape[1]

    @property
    @override
    def label(self) -> str:
        return f"k{len(self.table)}"

    @override
    def codes(self, latents: Tensor) -> Tensor:
        return nearest(_rows(latents), self.table).view(len(latents), *latents.shape[2:])

    @override
    def vectors(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.table).permute(0, 3, 1, 2)

    @property
    @override
    def codebook(self) -> npt.NDArray[np.float32]:
        return self.table.cpu().numpy().copy()


class ResidualCodebooks(Quantiser):
    """n tables, each over what those before it left; a vector is the sum of its n entries.

    Greedy, as in additive residual quantisation (Lee et al. 2022, https://arxiv.org/abs/2203.01941). subtle:
    codes of a vector that codes gave can be others: the sum may lie nearer to another first entry.
    """

    kind = "residual"
    tables: Tensor  # n, K, D

    def __init__(self, tables: Tensor) -> None:
        super().__init__()
        self.register_buffer("tables", _checked(tables, "(n, K, D)"))
        self.codebook_sizes = (tables.shape[1],) * len(tables)
        self.dimensions = tables.shape[2]

    @property
    @override
    def label(self) -> str:
        return f"{len(self.tables)}xk{self.tables.shape[1]}"

    @override
    def codes(self, latents: Tensor) -> Tensor:
        rest, planes = _rows(latents), []
        for table in self.tables:
            planes.append(nearest(rest, table))
            rest = rest - table[planes[-1]]
        grids = torch.stack(planes, dim=1).view(len(latents), *latents.shape[2:], len(planes))
        return grids.permute(0, 3, 1, 2).contiguous()

    @override
    def vectors(self, codes: Tensor) -> Tensor:
        total = torch.zeros_like(self.tables[0, 0])
        for table, plane in zip(self.tables, codes.unbind(1), strict=True):
            total = total + table[plane]
        return total.permute(0, 3, 1, 2)

    @property
    @override
    def codebook(self) -> npt.NDArray[np.float32]:
        return self.tables.cpu().numpy().copy()


class FiniteScalar(Quantiser):
    """Finite scalar quantisation (Mentzer et al. 2023, https://arxiv.org/abs/2309.15505) of given latents.

    A channel is standardised by its mean and scale, bounded to (-1, 1) by tanh, and rounded to the middle of
    one of its levels' equal parts of that interval, which makes even and odd numbers of levels alike. Middles
    and not the paper's whole numbers: a decoder that was not trained for them needs vectors in the latents'
    own units, and tanh never reaches the ends. A position's levels make one code by mixed radix, the first
    channel varying fastest.
    """

    kind = "fsq"
    mean: Tensor  # D
    scale: Tensor  # D

    def __init__(self, levels: Sequence[int], mean: Tensor, scale: Tensor) -> None:
        """Check the values; raise TokenizerError unless they fit each other and keep all levels apart."""
        super().__init__()
        self.levels = check_levels(levels)
        self.codebook_sizes = (math.prod(self.levels),)
        self.dimensions = len(self.levels)
        for name, tensor in (("mean", mean), ("scale", scale)):
            if tensor.shape != (len(self.levels),):
                raise TokenizerError(
                    f"expected a {name} for each of {len(self.levels)} channels, found {tuple(tensor.shape)}"
                )
            self.register_buffer(name, _checked(tensor, "(D,)"))
        if bool((scale <= 0).any()):
            raise TokenizerError(f"expected scales above 0, found {scale.min().item()}")
        for channel in range(len(self.levels)):
            points = self._points(channel)
            self.register_buffer(f"values_{channel}", points[::2].clone(), persistent=False)
            self.register_buffer(f"bounds_{channel}", points[1::2].clone(), persistent=False)

    @property
    @override
    def label(self) -> str:
        return f"fsq{'x'.join(map(str, self.levels))}"

    def _points(self, channel: int) -> Tensor:
        """Return the values of a channel's levels with the bounds between, (2 levels - 1,), ascending."""
        levels, mean, scale = self.levels[channel], self.mean[channel].item(), self.scale[channel].item()
        parts = np.arange(1, 2 * levels) / levels - 1
        points = torch.tensor(mean + scale * np.arctanh(parts), dtype=torch.float32)
        if not bool((points.diff() > 0).all() and points.isfinite().all()):
            raise TokenizerError(
                f"channel {channel}: {levels} levels around {mean:g} cannot be told apart at the scale "
                f"{scale:g}; use fewer levels"
            )
        return points

    @override
    def codes(self, latents: Tensor) -> Tensor:
        codes, radix = torch.zeros_like(latents[:, 0], dtype=torch.int64), 1
        for channel, levels in enumerate(self.levels):
            bounds: Tensor = getattr(self, f"bounds_{channel}")
            codes += radix * torch.bucketize(latents[:, channel].contiguous(), bounds)
            radix *= levels
        return codes

    @override
    def vectors(self, codes: Tensor) -> Tensor:
        channels, rest = [], codes
        for channel, levels in enumerate(self.levels):
            values: Tensor = getattr(self, f"values_{channel}")
            channels.append(values[rest % levels])
            rest = rest // levels
        return torch.stack(channels, dim=1)

    @property
    @override
    def codebook(self) -> npt.NDArray[np.float32] | None:
        size = self.codebook_sizes[0]
        if size > LARGEST_SHOWN:
            return None
        every = torch.arange(size, device=self.mean.device).view(size, 1, 1)
        return self.vectors(every).view(size, self.dimensions).cpu().numpy()


QUANTISERS: dict[str, tuple[str, ...]] = {
    NearestCodebook.kind: ("table",),
    ResidualCodebooks.kind: ("tables",),
    FiniteScalar.kind: ("mean", "scale"),
}
"""The kinds of quantiser, with the tensors of their state_dict."""


def restore(kind: str, levels: Sequence[int] | None, tensors: Mapping[str, Tensor]) -> Quantiser:
    """Rebuild the quantiser of one of QUANTISERS from its state_dict.

    Raises TokenizerError if tensors are missing, too many, not float32, or don't fit each other.
    """
    if set(tensors) != set(QUANTISERS[kind]):
        raise TokenizerError(f"expected the tensors {sorted(QUANTISERS[kind])}, found {sorted(tensors)}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TokenizerError(f"tensor {name!r}: expected float32, found {tensor.dtype}")
    if (levels is not None) != (kind == FiniteScalar.kind):
        raise TokenizerError(f"expected levels with {FiniteScalar.kind} only, found {levels} with {kind}")
    if levels is not None:
        return FiniteScalar(levels, tensors["mean"], tensors["scale"])
    if kind == ResidualCodebooks.kind:
        return ResidualCodebooks(tensors["tables"])
    return NearestCodebook(tensors["table"])


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Return the levels of each channel as a tuple; raise TokenizerError unless they make a usable code."""
    if not levels or min(levels) < 2 or max(levels) > LARGEST_LEVELS:
        raise TokenizerError(f"expected 2 to {LARGEST_LEVELS} levels for each channel, found {list(levels)}")
    if math.prod(levels) > LARGEST_FINITE_CODES:
        raise TokenizerError(
            f"expected levels of at most {LARGEST_FINITE_CODES:,} codes together, found "
            f"{math.prod(levels):,}; use fewer levels, or a codebook"
        )
    return tuple(levels)


def nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Return the index (N,) int64 in table (K, D) of the vector nearest to each row (N, D), lowest first.

    The result equals that of `nearest_plainly`, but is faster: distances are |c|^2 - 2xc, and only if
    rounding leaves more than one candidate, the differences themselves.
    """
    norms = table.square().sum(1)
    steps = 2 * (table.shape[1] + 4) * torch.finfo(table.dtype).eps
    indices = []
    pairs = _PAIRS_ON_CPU if rows.device.type == "cpu" else _PAIRS
    for chunk in torch.split(rows, max(1, pairs // len(table))):
        scores = torch.addmm(norms, chunk, table.T, alpha=-2)
        best = scores.argmin(1)
        reach = chunk.square().sum(1).sqrt() + norms.max().sqrt()
        limit = scores.gather(1, best[:, None]) + steps * reach.square()[:, None]
        doubtful = (scores <= limit).sum(1) > 1
        if bool(doubtful.any()):
            best[doubtful] = nearest_plainly(chunk[doubtful], table)
        indices.append(best)
    return torch.cat(indices)


def nearest_plainly(rows: Tensor, table: Tensor) -> Tensor:
    """Return the index of the smallest distance by all differences, which `nearest` has to equal."""
    distances = torch.cdist(rows, table, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.argmin(1)


def _rows(latents: Tensor) -> Tensor:
    """Return vectors (B h w, D) of latents (B, D, h, w)."""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


def _checked(tensor: Tensor, shape: str) -> Tensor:
    """Return a float32 copy; raise TokenizerError unless the tensor has that many axes and is finite."""
    if tensor.ndim != len(shape.split()) or not tensor.numel() or not bool(tensor.isfinite().all()):
        raise TokenizerError(f"expected finite vectors {shape}, found {tuple(tensor.shape)} {tensor.dtype}")
    return tensor.detach().to(torch.float32).contiguous()
