"""The published augmentations of SeiT and SeiT++ as modules `(codes, labels) -> (inputs, targets)`.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105, section 4.

Results have the size (h, w) that networks usually see of a grid (`seen_size`: 28 of 32, all of 8), unless a
`size` is given. Emb-Noise has the standard deviation of the numbers of the codebook's vectors, unless `noise`
is another strength, or "published" (1.0, for the published tokenizer). The repr of a recipe says both.
With the `symmetries` of a store, half of all samples are flipped first, exactly, and the adapter flips none.

Each recipe is a set of `Ingredients`; `made_of` makes one of any set.
"""

from __future__ import annotations

from torch import Tensor, nn

from tokenstore.augment.colour import ColorAdapt, EmbNoise, Noise, OneOf, noise_strength
from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.embedding import Vectors, token_vectors
from tokenstore.augment.exact_flip import ExactFlip
from tokenstore.augment.geometry import HorizontalFlip
from tokenstore.augment.ingredients import INGREDIENTS, Flip, Ingredients
from tokenstore.augment.mixing import CutMix, CutMixOrMixup, Mixup
from tokenstore.augment.recipe import Evaluation, Recipe
from tokenstore.augment.seen_part import RandomPart
from tokenstore.augment.token_adapt import TokenAdapt, adapter_geometry
from tokenstore.augment.token_eda import TokenEDA
from tokenstore.format import NO_SYMMETRIES, Symmetries

__all__ = [
    "Evaluation",
    "Recipe",
    "code_flip",
    "colour_of",
    "finetune",
    "made_of",
    "mtm_pretrain",
    "none",
    "seit",
]


def seit(
    codebook: Vectors,
    classes: int,
    size: tuple[int, int] | None = None,
    synonyms: Tensor | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> Recipe:
    """Return SeiT's supervised training: Token-EDA, a random resized crop, Emb-Noise or ColorAdapt, CutMix.

    Inputs are embeddings (B, C, *size). `synonyms` (K, M) are by default the nearest codes of the codebook.
    `noise` is the strength of Emb-Noise, as for `noise_strength`, and `symmetries` are a store's. Raises
    ValueError as `Recipe` and `noise_strength` do.
    """
    return made_of(
        INGREDIENTS["seit"],
        codebook,
        classes=classes,
        size=size,
        noise=noise,
        synonyms=synonyms,
        symmetries=symmetries,
    )


def mtm_pretrain(
    codebook: Vectors,
    adapter: TokenAdapt | None,
    size: tuple[int, int] | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
    ingredients: Ingredients = INGREDIENTS["mtm"],
) -> Recipe:
    """Return SeiT++'s masked token modelling: random resized crops and TokenAdapt.

    Inputs are codes (B, *size). The published run changes no colours; other `ingredients` do, and `noise` is
    then the strength of Emb-Noise, as for `noise_strength`. `symmetries` are a store's. Raises ValueError as
    `Recipe` and `noise_strength` do.
    """
    recipe = made_of(ingredients, codebook, adapter=adapter, size=size, noise=noise, symmetries=symmetries)
    recipe.requantise = recipe.embedding.requantiser()
    return recipe


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
    recipe = made_of(
        INGREDIENTS["finetune"],
        codebook,
        adapter=adapter,
        classes=classes,
        size=size,
        noise=noise,
        symmetries=symmetries,
    )
    recipe.requantise = recipe.embedding.requantiser()
    return recipe


def made_of(
    ingredients: Ingredients,
    codebook: Vectors,
    *,
    adapter: TokenAdapt | None = None,
    classes: int = 0,
    size: tuple[int, int] | None = None,
    noise: Noise = None,
    synonyms: Tensor | None = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> Recipe:
    """Return the recipe of a set of ingredients, `(codes, labels) -> (embeddings, targets)`.

    Without `classes`, nothing is mixed or smoothed. `synonyms` (K, M) are by default the nearest codes of the
    codebook, and `symmetries` are a store's. Raises ValueError as `Recipe` and `noise_strength` do, and for
    an exact flip without the symmetry for it.
    """
    vectors = token_vectors(codebook)
    on_codes: list[nn.Module] = []
    flip = code_flip(ingredients.flip, symmetries)
    if flip is not None:
        on_codes.append(flip)
    if ingredients.token_eda:
        on_codes.append(TokenEDA(vectors.synonyms() if synonyms is None else synonyms))
    cutmix = CutMix(ingredients.cutmix) if ingredients.cutmix and classes else None
    mixup = Mixup(ingredients.mixup) if ingredients.mixup and classes else None
    both = CutMixOrMixup(cutmix, mixup) if cutmix is not None and mixup is not None else cutmix or mixup
    flip_p = 0.5 if ingredients.is_flipped_by_adapter(flip) else 0.0
    return Recipe(
        vectors,
        RandomPart(ingredients.scale) if size is None else RandomResizedCrop(size, ingredients.scale),
        on_codes=on_codes,
        colour=colour_of(ingredients, vectors, noise),
        mixing=cutmix,
        adapter=adapter,
        adapter_geometry=None
        if adapter is None
        else adapter_geometry(
            size, ingredients.scale, flip_p=flip_p, shared=ingredients.adapter_draws == "batch"
        ),
        adapter_mixing=None if adapter is None else both,
        colour_last=ingredients.colour_last,
        classes=classes,
        smoothing=ingredients.smoothing if classes else 0.0,
    )


def code_flip(flip: Flip | None, symmetries: Symmetries = NO_SYMMETRIES) -> ExactFlip | HorizontalFlip | None:
    """Return the module that flips codes and label maps, or None; see `Ingredients.flip`.

    Raises ValueError for an exact flip without the symmetry for it.
    """
    if flip == "none":
        return None
    if flip == "naive":
        return HorizontalFlip()
    exact = ExactFlip.of(symmetries)
    if flip == "exact" and exact is None:
        raise ValueError(
            "flip: expected naive or none, since the codes have no symmetry by which they flip, found exact"
        )
    return exact


def colour_of(ingredients: Ingredients, codebook: Vectors, noise: Noise = None) -> OneOf | None:
    """Return the change of colours of a set of ingredients, or None; `noise` is the strength of Emb-Noise.

    Raises ValueError as `noise_strength` does.
    """
    strength = noise_strength(codebook, noise)
    chances = {ColorAdapt(): ingredients.color_adapt, EmbNoise(strength): ingredients.emb_noise}
    used = {module: chance for module, chance in chances.items() if chance}
    return OneOf(list(used), list(used.values())) if used else None


def none(size: tuple[int, int] | None = None) -> Evaluation:
    """Return no augmentation: the central crop of the codes, as for evaluation."""
    return Evaluation(size)
