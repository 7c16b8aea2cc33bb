"""What a network takes and gives, read off the network, and that codes fit it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.backbones import TokenClassifier
from seitpp_models.networks.mtm import MaskedTokenModel
from seitpp_models.networks.segmentation import TokenSegmenter
from seitpp_models.networks.vit import TokenViT
from tokenstore.augment.embedding import CodebookEmbedding

__all__ = ["NetworkShape", "shape_of"]


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a network's input and output."""

    grid: tuple[int, int] | None
    """Of the codes that it was built for; None where it takes any."""
    patch: int
    """Sides of other grids have to be multiples of it."""
    codebook_size: int | None
    """Codes it knows; None where their vectors go in."""
    channels: int
    """Of the vectors of codes."""
    classes: int
    """Logits that it gives; of masked-token models those of a code."""

    def crop(
        self, grid: tuple[int, ...], where: str, wanted: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """Sides of the central part of the codes of `where` that goes in: `wanted`, or what it was built for.

        Raises ModelError where a grid is no plane, or smaller than that.
        """
        if len(grid) != 2:
            raise ModelError(f"{where}: expected grids (H, W) of one codebook's codes, found {grid}")
        height, width = wanted or self.grid or grid
        if height % self.patch or width % self.patch:
            raise ModelError(f"expected a crop of whole patches of {self.patch}, found {(height, width)}")
        if height > grid[0] or width > grid[1]:
            raise ModelError(
                f"{where}: expected grids of at least {(height, width)}, which the network sees, found {grid}"
            )
        return height, width

    def embedding(
        self, codebook_size: int, codebook: npt.NDArray[np.float32] | None, where: str
    ) -> CodebookEmbedding | None:
        """What makes the network's input of codes of `where`; None where it takes codes.

        Raises ModelError where there are more codes than it knows, or vectors of another kind.
        """
        if self.codebook_size is not None:
            if codebook_size > self.codebook_size:
                raise ModelError(
                    f"{where}: expected codes from 0 to {self.codebook_size - 1}, which the network knows, "
                    f"found a codebook of {codebook_size}; train a network on such codes"
                )
            return None
        shape = None if codebook is None else codebook.shape
        if codebook is None or codebook.ndim != 2 or codebook.shape[1] != self.channels:
            raise ModelError(
                f"{where}: expected a codebook of vectors of {self.channels} channels, which the network "
                f"takes, found {'none' if shape is None else f'shape {shape}'}"
            )
        return CodebookEmbedding(codebook)


def shape_of(model: nn.Module) -> NetworkShape:
    """The sizes of a network of any kind; raises ModelError for a module of another."""
    if isinstance(model, MaskedTokenModel):
        config = model.config
        return NetworkShape(
            config.grid, config.patch, config.codebook_size, config.channels, config.codebook_size
        )
    if isinstance(model, TokenSegmenter):
        return _of_vit(model.backbone, model.classes)
    if isinstance(model, TokenViT):
        return _of_vit(model, model.num_classes)
    if isinstance(model, TokenClassifier):
        return NetworkShape(model.grid, 1, model.codebook_size, model.enlarge.in_channels, model.num_classes)
    raise ModelError(f"expected a network that build_model makes, found {type(model).__name__}")


def _of_vit(vit: TokenViT, classes: int) -> NetworkShape:
    patches = vit.patch_embed
    return NetworkShape(
        patches.img_size, patches.patch_size[0], vit.codebook_size, patches.proj.in_channels, classes
    )
