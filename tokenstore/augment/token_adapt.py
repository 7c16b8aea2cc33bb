"""TokenAdapt: ordinary image augmentation in a space that tokens are mapped to and back from.

Lee et al. 2024 (SeiT++), https://arxiv.org/abs/2312.10105, section 3.2. Parameters have the names and shapes
of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.geometry import Geometry, HorizontalFlip, RandomAffine
from tokenstore.errors import AdapterError
from tokenstore.manifest import TokenizerIdentity
from tokenstore.transformer import HEAD_WIDTH, Transformer, sin_cos_table

__all__ = ["AdapterConfig", "TokenAdapt", "adapter_geometry"]

SCALE = 2
"""Side of the patch of the adapted map that a token becomes, and that becomes a token."""
_PARTS = ("conversion_function.", "reverse_transform.")


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of a TokenAdapt; those of SeiT++ unless said otherwise."""

    codebook_size: int = 391
    channels: int = 32
    """Of a token's vector, and of the adapted map."""
    grid: tuple[int, int] = (32, 32)
    """What f takes."""
    size: tuple[int, int] = (28, 28)
    """What g gives."""
    width: int = 384
    heads: int = 6
    mlp: int = 1536
    depth: int = 1

    def __post_init__(self) -> None:
        for name in ("grid", "size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = (
            self.codebook_size,
            self.channels,
            *self.grid,
            *self.size,
            self.heads,
            self.mlp,
            self.depth,
        )
        if min(numbers) < 1 or self.width < 4 or self.width % 4 or len(self.grid) != 2 or len(self.size) != 2:
            raise AdapterError(f"expected positive sizes and a width that is a multiple of 4, found {self}")


class FromTokens(nn.Module):
    """Features (B, H * W, width) to a map (B, channels, 2H, 2W)."""

    de_pos_embedding: Tensor  # 1, H * W, width

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.register_buffer("de_pos_embedding", sin_cos_table(config.grid, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)
        self.to_pixel = nn.Sequential(
            nn.Unflatten(2, config.grid),
            nn.ConvTranspose2d(config.width, config.channels, SCALE, stride=SCALE),
        )

    def forward(self, features: Tensor) -> Tensor:
        features = self.transformer(features + self.de_pos_embedding)
        adapted: Tensor = self.to_pixel(features.transpose(1, 2))
        return adapted


class ToTokens(nn.Module):
    """A map (B, channels, 2h, 2w) to features (B, h * w, width)."""

    en_pos_embedding: Tensor  # 1, h * w, width

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.size = config.size
        self.register_buffer("en_pos_embedding", sin_cos_table(config.size, config.width))
        self.to_patch_embedding = nn.Sequential(
            nn.Conv2d(config.channels, config.width, SCALE, stride=SCALE), nn.Flatten(2)
        )
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)

    def forward(self, adapted: Tensor) -> Tensor:
        size = adapted.shape[2] // SCALE, adapted.shape[3] // SCALE
        positions = self.en_pos_embedding
        if size != self.size:
            positions = sin_cos_table(size, positions.shape[2]).to(positions)
        patches: Tensor = self.to_patch_embedding(adapted).transpose(1, 2)
        features: Tensor = self.transformer(patches + positions)
        return features


class TokenAdapt(nn.Module):
    """f, image augmentation, g and argmax: embeddings (B, C, H, W) to codes (B, h, w) int64.

    `augmentation` works on f's map (B, C, 2H, 2W) and gives (B, C, 2h, 2w); by default it is that of SeiT++
    for these sizes, `adapter_geometry`. f and g are frozen and in eval mode as they are made; `to_map` and
    `to_logits` are they alone. `tokenizer`, where it is known, is whose codes they are made for.
    Raises AdapterError for sizes that cannot be.
    """

    def __init__(
        self,
        config: AdapterConfig,
        augmentation: nn.Module | None = None,
        tokenizer: TokenizerIdentity | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.conversion_function = nn.Sequential(nn.Linear(config.channels, config.width), FromTokens(config))
        self.reverse_transform = nn.Sequential(
            ToTokens(config), nn.Linear(config.width, config.codebook_size)
        )
        self.augmentation = adapter_geometry(config.size) if augmentation is None else augmentation
        self.eval().requires_grad_(False)

    def to_map(self, embeddings: Tensor) -> Tensor:
        """f: embeddings (B, C, H, W) to the map (B, C, 2H, 2W) that images' augmentation works on."""
        expected = (self.config.channels, *self.config.grid)
        if embeddings.ndim != 4 or embeddings.shape[1:] != expected:
            raise ValueError(
                f"expected embeddings (B, {', '.join(map(str, expected))}), found {tuple(embeddings.shape)}"
            )
        adapted: Tensor = self.conversion_function(embeddings.flatten(2).transpose(1, 2))
        return adapted

    def to_logits(self, adapted: Tensor) -> Tensor:
        """g: a map (B, C, 2h, 2w), of any even size, to logits (B, K, h, w)."""
        if (
            adapted.ndim != 4
            or adapted.shape[1] != self.config.channels
            or any(side % SCALE for side in adapted.shape[2:])
        ):
            raise ValueError(
                f"expected a map (B, {self.config.channels}, 2h, 2w), found {tuple(adapted.shape)}"
            )
        logits: Tensor = self.reverse_transform(adapted).transpose(1, 2)
        return logits.reshape(*logits.shape[:2], adapted.shape[2] // SCALE, adapted.shape[3] // SCALE)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.to_logits(self.augmentation(self.to_map(embeddings), generator=generator)).argmax(1)

    def extra_repr(self) -> str:
        return str(self.config)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        config: AdapterConfig | None = None,
        augmentation: nn.Module | None = None,
        tokenizer: TokenizerIdentity | None = None,
    ) -> TokenAdapt:
        """The adapter among the tensors of a model, such as a published checkpoint of SeiT++.

        Other names than those of f and g are left alone. Without `config` the sizes are those of the
        tensors, and the grids are square. Raises AdapterError where a tensor is missing or of another shape.
        """
        given = {name: tensor for name, tensor in tensors.items() if name.startswith(_PARTS)}
        adapter = cls(config or _config_of(given), augmentation, tokenizer)
        expected = {name: tuple(tensor.shape) for name, tensor in adapter.tensors().items()}
        for name in sorted(expected.keys() | given.keys()):
            found = tuple(given[name].shape) if name in given else "none"
            if found != expected.get(name):
                raise AdapterError(f"{name}: expected shape {expected.get(name, 'none')}, found {found}")
        adapter.load_state_dict(given, strict=False)
        return adapter

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and positions of f and g by their published names."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(_PARTS)}


def adapter_geometry(
    size: tuple[int, int], scale: tuple[float, float] = (0.08, 1.0), flip_p: float = 0.5
) -> Geometry:
    """A of SeiT++ for g's size (h, w): a flip, with probability 0.5 an affine map, and a random resized crop.

    The crop's share of the area is in `scale`: SeiT++ pre-trains with (0.2, 1).
    """
    crop = RandomResizedCrop((SCALE * size[0], SCALE * size[1]), scale)
    return Geometry(HorizontalFlip(flip_p), RandomAffine(), crop)


def _config_of(tensors: Mapping[str, Tensor]) -> AdapterConfig:
    """Sizes by the shapes of tensors."""
    try:
        width, channels = tensors["conversion_function.0.weight"].shape
        positions = (
            tensors["conversion_function.1.de_pos_embedding"],
            tensors["reverse_transform.0.en_pos_embedding"],
        )
        (grid, size) = (round(table.shape[1] ** 0.5) for table in positions)
        block = "conversion_function.1.transformer.layers"
        return AdapterConfig(
            codebook_size=len(tensors["reverse_transform.1.weight"]),
            channels=channels,
            grid=(grid, grid),
            size=(size, size),
            width=width,
            heads=len(tensors[f"{block}.0.0.fn.to_qkv.weight"]) // (3 * HEAD_WIDTH),
            mlp=len(tensors[f"{block}.0.1.fn.net.0.weight"]),
            depth=len({name.split(".")[4] for name in tensors if name.startswith(f"{block}.")}),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise AdapterError(
            f"expected the tensors of f and g ({' and '.join(part + '*' for part in _PARTS)}), "
            f"found {', '.join(sorted(tensors)[:4]) or 'none'} ({error})"
        ) from error
