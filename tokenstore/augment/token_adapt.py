"""TokenAdapt: image augmentation of tokens, in a space that they are mapped to and back from.

Lee et al. 2024 (SeiT++), https://arxiv.org/abs/2312.10105, section 3.2. Parameters have the names and shapes
of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.adapter_config import AdapterConfig
from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.devices import in_float32, in_parts, products
from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip, RandomAffine
from tokenstore.augment.seen_part import RandomPart
from tokenstore.errors import AdapterError
from tokenstore.format import TokenizerIdentity
from tokenstore.networks.precision import Precision
from tokenstore.networks.tensor_files import Shapes, check_shapes, shapes_of
from tokenstore.networks.transformer import HEAD_WIDTH, Transformer, sin_cos_table

__all__ = ["ADAPTER_PARTS", "PATCH_SIDE", "TokenAdapt", "adapter_geometry"]

PATCH_SIDE = 2
"""The side of the patch of the adapted map that a token becomes, and that becomes a token."""
_ROWS = 64
"""The step of the number of places of a sample that f computes on a CPU."""
_AT_ONCE = 2
"""The samples that f and g take at once on a CPU, so that results between layers stay in its cache."""
ADAPTER_PARTS = ("conversion_function.", "reverse_transform.")
"""The first parts of the published names of f's and g's tensors."""


class FromTokens(nn.Module):
    """The decoder of f: features (B, H, W, width) of any grid to a map (B, channels, 2H, 2W)."""

    de_pos_embedding: Tensor  # 1, H * W, width

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.register_buffer("de_pos_embedding", sin_cos_table(config.grid, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)
        pixels = nn.ConvTranspose2d(config.width, config.channels, PATCH_SIDE, stride=PATCH_SIDE)
        self.to_pixel = nn.Sequential(nn.Identity(), pixels)  # published as to_pixel.1

    def forward(self, features: Tensor, needed: Tensor | None = None) -> Tensor:
        """Return the map. With a mask `needed` (B, H, W) bool, other tokens' patches are undefined."""
        batch, rows, columns, width = features.shape
        features = features.flatten(1, 2) + _positions(self.de_pos_embedding, self.grid, (rows, columns))
        if needed is None:
            features = self.transformer(features)
        else:
            needed = needed.flatten(1)
            computed = self.transformer(features, needed)
            features = computed.new_zeros(features.shape).index_put((needed,), computed)
        adapted: Tensor = self.to_pixel(features.mT.reshape(batch, width, rows, columns))
        return adapted


class ToTokens(nn.Module):
    """The encoder of g: a map (B, channels, 2h, 2w) to features (B, h * w, width)."""

    en_pos_embedding: Tensor  # 1, h * w, width

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.size = config.size
        self.register_buffer("en_pos_embedding", sin_cos_table(config.size, config.width))
        self.to_patch_embedding = nn.Sequential(
            nn.Conv2d(config.channels, config.width, PATCH_SIDE, stride=PATCH_SIDE), nn.Flatten(2)
        )
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)

    def forward(self, adapted: Tensor) -> Tensor:
        """Return the features of each patch."""
        size = adapted.shape[2] // PATCH_SIDE, adapted.shape[3] // PATCH_SIDE
        patches: Tensor = self.to_patch_embedding(adapted).transpose(1, 2)
        features: Tensor = self.transformer(patches + _positions(self.en_pos_embedding, self.size, size))
        return features


class TokenAdapt(nn.Module):
    """The networks f and g about an augmentation: embeddings (B, C, H, W) to codes (B, h, w) int64.

    Of n codebooks the codes are (B, n, h, w). An adapter for tokens that are numbers, such as coefficients,
    gives their embeddings (B, C, h, w) float32 in place of codes.

    `augmentation` maps f's map (B, C, 2H, 2W) to (B, C, 2h, 2w); by default it is SeiT++'s for these sizes,
    `adapter_geometry`. `to_map` is f alone and `to_logits` g alone; both are frozen and in eval mode.
    `tokenizer`, where known, identifies the tokenizer of the codes that f and g are made for.
    """

    precision: Precision = "auto"
    """The precision of augmentation; `to_map` and `to_logits` alone have that of the caller's context."""

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
        self.reverse_transform = nn.Sequential(ToTokens(config), nn.Linear(config.width, config.outputs))
        self.augmentation = adapter_geometry(config.size) if augmentation is None else augmentation
        self.eval().requires_grad_(False)

    def to_map(self, embeddings: Tensor, needed: Tensor | None = None) -> Tensor:
        """Compute f: embeddings (B, C, H, W) of any grid to a map (B, C, 2H, 2W), augmented as images are.

        With a mask `needed` (B, H, W) bool, the patches of other tokens are undefined, and f is faster.
        Raises ValueError for embeddings of another shape.
        """
        self._check(embeddings)
        first, decoder = self.conversion_function
        adapted: Tensor = decoder(first(embeddings.movedim(1, -1)), needed)
        return adapted

    def to_logits(self, adapted: Tensor) -> Tensor:
        """Compute g: a map (B, C, 2h, 2w) of any even size to logits (B, K, h, w).

        Raises ValueError for a map of another shape.
        """
        self._check_map(adapted)
        logits: Tensor = self.reverse_transform(adapted).transpose(1, 2)
        return logits.reshape(
            *logits.shape[:2], adapted.shape[2] // PATCH_SIDE, adapted.shape[3] // PATCH_SIDE
        )

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the codes of augmented embeddings. Raises ValueError for another shape."""
        return self.to_codes(self.augmented(embeddings, self.augmentation, generator=generator))

    def augmented(self, embeddings: Tensor, augmentation: nn.Module, *, generator: torch.Generator) -> Tensor:
        """Compute f in the adapter's precision and return its map augmented, (B, C, 2h, 2w) float32.

        Raises ValueError for embeddings of another shape.
        """
        self._check(embeddings)
        if isinstance(augmentation, Geometry):
            rows, columns = embeddings.shape[2:]
            drawn = augmentation.draw(len(embeddings), (PATCH_SIDE * rows, PATCH_SIDE * columns), generator)
            return self._in_parts(lambda part: self.drawn(embeddings[part], drawn[part]), embeddings)
        adapted = self._in_parts(lambda part: self.to_map(embeddings[part]).float(), embeddings)
        with torch.no_grad():
            result: Tensor = augmentation(adapted, generator=generator)
        return result

    def drawn_codes(self, embeddings: Tensor, geometry: DrawnGeometry) -> Tensor:
        """Return the likeliest codes (B, h, w) int64 after a drawn geometry, all in the adapter's precision.

        Raises ValueError for embeddings of another shape.
        """
        self._check(embeddings)
        return self._in_parts(
            lambda part: self._likeliest(self.drawn(embeddings[part], geometry[part])), embeddings
        )

    def to_codes(self, adapted: Tensor) -> Tensor:
        """Return the likeliest codes (B, h, w) int64 of a map (B, C, 2h, 2w), in the adapter's precision.

        Raises ValueError for a map of another shape.
        """
        self._check_map(adapted)
        return self._in_parts(lambda part: self._likeliest(adapted[part]), adapted)

    def _in_parts(self, function: Callable[[slice], Tensor], samples: Tensor) -> Tensor:
        """Compute `function` for parts of the samples, without gradients, in the adapter's precision."""

        def computed(part: slice) -> Tensor:
            with torch.no_grad(), products(samples.device, self.precision):
                return function(part)

        return in_parts(computed, len(samples), _AT_ONCE, samples.device)

    def drawn(self, embeddings: Tensor, geometry: DrawnGeometry) -> Tensor:
        """Compute f and return its map with a drawn geometry applied, (B, C, 2h, 2w) float32.

        On a CPU, f takes a few samples at a time, and is computed only at the places that the result depends
        on. On other devices f is computed everywhere, since those places would have to be waited for. Raises
        ValueError for embeddings of another shape.
        """
        self._check(embeddings)
        if embeddings.device.type != "cpu" or not len(embeddings):
            return geometry.apply(self.to_map(embeddings).float())
        rows, columns = embeddings.shape[2:]
        parts = []
        for start in range(0, len(embeddings), _AT_ONCE):
            part = geometry[start : start + _AT_ONCE]
            needed = part.needed() if part.grid == (PATCH_SIDE * rows, PATCH_SIDE * columns) else None
            if needed is not None:
                needed = _rounded_up(F.max_pool2d(needed.float(), PATCH_SIDE).bool())
            adapted = self.to_map(embeddings[start : start + _AT_ONCE], needed)
            parts.append(part.apply(adapted.float()))
        return torch.cat(parts)

    def _likeliest(self, adapted: Tensor) -> Tensor:
        encoder, head = self.reverse_transform
        features = encoder(adapted)
        size = tuple(side // PATCH_SIDE for side in adapted.shape[2:])
        with in_float32(adapted.device):  # rounded logits would be equal too often
            outputs: Tensor = head(features.float())
        sizes = self.config.codebook_sizes
        if not sizes:
            return outputs.mT.reshape(*outputs.mT.shape[:2], *size)
        if len(sizes) == 1:
            return outputs.argmax(2).view(len(adapted), *size)
        planes = [part.argmax(2).view(len(adapted), *size) for part in torch.split(outputs, list(sizes), 2)]
        return torch.stack(planes, 1)

    def _check(self, embeddings: Tensor) -> None:
        channels = self.config.channels
        if embeddings.ndim != 4 or embeddings.shape[1] != channels:
            raise ValueError(f"expected embeddings (B, {channels}, H, W), found {tuple(embeddings.shape)}")

    def _check_map(self, adapted: Tensor) -> None:
        channels = self.config.channels
        even = not any(side % PATCH_SIDE for side in adapted.shape[2:])
        if adapted.ndim != 4 or adapted.shape[1] != channels or not even:
            raise ValueError(f"expected a map (B, {channels}, 2h, 2w), found {tuple(adapted.shape)}")

    @override
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
        """Make an adapter of the tensors of a model, such as a published checkpoint of SeiT++.

        Tensors of other names than f's and g's are ignored. Without `config`, the sizes are those of the
        tensors, and the grids are square. Raises AdapterError where a tensor is missing or of another shape.
        """
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(ADAPTER_PARTS)}
        config = config or _config_of(own)
        try:
            check_shapes(cls.shapes(config), {name: tuple(tensor.shape) for name, tensor in own.items()})
        except (ValueError, RuntimeError) as error:
            raise AdapterError(str(error)) from error
        adapter = cls(config, augmentation, tokenizer)
        adapter.load_state_dict(own, strict=False)
        return adapter

    def scaled_to(self, scales: Sequence[float]) -> TokenAdapt:
        """Return an adapter of numbers that takes and gives channels divided by other scales (C,).

        Raises AdapterError if the adapter is for codes, or the scales are none of its channels.
        """
        own = self.config.scales
        if not own or not scales:
            raise AdapterError(
                "expected an adapter for numbers and their scales, found one for codes, or none"
            )
        config = replace(self.config, scales=tuple(scales))
        factors = torch.tensor(config.scales) / torch.tensor(own)
        tensors = {name: tensor.clone() for name, tensor in self.tensors().items()}
        tensors["conversion_function.0.weight"] *= factors.to(tensors["conversion_function.0.weight"])
        for name, rows in (("weight", factors[:, None]), ("bias", factors)):
            tensor = tensors[f"reverse_transform.1.{name}"]
            tensor /= rows.to(tensor)
        scaled = TokenAdapt.from_tensors(tensors, config, self.augmentation, self.tokenizer)
        scaled.precision = self.precision
        return scaled

    @classmethod
    def shapes(cls, config: AdapterConfig) -> Shapes:
        """Return the shapes of f's and g's tensors by name, without taking memory for them."""
        return shapes_of(lambda: cls(config, nn.Identity()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters and positions of f and g by their published names."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(ADAPTER_PARTS)}


def adapter_geometry(
    size: tuple[int, int] | None,
    scale: tuple[float, float] = (0.08, 1.0),
    flip_p: float = 0.5,
    *,
    shared: bool = False,
) -> Geometry:
    """Return SeiT++'s image augmentation A for g's size (h, w): a flip, an affine map, a random resized crop.

    A size of None is that which networks usually see of each grid (`seen_size`). The affine map has
    probability 0.5. `scale` bounds the crop's share of the area: SeiT++ pre-trains with (0.2, 1). With
    `shared`, all samples of a batch have one flip and one affine map, as in SeiT++'s code. Raises ValueError
    for numbers out of range.
    """
    if size is None:
        crop: RandomResizedCrop = RandomPart(scale, PATCH_SIDE)
    else:
        crop = RandomResizedCrop((PATCH_SIDE * size[0], PATCH_SIDE * size[1]), scale)
    return Geometry(HorizontalFlip(flip_p, shared=shared), RandomAffine(shared=shared), crop)


def _positions(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return positions (1, H * W, width): the network's own `table` for its own grid, else a new one."""
    return table if grid == own else sin_cos_table(grid, table.shape[2]).to(table)


def _rounded_up(needed: Tensor) -> Tensor:
    """Add places to a mask (B, H, W) bool until each sample has a multiple of _ROWS, or all.

    torch prepares a matrix product once for each number of rows and caches it. With few different numbers,
    later batches find their products in the cache.
    """
    flat = needed.flatten(1)
    missing = -flat.sum(1, keepdim=True) % _ROWS
    return (flat | ((~flat).cumsum(1) <= missing)).view_as(needed)


def _config_of(tensors: Mapping[str, Tensor]) -> AdapterConfig:
    """Derive the sizes of an adapter from the shapes of its tensors. Raises AdapterError."""
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
