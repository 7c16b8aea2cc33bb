"""The classifier with any timm backbone over tokens, such as a ConvNeXt: a case that SeiT leaves open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from seitpp_models.networks.shape import NetworkShape, check_grid, check_scales
from seitpp_models.networks.sizes import SIZES
from seitpp_models.networks.store_sizes import sizes_of
from seitpp_models.networks.token_embedding import TokenEmbedding
from tokenstore.errors import did_you_mean

if TYPE_CHECKING:
    from tokenstore.reading import TokenStore

__all__ = ["TokenClassifier"]

_BACKBONE, _EMBEDDING = "backbone.", "token_emb."
_MOST_TRIED = 1 << 20
"""The most pixels of an image that a backbone is tried with in memory."""


class TokenClassifier(nn.Module):
    """A timm model over vectors (B, C, H, W), or codes (B, H, W) with `codebook_size`, to logits (B, n).

    A backbone that shrinks its input by 32 would leave nothing of a grid of 28x28. So a transposed
    convolution first makes `enlarge` x `enlarge` pixels of each token. The default of 4 leaves a ConvNeXt a
    quarter of the work it has on images. `grid` (H, W) is the network's grid of tokens, which some backbones
    must know; without it, the network takes any. A `codebook_size` of several numbers, and `scales`, are as a
    TokenViT's. `channels` and `num_classes` are by default those of `store`, or 32 and 1000. Further
    arguments are the backbone's.

    Raises ValueError for a name that timm does not know, for `enlarge` below 1, and if the backbone does not
    take the grid.
    """

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        channels: int | None = None,
        codebook_size: int | Sequence[int] | None = None,
        enlarge: int = 4,
        store: TokenStore | None = None,
        grid: Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        sizes = None if store is None else sizes_of(store)
        if channels is None:
            channels = 32 if sizes is None else sizes.channels
        if num_classes is None:
            num_classes = 1000 if sizes is None or sizes.classes is None else sizes.classes
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise ValueError(
                f"name: expected a model of timm, found {name!r}; near: {', '.join(near) or 'none'}"
                f"{did_you_mean(name, [*SIZES, *timm.list_models()])}"
            )
        if enlarge < 1:
            raise ValueError(f"enlarge: expected a positive integer, found {enlarge}")
        self.token_emb = None if codebook_size is None else TokenEmbedding(codebook_size, channels)
        self.codebook_size = None if self.token_emb is None else self.token_emb.codebook_size
        self.scales = check_scales(scales, channels)
        self.num_classes = num_classes
        self.enlarge = nn.ConvTranspose2d(channels, channels, enlarge, stride=enlarge)
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]))
        self.any_grid = False
        arguments |= {"in_chans": channels, "num_classes": num_classes}
        self.backbone = _backbone(
            name, self.grid and (enlarge * self.grid[0], enlarge * self.grid[1]), arguments
        )

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the input and of the output."""
        channels = self.enlarge.in_channels
        return NetworkShape(
            self.grid, 1, self.codebook_size, channels, self.num_classes, "class", self.scales
        )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, for timm."""
        names: Any = getattr(self.backbone, "no_weight_decay", set)
        return {f"{_BACKBONE}{name}" for name in names()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from a parameter's name to its layer, for timm's learning rates by layer.

        The embedding of codes counts with the last layer, so that it learns at the full rate.
        """
        matcher: Any = getattr(self.backbone, "group_matcher", lambda coarse: lambda name: 0)
        layers = group_parameters(self.backbone, matcher(coarse=coarse), reverse=True)
        last = max(layers.values(), default=0)
        return lambda name: (
            last if name.startswith(_EMBEDDING) else layers.get(name.removeprefix(_BACKBONE), 0)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, classes) of vectors (B, C, H, W), or of codes (B, H, W) of an integer dtype.

        Raises ValueError for tokens of another grid than the network's.
        """
        vectors = tokens if self.token_emb is None else self.token_emb(tokens)
        if self.grid is not None and not self.any_grid:
            check_grid(vectors.shape[2:], self.grid)
        logits: Tensor = self.backbone(self.enlarge(vectors))
        return logits


def _backbone(name: str, size: tuple[int, int] | None, arguments: dict[str, Any]) -> nn.Module:
    """Make a timm model, for images of `size` if it depends on their size.

    Raises ValueError if the model does not take images of that size.
    """
    model = _made(name, size, arguments)
    if size is None:
        return model
    try:
        # subtle: without memory, since a file may ask for images of any size; and what cannot be tried so is
        # tried with memory if it is small
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            _try(_made(name, size, arguments), size, arguments)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        try:
            if size[0] * size[1] > _MOST_TRIED:
                raise
            _try(model, size, arguments)
        except (RuntimeError, AssertionError, ValueError) as refusal:
            raise ValueError(f"{name} does not take {size[0]}x{size[1]} pixels: {refusal}") from error
    return model.train()


def _made(name: str, size: tuple[int, int] | None, arguments: dict[str, Any]) -> nn.Module:
    if size is not None:
        with contextlib.suppress(TypeError):  # most models take images of any size, and have no such argument
            return timm.create_model(name, img_size=size, **arguments)  # type: ignore[no-any-return]
    return timm.create_model(name, **arguments)  # type: ignore[no-any-return]


@torch.no_grad()
def _try(model: nn.Module, size: tuple[int, int], arguments: dict[str, Any]) -> None:
    model.eval()(torch.zeros(1, arguments["in_chans"], *size))
