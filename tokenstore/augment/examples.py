"""Examples of augmentation for pictures: TokenAdapt beside the naive transformation of the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.augment.codebooks import Codebook
from tokenstore.augment.colour import moments, with_moments
from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.embedding import CodebookEmbedding
from tokenstore.augment.exact_flip import ExactFlip
from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip
from tokenstore.augment.requantise import Requantise
from tokenstore.augment.token_adapt import PATCH_SIDE, TokenAdapt
from tokenstore.format import NO_SYMMETRIES, Symmetries

__all__ = ["augmented_examples", "transformed_codes"]

_CROP_SCALE = (0.25, 0.4)
"""The bounds of an example crop's share of the area."""


@torch.no_grad()
def augmented_examples(
    codes: Tensor,
    codebook: Codebook,
    adapter: TokenAdapt,
    seed: int = 0,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> dict[str, Tensor]:
    """Return the codes (B, H, W) after a flip, a crop and ColorAdapt, by the name of the augmentation.

    Flip and crop are made in two ways, naively on the codes and by TokenAdapt, with the same boxes. All
    results are (B, H, W) int64: a crop is resized to the whole grid. ColorAdapt's partner is the next sample
    of the batch. With a store's `symmetries`, "exact flip" is the flip by them.
    """
    rows, columns = codes.shape[1:]
    embedding = CodebookEmbedding(codebook)
    vectors = embedding(codes)
    generator = torch.Generator().manual_seed(seed)
    geometries = {
        "flip": Geometry(flip=HorizontalFlip(1)),
        "crop": Geometry(crop=RandomResizedCrop((PATCH_SIDE * rows, PATCH_SIDE * columns), _CROP_SCALE)),
    }
    examples = {}
    for name, geometry in geometries.items():
        drawn = geometry.draw(len(codes), (PATCH_SIDE * rows, PATCH_SIDE * columns), generator)
        examples[f"naive {name}"] = transformed_codes(codes, drawn)
        examples[f"TokenAdapt {name}"] = adapter.drawn_codes(vectors, drawn)
    exact = ExactFlip.of(symmetries, p=1)
    if exact is not None:
        examples["exact flip"] = exact(codes, generator=generator)
    own = moments(vectors)
    coloured = with_moments(vectors, own, (own[0].roll(-1, 0), own[1].roll(-1, 0)))
    return examples | {"ColorAdapt": Requantise(embedding.codebook)(coloured)}


def transformed_codes(codes: Tensor, geometry: DrawnGeometry, fill: int = 0) -> Tensor:
    """Transform codes (B, H, W) naively: codes change places, by nearest neighbour, but not their values.

    Codes from outside the grid are `fill`. The geometry counts positions on a map twice as fine, as
    TokenAdapt's does.
    """
    fine = codes.repeat_interleave(PATCH_SIDE, 1).repeat_interleave(PATCH_SIDE, 2)
    # A code is 2x2 places of the map. The result takes the place below and right of the code's centre.
    return geometry.apply_to_labels(fine, fill)[
        :, PATCH_SIDE // 2 :: PATCH_SIDE, PATCH_SIDE // 2 :: PATCH_SIDE
    ]
