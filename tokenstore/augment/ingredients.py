"""The ingredients of SeiT's and SeiT++'s augmentation, each with its own setting, and the published sets.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105, section 4.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

__all__ = ["ADAPTER_DRAWS", "FLIPS", "INGREDIENTS", "AdapterDraws", "Flip", "Ingredients"]

Flip: TypeAlias = Literal["exact", "naive", "none"]
"""A way to flip codes left to right.

exact: by the symmetries of a store; naive: codes change places, but each stands for a patch that was not
flipped; none: nothing is flipped, not by TokenAdapt either.
"""
FLIPS: Final[tuple[Flip, ...]] = get_args(Flip)

AdapterDraws: TypeAlias = Literal["sample", "batch"]
"""The samples that share a flip and an affine map of TokenAdapt.

sample: each has its own; batch: one for all of the half batch, with shears from 0 degrees and translations by
whole positions, as in SeiT++'s code. The crop is drawn for each sample either way.
"""
ADAPTER_DRAWS: Final[tuple[AdapterDraws, ...]] = get_args(AdapterDraws)

_TRAINING_SCALE = (0.08, 1.0)
"""The bounds of a crop's share of the area in supervised training."""
_PRETRAINING_SCALE = (0.2, 1.0)
"""The bounds of a crop's share of the area in pre-training."""


@dataclass(frozen=True)
class Ingredients:
    """A set of ingredients of an augmentation; the default has a random resized crop alone.

    Raises ValueError for a probability that is not from 0 to 1, colours whose probabilities have a sum above
    1, an alpha below 0, and another flip.
    """

    token_eda: bool = False
    """True for Token-EDA on codes: synonyms, swapped patches, or neither, drawn for each sample."""
    emb_noise: float = 0.0
    """The probability that a batch gets Emb-Noise, which is on half of its samples."""
    color_adapt: float = 0.0
    """The probability that a batch gets ColorAdapt, which is on half of its samples. No batch has both."""
    cutmix: float = 0.0
    """The alpha of CutMix; 0: none."""
    mixup: float = 0.0
    """The alpha of Mixup, which takes turns with CutMix in the half of the batch that TokenAdapt augments."""
    smoothing: float = 0.0
    """The label smoothing."""
    flip: Flip | None = None
    """The flip of half of all samples; None: exact where a store has its symmetry, else TokenAdapt's."""
    scale: tuple[float, float] = _TRAINING_SCALE
    """The bounds of a crop's share of the area."""
    colour_last: bool = False
    """True to change colours after the crop, False to change them before it."""
    adapter_draws: AdapterDraws = "sample"
    """The samples that share a flip and an affine map of TokenAdapt."""

    def __post_init__(self) -> None:
        for name in ("emb_noise", "color_adapt", "smoothing"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, found {value}")
        if self.emb_noise + self.color_adapt > 1 + 1e-9:
            raise ValueError(
                "emb_noise, color_adapt: expected probabilities with a sum up to 1, since a batch has one of "
                f"both, found {self.emb_noise} and {self.color_adapt}"
            )
        for name in ("cutmix", "mixup"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number from 0, found {value}")
        if self.adapter_draws not in ADAPTER_DRAWS:
            raise ValueError(
                f"adapter_draws: expected one of {', '.join(ADAPTER_DRAWS)}, found {self.adapter_draws!r}"
            )
        if self.flip is not None and self.flip not in FLIPS:
            raise ValueError(f"flip: expected one of {', '.join(FLIPS)}, found {self.flip!r}")

    def is_flipped_by_adapter(self, flip: object | None) -> bool:
        """Return whether TokenAdapt flips: nothing `flip`s the codes, and flips are not left out."""
        return flip is None and self.flip != "none"

    def to_dict(self) -> dict[str, Any]:
        """Return the ingredients by their names, as JSON values."""
        return {**asdict(self), "scale": list(self.scale)}


INGREDIENTS: Final[dict[str, Ingredients]] = {
    "mtm": Ingredients(scale=_PRETRAINING_SCALE),
    "finetune": Ingredients(emb_noise=0.75, color_adapt=0.25, cutmix=1.0, mixup=0.8, smoothing=0.1),
    "seit": Ingredients(
        token_eda=True,
        emb_noise=0.5,
        color_adapt=0.25,
        cutmix=1.0,
        mixup=0.8,
        smoothing=0.1,
        colour_last=True,
    ),
    "crops": Ingredients(emb_noise=1 / 3, color_adapt=1 / 3, scale=(0.25, 1.0)),
}
"""The ingredients of each augmentation by its name.

mtm, finetune and seit: pre-training, fine-tuning and supervised training as the published runs do them.
crops: segmentation, of which no run was published.
"""
