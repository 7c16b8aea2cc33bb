"""The rounding of a fitted model's floats to the integers in a store, as coarse as pays.

The rows of all contexts that look at one codebook are turned to their principal components. Then one step
between levels spends bits on the components that count, and drops those below it (reverse water-filling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import LOGIT_BITS
from tokenstore.codecs.context.model import MAX_COMPONENTS, ContextModel, Plane

Floats = npt.NDArray[np.float32]
_LARGEST = 127
_LOGIT_UNIT = 2**LOGIT_BITS * math.log2(math.e)


@dataclass(frozen=True)
class FittedPlane:
    """One codebook's part of a fitted model, in floats."""

    order: npt.NDArray[np.uint32]
    contexts: npt.NDArray[np.int8]
    components: Floats
    """The components of each code (1 + K, T); row 0 is that of no code, beyond the grid's edge."""
    readers: Floats
    """The weights of the components for each reader (T, readers, lanes)."""
    bias: Floats
    weights: Floats
    """The weights of each child (children, 33); the last column has biases, in nats."""
    fade: int

    def principal(self) -> FittedPlane:
        """Return the plane with components of unit size and the same rows, the largest component first."""
        ranks = self.readers.shape[0]
        flat = self.readers.reshape(ranks, -1)
        codes = len(self.components)
        # subtle: QR first, so that singular vectors are computed of small matrices, not of the large product
        left, right = (np.linalg.qr(each.astype(np.float64)) for each in (self.components, flat.T))
        u, s, v = np.linalg.svd(left[1] @ right[1].T)
        size = math.sqrt(codes)
        components = left[0] @ u[:, : len(s)] * size
        readers = (s[:, None] * (v[: len(s)] @ right[0].T)) / size
        shape = (min(len(s), MAX_COMPONENTS), *self.readers.shape[1:])
        return replace(
            self,
            components=components[:, : shape[0]].astype(np.float32),
            readers=readers[: shape[0]].reshape(shape).astype(np.float32),
        )


def quantised(planes: list[FittedPlane], rank: int, step: float, weight_step: float) -> ContextModel:
    """Return the model in integers, with `step` between levels of rows and `weight_step` between weights.

    The planes have principal components (`FittedPlane.principal`).
    """
    parts = []
    for plane in planes:
        count = _components_above(plane.components, plane.readers, step)
        components, readers = plane.components[:, :count], plane.readers[:count]
        weights = plane.weights[:, :-1] if count else np.zeros_like(plane.weights[:, :-1])
        largest_weight = max(float(np.abs(weights).max(initial=0)), 1e-6)
        weight_scale = min(1 / weight_step, _LARGEST / largest_weight)
        sizes = np.sqrt((readers**2).mean(axis=(1, 2))) + 1e-12
        scaled = components * sizes
        unit = max(
            step if count else 1.0, *(float(np.abs(a).max(initial=0)) / _LARGEST for a in (scaled, readers))
        )
        whole_components = np.rint(scaled / unit).astype(np.int8)
        whole_readers = np.rint(readers / unit).astype(np.int8)
        factors = unit * unit / sizes
        rows = np.tensordot(whole_components * factors, whole_readers, ([1], [0]))
        largest = max(float(np.abs(rows).max(initial=0)), 1e-6)
        logit_shift = 0
        while logit_shift < 15 and _LOGIT_UNIT * 2 ** (logit_shift + 1) / weight_scale * largest <= _LARGEST:
            logit_shift += 1
        row_scale = _LOGIT_UNIT * 2**logit_shift / weight_scale
        row_shift = 1
        while row_shift < 40 and row_scale * factors.max(initial=1e-12) * 2.0 ** (row_shift + 1) <= 65535:
            row_shift += 1
        parts.append(
            Plane(
                size=len(plane.order),
                order=plane.order,
                contexts=plane.contexts,
                gains=np.clip(np.rint(row_scale * factors * 2.0**row_shift), 0, 65535).astype(np.uint16),
                components=np.ascontiguousarray(whole_components.T),
                readers=whole_readers,
                bias=np.clip(np.rint(plane.bias * row_scale), -(2**14), 2**14).astype(np.int16),
                weights=np.rint(weights * weight_scale).astype(np.int8),
                biases=np.clip(np.rint(plane.weights[:, -1] * _LOGIT_UNIT), -(2**15), 2**15 - 1).astype(
                    np.int16
                ),
                row_shift=row_shift,
                logit_shift=logit_shift,
                fade=plane.fade,
            )
        )
    return ContextModel(rank, tuple(parts))


def _components_above(components: Floats, readers: Floats, step: float) -> int:
    """Count the components that rounding to the step leaves above zero in both factors."""
    sizes = np.sqrt((readers**2).mean(axis=(1, 2)))
    in_readers = np.abs(readers).max(axis=(1, 2)) > step / 2
    in_components = np.abs(components).max(axis=0) * sizes > step / 2
    return int((in_readers & in_components).sum())
