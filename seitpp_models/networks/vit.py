"""The vision transformers over tokens, as timm models.

    timm.create_model("seit_vit_base_token", num_classes=1000)                      # vectors (B, 32, 28, 28)
    timm.create_model("seit_vit_base_token", codebook_size=391, num_classes=1000)   # codes (B, 28, 28)
    timm.create_model("seit_vit_base_token", store=tokenstore.open("imagenet.zarr"))  # the store's sizes

after `import seitpp_models`. SeiT, https://arxiv.org/abs/2303.11114; SeiT++,
https://arxiv.org/abs/2312.10105.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from seitpp_models.networks.blocks import LeanBlock
from seitpp_models.networks.shape import NetworkShape, check_scales
from seitpp_models.networks.sizes import size_named
from seitpp_models.networks.store_sizes import seen_grid, sizes_of
from seitpp_models.networks.token_embedding import EPSILON, LearnedPatches, PlainPatches, StemAdaptor

__all__ = ["TokenViT", "token_vit"]

_PUBLISHED_NAMES = {"fc_norm.": "norm.", "patch_embed.token_emb.": "token_emb."}
"""The beginnings of tensors' names, and those that published checkpoints of SeiT have for them."""


class TokenViT(VisionTransformer):  # type: ignore[misc]
    """A ViT over vectors (B, C, H, W), with the Stem-Adaptor, or over codes (B, H, W), with `codebook_size`.

    With a `codebook_size` for each of n codebooks, codes are (B, n, H, W). Without `overlap`, patches of
    vectors are plain ones. `scales` (C,) are noted for whoever makes the numbers that the network takes. The
    head classifies the normalised mean of the patches. Everything else is timm's VisionTransformer. Within
    `taking_any_grid`, positions are interpolated for grids of another size than `grid`, which have to be
    whole patches high and wide.

    Raises ValueError if patches do not fill the grid, and for input of the other kind or of another grid.
    """

    def __init__(
        self,
        grid: tuple[int, int] = (28, 28),
        channels: int = 32,
        codebook_size: int | Sequence[int] | None = None,
        patch: int = 2,
        embedding_dropout: float = 0.1,
        overlap: bool = True,
        scales: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        grid = tuple(grid)  # type: ignore[assignment]
        if min(grid) < patch or any(side % patch for side in grid):
            raise ValueError(f"grid: expected sides that are multiples of the patch, {patch}, found {grid}")
        layer: Any = StemAdaptor if overlap else PlainPatches
        if codebook_size is not None:
            codebook_size = codebook_size if isinstance(codebook_size, int) else tuple(codebook_size)
            layer = partial(LearnedPatches, codebook_size=codebook_size, dropout=embedding_dropout)
        arguments.setdefault("block_fn", LeanBlock)
        super().__init__(
            img_size=grid,
            patch_size=patch,
            in_chans=channels,
            global_pool="avg",
            fc_norm=True,
            dynamic_img_size=True,
            norm_layer=partial(nn.LayerNorm, eps=EPSILON),
            embed_layer=layer,
            **arguments,
        )
        self.codebook_size = codebook_size
        self.overlap, self.scales = overlap, check_scales(scales, channels)

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the input and of the output."""
        patches = self.patch_embed
        channels = patches.proj.in_channels
        return NetworkShape(
            patches.img_size,
            patches.patch_size[0],
            self.codebook_size,
            channels,
            self.num_classes,
            "class",
            self.scales,
        )

    def backbone_sizes(self) -> dict[str, int]:
        """Return the sizes of the ViT's blocks, by the names that `token_vit` has for them."""
        heads: int = self.blocks[0].attn.num_heads
        sizes = {"embed_dim": self.embed_dim, "depth": len(self.blocks), "num_heads": heads}
        return sizes if self.overlap else {**sizes, "overlap": False}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameters' names by layer, for timm's decay of learning rates by layer.

        The embedding of codes is in no layer, so that it learns at the full rate, as in the published runs.
        """
        matcher: dict[str, Any] = super().group_matcher(coarse)
        return {**matcher, "stem": r"^(?:cls_token|pos_embed|patch_embed\.(?!token_emb))"}

    def published_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in published checkpoints."""
        names = _PUBLISHED_NAMES.items()
        return {_renamed(name, names): tensor.detach() for name, tensor in self.state_dict().items()}

    def load_published(self, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
        """Load tensors by their names in published checkpoints; not `strict`, they need not be all."""
        names = [(theirs, ours) for ours, theirs in _PUBLISHED_NAMES.items()]
        self.load_state_dict({_renamed(name, names): tensor for name, tensor in tensors.items()}, strict)

    def features(self, tokens: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """Return the patches' features (B, width, h, w) after the blocks `depths`, from shallow to deep."""
        # timm's forward_intermediates takes no codes (B, H, W), and sums gradients in another order
        patches = self.patch_embed(tokens)  # (B, h, w, width), since any size is taken
        grid = patches.shape[1:3]
        hidden = self.norm_pre(self._pos_embed(patches))
        features = []
        for number, block in enumerate(self.blocks[: max(depths) + 1]):
            hidden = block(hidden)
            if number in depths:
                features.append(hidden[:, self.num_prefix_tokens :].mT.unflatten(2, grid))
        return features


def _renamed(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for before, after in beginnings:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def token_vit(size: str, **arguments: Any) -> TokenViT:
    """Make a TokenViT "tiny", "small", "base" or "large"; `arguments` are those of TokenViT.

    Raises ValueError for another size.
    """
    transformer = size_named(size)
    sizes = {"embed_dim": transformer.width, "depth": transformer.depth, "num_heads": transformer.heads}
    return TokenViT(**(sizes | arguments))


def _registered(size: str, arguments: dict[str, Any]) -> TokenViT:
    if arguments.pop("pretrained", False):
        raise ValueError("no weights are published under this name; load_official reads those of SeiT")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(name, None)
    store = arguments.pop("store", None)
    if store is not None:
        sizes = sizes_of(store)
        grid, patch = seen_grid(sizes.grid, arguments.get("patch"))
        of_store = {"grid": grid, "patch": patch, "channels": sizes.channels}
        if sizes.classes is not None:
            of_store["num_classes"] = sizes.classes
        arguments = of_store | arguments
    return token_vit(size, **arguments)


@register_model  # type: ignore[untyped-decorator]
def seit_vit_tiny_token(**arguments: Any) -> TokenViT:
    """Make a ViT-Ti over tokens."""
    return _registered("tiny", arguments)


@register_model  # type: ignore[untyped-decorator]
def seit_vit_small_token(**arguments: Any) -> TokenViT:
    """Make a ViT-S over tokens."""
    return _registered("small", arguments)


@register_model  # type: ignore[untyped-decorator]
def seit_vit_base_token(**arguments: Any) -> TokenViT:
    """Make a ViT-B over tokens."""
    return _registered("base", arguments)


@register_model  # type: ignore[untyped-decorator]
def seit_vit_large_token(**arguments: Any) -> TokenViT:
    """Make a ViT-L over tokens."""
    return _registered("large", arguments)
