"""The evaluation of a TokenAdapt: its tokens against the tokens of images that were augmented themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seitpp_models.adapter.pairs import augmented_images
from seitpp_models.adapter.tokens import AdapterTokens, tokens_of
from tokenstore.augment import (
    PATCH_SIDE,
    DrawnGeometry,
    Geometry,
    HorizontalFlip,
    RandomAffine,
    RandomResizedCrop,
    TokenAdapt,
    transformed_codes,
)
from tokenstore.tokenizers import Tokenizer
from tokenstore.tokenizers.quality import psnr

__all__ = ["AdapterQuality", "evaluate_adapter", "evaluated_transforms"]

_BATCH = 8


@dataclass(frozen=True)
class AdapterQuality:
    """The quality of a TokenAdapt for one transform, as means over images."""

    share: float
    """The share of codes that are equal to those of the augmented image."""
    psnr: float
    """The PSNR in dB of the image that TokenAdapt's codes decode to, against the augmented image."""
    naive_share: float
    """The `share` of the same transform applied to the grid of codes by nearest neighbour."""
    naive_psnr: float
    """The `psnr` of the same."""
    exact_psnr: float
    """The PSNR in dB of the augmented image's own codes, which no augmentation of tokens can pass."""

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of codes, {self.psnr:.2f} dB (naive {100 * self.naive_share:.1f} %, "
            f"{self.naive_psnr:.2f} dB; exact {self.exact_psnr:.2f} dB)"
        )


def evaluated_transforms(size: tuple[int, int]) -> dict[str, Geometry]:
    """Return the transforms to evaluate, by name; a crop gives g's `size` (h, w), all others the grid."""
    crop = RandomResizedCrop((PATCH_SIDE * size[0], PATCH_SIDE * size[1]))
    return {
        "flip": Geometry(flip=HorizontalFlip(1)),
        "crop-resize": Geometry(crop=crop),
        "rotation": Geometry(affine=RandomAffine(30, 0, 0, p=1, group_p=1)),
        "translation": Geometry(affine=RandomAffine(0, 0.2, 0, p=1, group_p=1)),
        "shear": Geometry(affine=RandomAffine(0, 0, 15, p=1, group_p=1)),
    }


@torch.no_grad()
def evaluate_adapter(
    adapter: TokenAdapt, tokenizer: Tokenizer, images: Tensor, seed: int = 0
) -> dict[str, AdapterQuality]:
    """Return the quality of each transform on images (N, 3, H, W) uint8 that become the adapter's grid.

    The networks compute in the precision of their weights. `seed` draws the transforms.
    """
    device = next(adapter.parameters()).device
    grid = tokenizer.grid(tuple(images.shape[1:]))
    tokens = AdapterTokens(tokens_of(tokenizer, grid).form, adapter.config.scales).to(device)
    black = tokenizer.encode(torch.zeros_like(images[:1]))
    rows, columns = adapter.config.grid
    quality = {}
    for name, geometry in evaluated_transforms(adapter.config.size).items():
        generator = torch.Generator().manual_seed(seed)
        figures = []
        for batch in torch.split(images, _BATCH):
            drawn = geometry.draw(len(batch), (PATCH_SIDE * rows, PATCH_SIDE * columns), generator)
            augmented = augmented_images(batch, drawn)
            exact, codes = tokenizer.encode(augmented), tokenizer.encode(batch)
            adapted = tokens.codes(adapter.drawn_codes(tokens.embeddings(codes.to(device)), drawn))
            adapted = adapted.to(codes.device)
            naive = _transformed(codes, drawn, black)
            figures.append(
                torch.stack(
                    [
                        *(_share(adapted, exact), _psnr(tokenizer, adapted, augmented)),
                        *(_share(naive, exact), _psnr(tokenizer, naive, augmented)),
                        _psnr(tokenizer, exact, augmented),
                    ]
                )
            )
        quality[name] = AdapterQuality(*torch.cat(figures, 1).mean(1).tolist())
    return quality


def _transformed(codes: Tensor, geometry: DrawnGeometry, black: Tensor) -> Tensor:
    """Move codes (B, H, W), or planes (B, n, H, W), as they are; outside are the commonest codes of black."""
    if codes.ndim == 3:
        return transformed_codes(codes, geometry, int(black.flatten().mode().values))
    planes = zip(codes.unbind(1), black.unbind(1), strict=True)
    return torch.stack(
        [transformed_codes(plane, geometry, int(fill.flatten().mode().values)) for plane, fill in planes], 1
    )


def _share(codes: Tensor, exact: Tensor) -> Tensor:
    return (codes == exact).flatten(1).double().mean(1)


def _psnr(tokenizer: Tokenizer, codes: Tensor, images: Tensor) -> Tensor:
    return psnr(tokenizer.decode(codes), images).double()
