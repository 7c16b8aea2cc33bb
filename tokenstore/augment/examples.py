"""What augmentation of tokens does to a sample, beside moving its codes about: for pictures of it."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.augment.colour import moments, with_moments
from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.embedding import Codebook, CodebookEmbedding
from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip
from tokenstore.augment.requantise import Requantise
from tokenstore.augment.token_adapt import SCALE, TokenAdapt

__all__ = ["augmented_examples", "moved_codes"]

_CROP_SCALE = (0.25, 0.4)


@torch.no_grad()
def augmented_examples(
    codes: Tensor, codebook: Codebook, adapter: TokenAdapt, seed: int = 0
) -> dict[str, Tensor]:
    """Codes (B, H, W) int64 after a flip and a crop, naive and by TokenAdapt, and after ColorAdapt, by name.

    All are (B, H, W): a crop, the same of both ways, is resized to the whole grid. ColorAdapt's partner is
    the next sample of the batch.
    """
    rows, columns = codes.shape[1:]
    embedding = CodebookEmbedding(codebook)
    vectors = embedding(codes)
    generator = torch.Generator().manual_seed(seed)
    geometries = {
        "flip": Geometry(flip=HorizontalFlip(1)),
        "crop": Geometry(crop=RandomResizedCrop((SCALE * rows, SCALE * columns), _CROP_SCALE)),
    }
    examples = {}
    for name, geometry in geometries.items():
        drawn = geometry.draw(len(codes), (SCALE * rows, SCALE * columns), generator)
        examples[f"naive {name}"] = moved_codes(codes, drawn)
        examples[f"TokenAdapt {name}"] = adapter.drawn_codes(vectors, drawn)
    own = moments(vectors)
    coloured = with_moments(vectors, own, (own[0].roll(-1, 0), own[1].roll(-1, 0)))
    return examples | {"ColorAdapt": Requantise(embedding.codebook)(coloured)}


def moved_codes(codes: Tensor, geometry: DrawnGeometry, fill: int = 0) -> Tensor:
    """Codes (B, H, W) moved about as they are, the naive way, by nearest neighbour; `fill` is outside.

    The geometry counts places on a map twice as fine, as TokenAdapt's.
    """
    fine = codes.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    # Of each 2x2 places of the map one is the code's: that nearest to its centre, below and right of it.
    return geometry.apply_to_labels(fine, fill)[:, SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
