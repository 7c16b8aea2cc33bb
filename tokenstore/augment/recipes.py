"""The published augmentations of SeiT and SeiT++ as modules `(codes, labels) -> (inputs, targets)`.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105, section 4.

Results have the size (h, w) that networks usually see of a grid (`seen_size`: 28 of 32, all of 8), unless a
`size` is given. Emb-Noise has the standard deviation of the numbers of the codebook's vectors, unless `noise`
is another strength, or "published" (1.0, for the published tokenizer). The repr of a recipe says both.
With the `symmetries` of a store, half of all samples are flipped first, exactly, and the adapter flips none.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.colour import ColorAdapt, EmbNoise, Noise, OneOf, noise_strength
from tokenstore.augment.crops import CenterCrop, RandomResizedCrop
from tokenstore.augment.embedding import Vectors, token_vectors
from tokenstore.augment.exact_flip import ExactFlip
from tokenstore.augment.mixing import CutMix, CutMixOrMixup, Mixup, soft_targets
from tokenstore.augment.on_codes import PatchSwap, SynonymReplacement
from tokenstore.augment.per_sample import PerSample
from tokenstore.augment.seen_part import CentralPart, RandomPart
from tokenstore.augment.token_adapt import TokenAdapt, adapter_geometry, described_sizes
from tokenstore.format import NO_SYMMETRIES, Symmetries

__all__ = ["Evaluation", "Recipe", "finetune", "mtm_pretrain", "none", "seit"]

_PRETRAINING_SCALE = (0.2, 1.0)
"""The bounds of a crop's share of the area in pre-training."""
_TRAINING_SCALE = (0.08, 1.0)
"""The bounds of a crop's share of the area in supervised training."""


class Recipe(nn.Module):
    """An augmentation of codes (B, H, W) and labels (B,) or None; its repr has every step.

    `codebook` is a codebook (K, C), or a module that gives the vectors of other tokens (`TokenVectors`): of
    codes (B, n, H, W) of several codebooks, or of numbers (B, C, H, W).

    1. The modules `on_codes`, one after another.
    2. The lookup of codes, which gives embeddings.
    3. `colour`.
    4. For the first half of the batch, or all of it without an adapter: `crop`, then `mixing`.
    5. For the other half: f of `adapter`, `adapter_geometry` (by default the adapter's own augmentation),
       `adapter_mixing`, g, and the likeliest codes.
    6. With `requantise`, the first half becomes codes too, and inputs are codes (B, h, w) int64. Without,
       all inputs are embeddings (B, C, h, w).

    Targets are probabilities (B, classes) where samples are mixed or `smoothing` is not 0, and labels must
    not be None. Otherwise targets are the labels. Raises ValueError for probabilities without a number of
    classes, or an adapter for another number of codes; and for codes of a grid that is smaller than the
    result.
    """

    def __init__(
        self,
        codebook: Vectors,
        crop: nn.Module,
        *,
        on_codes: Sequence[nn.Module] = (),
        colour: nn.Module | None = None,
        mixing: nn.Module | None = None,
        adapter: TokenAdapt | None = None,
        adapter_geometry: nn.Module | None = None,
        adapter_mixing: nn.Module | None = None,
        requantise: bool = False,
        classes: int = 0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.on_codes = nn.ModuleList(on_codes)
        self.embedding = token_vectors(codebook)
        self.colour = colour
        self.crop = crop
        self.mixing = mixing
        self.adapter = adapter
        self.adapter_geometry = adapter_geometry
        self.adapter_mixing = adapter_mixing
        self.requantise = self.embedding.requantiser() if requantise else None
        self.classes, self.smoothing = classes, smoothing
        if self._softens and classes < 1:
            raise ValueError("classes: expected the number of classes, since targets are probabilities")
        sizes = self.embedding.codebook_sizes
        if adapter is not None and adapter.config.codebook_sizes != sizes:
            raise ValueError(
                f"expected an adapter for the vectors' {described_sizes(sizes)}, found one for "
                f"{described_sizes(adapter.config.codebook_sizes)}"
            )

    @torch.no_grad()
    def forward(
        self, codes: Tensor, labels: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return inputs and targets.

        Raises ValueError for probabilities without labels, and for a grid smaller than the inputs would be.
        """
        targets = self._targets(labels)
        grid = codes.shape[-2:]
        count = len(codes)
        first = count if self.adapter is None else count - count // 2
        if self.adapter is not None and count == 1:
            first = int(torch.rand((), generator=generator, device=generator.device) < 0.5)
        for module in self.on_codes:
            codes = module(codes, generator=generator)
        embeddings = self.embedding(codes)
        if self.colour is not None:
            embeddings = self.colour(embeddings, generator=generator)
        parts = []
        if first:
            parts.append(self.plain(embeddings[:first], _part(targets, 0, first), generator))
        if first < count:
            parts.append(self.adapted(embeddings[first:], _part(targets, first, count), generator))
        inputs = torch.cat([part for part, _ in parts])
        if any(side > most for side, most in zip(inputs.shape[-2:], grid, strict=True)):
            raise ValueError(
                f"size: expected a part of the grid {tuple(grid)}, found {tuple(inputs.shape[-2:])}; leave "
                "the size out, or give one that is no larger"
            )
        mixed = [part for _, part in parts if part is not None]
        return inputs, torch.cat(mixed) if mixed else None

    def plain(
        self, embeddings: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Augment the first half: crop, mix, and turn the result to codes where the recipe requantises."""
        inputs: Tensor = self.crop(embeddings, generator=generator)
        if self.mixing is not None and targets is not None:
            inputs, targets = self.mixing(inputs, targets, generator=generator)
        return (inputs if self.requantise is None else self.requantise(inputs)), targets

    def adapted(
        self, embeddings: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Augment the other half: f, image augmentation and mixing of f's map, g."""
        assert self.adapter is not None
        augmentation = self.adapter_geometry or self.adapter.augmentation
        adapted = self.adapter.augmented(embeddings, augmentation, generator=generator)
        if self.adapter_mixing is not None and targets is not None:
            adapted, targets = self.adapter_mixing(adapted, targets, generator=generator)
        codes = self.adapter.to_codes(adapted)
        return (codes if self.requantise is not None else self.embedding(codes)), targets

    def per_sample(self, seed: int = 0, partners: Tensor | None = None) -> PerSample:
        """Return a dataset's `transform` that augments each sample's codes alone; nothing is mixed.

        A sample takes the path of either half, with equal chances. `partners` are codes (M, H, W) of other
        samples, whose moments ColorAdapt uses; without partners ColorAdapt changes nothing. Raises ValueError
        for a seed that is not a 64-bit integer.
        """
        recipe = copy.deepcopy(self)
        recipe.mixing = recipe.adapter_mixing = None
        recipe.smoothing = 0.0
        if partners is not None:
            bank = ColorAdapt(bank=len(partners), channels=self.embedding.channels)
            bank.remember(self.embedding(partners))
            for parent in list(recipe.modules()):
                for name, module in parent.named_children():
                    if isinstance(module, ColorAdapt):
                        setattr(parent, name, bank)
                        bank.share = module.share
        return PerSample(recipe, seed)

    @property
    def _softens(self) -> bool:
        return bool(self.mixing or self.adapter_mixing or self.smoothing)

    def _targets(self, labels: Tensor | None) -> Tensor | None:
        if not self._softens:
            return labels
        if labels is None:
            raise ValueError("labels: expected labels (B,), since targets are probabilities; found none")
        return soft_targets(labels, self.classes, self.smoothing)

    @override
    def extra_repr(self) -> str:
        return f"classes={self.classes}, smoothing={self.smoothing}" if self._softens else ""


class Evaluation(nn.Module):
    """The central crop of codes (B, H, W) to `size`, with the labels as they are.

    Without a size, it is the one that networks usually see of each grid.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.crop = CentralPart() if size is None else CenterCrop(size)

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the central codes, and the labels."""
        return self.crop(codes), labels

    def per_sample(self, seed: int = 0) -> PerSample:
        """Return a dataset's `transform` that crops each sample's codes alone."""
        return PerSample(self, seed)


def seit(
    codebook: Vectors,
    classes: int,
    size: tuple[int, int] | None = None,
    synonyms: Tensor | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> Recipe:
    """Return SeiT's supervised training: Token-EDA, Emb-Noise, a random resized crop, CutMix.

    Inputs are embeddings (B, C, *size). `synonyms` (K, M) are by default the nearest codes of the codebook.
    `noise` is the strength of Emb-Noise, as for `noise_strength`, and `symmetries` are a store's. Raises
    ValueError as `Recipe` and `noise_strength` do.
    """
    vectors = token_vectors(codebook)
    table = vectors.synonyms() if synonyms is None else synonyms
    replaced = [] if table is None else [SynonymReplacement(table)]
    return Recipe(
        vectors,
        _crop(size, _TRAINING_SCALE),
        on_codes=[*_flips(symmetries), *replaced, PatchSwap()],
        colour=EmbNoise(noise_strength(vectors, noise)),
        mixing=CutMix(),
        classes=classes,
    )


def mtm_pretrain(
    codebook: Vectors,
    adapter: TokenAdapt | None,
    size: tuple[int, int] | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> Recipe:
    """Return SeiT++'s masked token modelling: ColorAdapt, Emb-Noise or neither, and TokenAdapt.

    Inputs are codes (B, *size). `noise` is the strength of Emb-Noise, as for `noise_strength`, and
    `symmetries` are a store's. Raises ValueError as `Recipe` and `noise_strength` do.
    """
    return Recipe(
        codebook,
        _crop(size, _PRETRAINING_SCALE),
        on_codes=_flips(symmetries),
        colour=OneOf([ColorAdapt(), EmbNoise(noise_strength(codebook, noise))], [1 / 3, 1 / 3]),
        adapter=adapter,
        adapter_geometry=_adapter_geometry(adapter, size, _PRETRAINING_SCALE, symmetries),
        requantise=True,
    )


def finetune(
    codebook: Vectors,
    adapter: TokenAdapt | None,
    classes: int,
    size: tuple[int, int] | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> Recipe:
    """Return SeiT++'s fine-tuning: ColorAdapt or Emb-Noise, CutMix, TokenAdapt with Mixup or CutMix.

    Inputs are codes (B, *size). `noise` is the strength of Emb-Noise, as for `noise_strength`, and
    `symmetries` are a store's. Raises ValueError as `Recipe` and `noise_strength` do.
    """
    return Recipe(
        codebook,
        _crop(size, _TRAINING_SCALE),
        on_codes=_flips(symmetries),
        colour=OneOf([ColorAdapt(), EmbNoise(noise_strength(codebook, noise))], [0.25, 0.75]),
        mixing=CutMix(),
        adapter=adapter,
        adapter_geometry=_adapter_geometry(adapter, size, _TRAINING_SCALE, symmetries),
        adapter_mixing=None if adapter is None else CutMixOrMixup(CutMix(), Mixup()),
        requantise=True,
        classes=classes,
        smoothing=0.1,
    )


def none(size: tuple[int, int] | None = None) -> Evaluation:
    """Return no augmentation: the central crop of the codes, as for evaluation."""
    return Evaluation(size)


def _crop(size: tuple[int, int] | None, scale: tuple[float, float]) -> RandomResizedCrop:
    return RandomPart(scale) if size is None else RandomResizedCrop(size, scale)


def _flips(symmetries: Symmetries) -> list[nn.Module]:
    """Return the exact flip of codes, if a store's symmetries have one."""
    flip = ExactFlip.of(symmetries)
    return [] if flip is None else [flip]


def _adapter_geometry(
    adapter: TokenAdapt | None,
    size: tuple[int, int] | None,
    scale: tuple[float, float],
    symmetries: Symmetries,
) -> nn.Module | None:
    """Return the image augmentation of an adapter, without the flip where codes are flipped exactly."""
    if adapter is None:
        return None
    return adapter_geometry(size, scale, flip_p=0.0) if _flips(symmetries) else adapter_geometry(size, scale)


def _part(targets: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if targets is None else targets[start:stop]
