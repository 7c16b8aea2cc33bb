"""An augmentation of codes and labels as one module, whose halves of a batch take two paths.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105, section 4.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.adapter_config import described_sizes
from tokenstore.augment.colour import ColorAdapt
from tokenstore.augment.crops import CenterCrop
from tokenstore.augment.embedding import Vectors, token_vectors
from tokenstore.augment.mixing import soft_targets
from tokenstore.augment.per_sample import PerSample
from tokenstore.augment.seen_part import CentralPart
from tokenstore.augment.token_adapt import TokenAdapt

__all__ = ["Evaluation", "Recipe"]


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

    With `colour_last`, `colour` comes after the crop and after g, and before `mixing`: on the embeddings of
    both halves, with one choice for all.

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
        colour_last: bool = False,
        classes: int = 0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.colour_last = colour_last
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
        if self.colour is not None and not self.colour_last:
            embeddings = self.colour(embeddings, generator=generator)
        parts = []
        if first:
            parts.append(self.plain(embeddings[:first], _part(targets, 0, first), generator))
        if first < count:
            parts.append(self.adapted(embeddings[first:], _part(targets, first, count), generator))
        if self._colours_last:
            parts = self._coloured(parts, first, generator)
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
        """Augment the first half: crop, mix, and turn the result to codes where the recipe requantises.

        Where colours come last, mixing and codes are left to what follows them.
        """
        inputs: Tensor = self.crop(embeddings, generator=generator)
        if self._colours_last:
            return inputs, targets
        inputs, targets = self._mixed(inputs, targets, generator)
        return (inputs if self.requantise is None else self.requantise(inputs)), targets

    def adapted(
        self, embeddings: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Augment the other half: f, image augmentation and mixing of f's map, g.

        The result has codes where the recipe requantises and colours do not come last, else embeddings.
        """
        assert self.adapter is not None
        augmentation = self.adapter_geometry or self.adapter.augmentation
        adapted = self.adapter.augmented(embeddings, augmentation, generator=generator)
        if self.adapter_mixing is not None and targets is not None:
            adapted, targets = self.adapter_mixing(adapted, targets, generator=generator)
        codes = self.adapter.to_codes(adapted)
        gives_codes = self.requantise is not None and not self._colours_last
        return (codes if gives_codes else self.embedding(codes)), targets

    def _coloured(
        self, parts: list[tuple[Tensor, Tensor | None]], first: int, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Change the colours of both halves at once, then mix the plain one, and requantise."""
        assert self.colour is not None
        embeddings = self.colour(torch.cat([part for part, _ in parts]), generator=generator)
        halves = list(embeddings.split([len(part) for part, _ in parts]))
        targets = [part for _, part in parts]
        if first:
            halves[0], targets[0] = self._mixed(halves[0], targets[0], generator)
        if self.requantise is not None:
            halves = [self.requantise(half) for half in halves]
        return list(zip(halves, targets, strict=True))

    def _mixed(
        self, inputs: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        if self.mixing is None or targets is None:
            return inputs, targets
        mixed: tuple[Tensor, Tensor] = self.mixing(inputs, targets, generator=generator)
        return mixed

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
    def _colours_last(self) -> bool:
        return self.colour is not None and self.colour_last

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
        order = ["colour_last=True"] if self.colour_last else []
        soft = [f"classes={self.classes}, smoothing={self.smoothing}"] if self._softens else []
        return ", ".join(order + soft)


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


def _part(targets: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if targets is None else targets[start:stop]
