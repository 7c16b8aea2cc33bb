"""TokenAdapt: ordinary image augmentation in a space that tokens are mapped to and back from.

Lee et al. 2024 (SeiT++), https://arxiv.org/abs/2312.10105, section 3.2. Parameters have the names and shapes
of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.devices import Precision, in_float32, in_parts, products
from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip, RandomAffine
from tokenstore.errors import AdapterError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.networks.transformer import HEAD_WIDTH, Transformer, sin_cos_table

__all__ = ["AdapterConfig", "TokenAdapt", "adapter_geometry"]

SCALE = 2
"""Side of the patch of the adapted map that a token becomes, and that becomes a token."""
_ROWS = 64
"""Places of a sample that f computes on a CPU are a multiple of it."""
_AT_ONCE = 2
"""Samples that f and g take on a CPU, so that what is between their layers stays in its cache."""
ADAPTER_PARTS = ("conversion_function.", "reverse_transform.")


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
    """Features (B, H, W, width) of any grid to a map (B, channels, 2H, 2W)."""

    de_pos_embedding: Tensor  # 1, H * W, width

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.register_buffer("de_pos_embedding", sin_cos_table(config.grid, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)
        pixels = nn.ConvTranspose2d(config.width, config.channels, SCALE, stride=SCALE)
        self.to_pixel = nn.Sequential(nn.Identity(), pixels)  # published as to_pixel.1

    def forward(self, features: Tensor, needed: Tensor | None = None) -> Tensor:
        batch, rows, columns, width = features.shape
        features = features.flatten(1, 2) + _positions(self.de_pos_embedding, self.grid, (rows, columns))
        if needed is None:
            features = self.transformer(features)
        else:
            needed = needed.flatten(1)
            found = self.transformer(features, needed)
            features = found.new_zeros(features.shape).index_put((needed,), found)
        adapted: Tensor = self.to_pixel(features.mT.reshape(batch, width, rows, columns))
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
        patches: Tensor = self.to_patch_embedding(adapted).transpose(1, 2)
        features: Tensor = self.transformer(patches + _positions(self.en_pos_embedding, self.size, size))
        return features


class TokenAdapt(nn.Module):
    """f, image augmentation, g and argmax: embeddings (B, C, H, W) to codes (B, h, w) int64.

    `augmentation` works on f's map (B, C, 2H, 2W) and gives (B, C, 2h, 2w); by default it is that of SeiT++
    for these sizes, `adapter_geometry`. f and g are frozen and in eval mode as they are made; `to_map` and
    `to_logits` are they alone. `tokenizer`, where it is known, is whose codes they are made for.
    Raises AdapterError for sizes that cannot be.
    """

    precision: Precision = "auto"
    """Of augmentation; `to_map` and `to_logits` by themselves compute as they are called."""

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

    def to_map(self, embeddings: Tensor, needed: Tensor | None = None) -> Tensor:
        """f: embeddings (B, C, H, W) of any grid to the map (B, C, 2H, 2W) that images' augmentation is for.

        What tokens that are not `needed`, (B, H, W) bool, become is left open, and f is that much faster.
        """
        self._check(embeddings)
        first, decoder = self.conversion_function
        adapted: Tensor = decoder(first(embeddings.movedim(1, -1)), needed)
        return adapted

    def to_logits(self, adapted: Tensor) -> Tensor:
        """g: a map (B, C, 2h, 2w), of any even size, to logits (B, K, h, w)."""
        self._check_map(adapted)
        logits: Tensor = self.reverse_transform(adapted).transpose(1, 2)
        return logits.reshape(*logits.shape[:2], adapted.shape[2] // SCALE, adapted.shape[3] // SCALE)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.to_codes(self.augmented(embeddings, self.augmentation, generator=generator))

    def augmented(self, embeddings: Tensor, augmentation: nn.Module, *, generator: torch.Generator) -> Tensor:
        """f, in the adapter's precision, then `augmentation` of its map: (B, C, 2h, 2w) float32."""
        self._check(embeddings)
        if isinstance(augmentation, Geometry):
            rows, columns = embeddings.shape[2:]
            drawn = augmentation.draw(len(embeddings), (SCALE * rows, SCALE * columns), generator)
            return self._in_parts(lambda part: self.drawn(embeddings[part], drawn[part]), embeddings)
        adapted = self._in_parts(lambda part: self.to_map(embeddings[part]).float(), embeddings)
        with torch.no_grad():
            result: Tensor = augmentation(adapted, generator=generator)
        return result

    def drawn_codes(self, embeddings: Tensor, geometry: DrawnGeometry) -> Tensor:
        """The likeliest codes (B, h, w) int64 after a drawn geometry, all in the adapter's precision."""
        self._check(embeddings)
        return self._in_parts(
            lambda part: self._likeliest(self.drawn(embeddings[part], geometry[part])), embeddings
        )

    def to_codes(self, adapted: Tensor) -> Tensor:
        """g, in the adapter's precision, and the likeliest codes: a map (B, C, 2h, 2w) to (B, h, w) int64."""
        self._check_map(adapted)
        return self._in_parts(lambda part: self._likeliest(adapted[part]), adapted)

    def _in_parts(self, function: Callable[[slice], Tensor], samples: Tensor) -> Tensor:
        """What `function` gives for parts of the samples, without gradients, in the adapter's precision."""

        def computed(part: slice) -> Tensor:
            with torch.no_grad(), products(samples.device, self.precision):
                return function(part)

        return in_parts(computed, len(samples), _AT_ONCE, samples.device)

    def drawn(self, embeddings: Tensor, geometry: DrawnGeometry) -> Tensor:
        """f, then a drawn geometry of its map: (B, C, 2h, 2w) float32.

        On a CPU it is a few samples at a time, and f is computed only where the geometry looks; other devices
        would have to be waited for.
        """
        self._check(embeddings)
        if embeddings.device.type != "cpu" or not len(embeddings):
            return geometry.apply(self.to_map(embeddings).float())
        rows, columns = embeddings.shape[2:]
        parts = []
        for start in range(0, len(embeddings), _AT_ONCE):
            part = geometry[start : start + _AT_ONCE]
            needed = part.needed() if part.grid == (SCALE * rows, SCALE * columns) else None
            if needed is not None:
                needed = _rounded_up(F.max_pool2d(needed.float(), SCALE).bool())
            adapted = self.to_map(embeddings[start : start + _AT_ONCE], needed)
            parts.append(part.apply(adapted.float()))
        return torch.cat(parts)

    def _likeliest(self, adapted: Tensor) -> Tensor:
        encoder, head = self.reverse_transform
        features = encoder(adapted)
        with in_float32(adapted.device):  # rounded logits would be equal too often
            codes: Tensor = head(features.float()).argmax(2)
        return codes.view(len(adapted), *(side // SCALE for side in adapted.shape[2:]))

    def _check(self, embeddings: Tensor) -> None:
        channels = self.config.channels
        if embeddings.ndim != 4 or embeddings.shape[1] != channels:
            raise ValueError(f"expected embeddings (B, {channels}, H, W), found {tuple(embeddings.shape)}")

    def _check_map(self, adapted: Tensor) -> None:
        channels = self.config.channels
        even = not any(side % SCALE for side in adapted.shape[2:])
        if adapted.ndim != 4 or adapted.shape[1] != channels or not even:
            raise ValueError(f"expected a map (B, {channels}, 2h, 2w), found {tuple(adapted.shape)}")

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
        given = {name: tensor for name, tensor in tensors.items() if name.startswith(ADAPTER_PARTS)}
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
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(ADAPTER_PARTS)}


def adapter_geometry(
    size: tuple[int, int], scale: tuple[float, float] = (0.08, 1.0), flip_p: float = 0.5
) -> Geometry:
    """A of SeiT++ for g's size (h, w): a flip, with probability 0.5 an affine map, and a random resized crop.

    The crop's share of the area is in `scale`: SeiT++ pre-trains with (0.2, 1).
    """
    crop = RandomResizedCrop((SCALE * size[0], SCALE * size[1]), scale)
    return Geometry(HorizontalFlip(flip_p), RandomAffine(), crop)


def _positions(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The table (1, H * W, width) of a network's own grid, or that of another."""
    return table if grid == own else sin_cos_table(grid, table.shape[2]).to(table)


def _rounded_up(needed: Tensor) -> Tensor:
    """Some more places of (B, H, W) bool, so that each sample has a multiple of _ROWS or all.

    Products of so many numbers of rows are compiled once each, and held, where others are for every batch.
    """
    flat = needed.flatten(1)
    missing = -flat.sum(1, keepdim=True) % _ROWS
    return (flat | ((~flat).cumsum(1) <= missing)).view_as(needed)


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
            f"expected the tensors of f and g ({' and '.join(part + '*' for part in ADAPTER_PARTS)}), "
            f"found {', '.join(sorted(tensors)[:4]) or 'none'} ({error})"
        ) from error
