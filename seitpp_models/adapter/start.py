"""The weights that TokenAdapt's training begins with: the best linear maps, so that blocks learn the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.adapter.pairs import PairsBatch
from seitpp_models.adapter.tokens import AdapterTokens
from tokenstore.augment import PATCH_SIDE, TokenAdapt, TokenVectors
from tokenstore.errors import AdapterError
from tokenstore.tokenizers import Tokenizer

__all__ = ["start_from_pairs", "start_from_vectors"]

_LOUDNESS = 3.0
"""The length of a token's vector, in lengths of its position's vector."""
_SOFTNESS = 0.3
"""The same of vectors whose lengths count, of a usual vector."""
_SHARPNESS = 15.0
"""The factor of the cosine similarities that are the logits."""
_RIDGE = 1e-3
_COLOURS = 3


@torch.no_grad()
def start_from_vectors(adapter: TokenAdapt, vectors: TokenVectors) -> None:
    """Set f to enlarge the tokens' vectors, and g to give the token whose vector is nearest to a mean of 2x2.

    Training then begins at the quality of resampled vectors, and the blocks begin by adding nothing. The
    vectors go through an orthonormal basis. Those that are compared by their angles are long beside the
    positions. The length of others counts, so they are short, and beside the positions' span: normalising
    their sum with a position hardly changes them.

    Raises AdapterError for more channels than such a basis has.
    """
    width, channels = adapter.config.width, adapter.config.channels
    read_out, biases, mean_length = vectors.read_out()
    drawn = torch.randn(width, channels)
    if vectors.by_angle:
        most, loudness, position = width, _LOUDNESS, width / 2  # the square of a position's length
    else:
        span, position = _span_of_positions(adapter)
        drawn -= span @ (span.T @ drawn)
        most, loudness = width - span.shape[1], _SOFTNESS
    if channels > most:
        raise AdapterError(
            f"expected a width above {width}, for {channels} channels beside the positions, found {width}"
        )
    basis = torch.linalg.qr(drawn).Q[:, :channels]
    length = loudness * (width / 2) ** 0.5
    sharpness = _SHARPNESS if vectors.codebook_sizes else mean_length
    gain = (width / (length**2 + position)) ** 0.5  # of the last LayerNorm
    to_width, from_width = length * basis / mean_length, basis.T / (gain * length) * mean_length
    first, decoder, encoder, head = _linear_parts(adapter)
    pixels, patches = decoder.to_pixel[1], encoder.to_patch_embedding[0]
    first.weight.copy_(to_width)
    pixels.weight.copy_(from_width.T[:, :, None, None].expand_as(pixels.weight))
    patches.weight.copy_(to_width[:, :, None, None].expand_as(patches.weight) / PATCH_SIDE**2)
    head.weight.copy_(sharpness * read_out @ from_width / mean_length)
    for layer in (first, pixels, patches):
        layer.bias.zero_()
    head.bias.copy_(sharpness * biases / mean_length)
    for part in (decoder, encoder):
        for attention, mlp in part.transformer.layers:
            for last in (attention.fn.to_out, mlp.fn.net[2]):
                last.weight.zero_()
                last.bias.zero_()


@torch.no_grad()
def start_from_pairs(
    adapter: TokenAdapt, tokenizer: Tokenizer, tokens: AdapterTokens, pairs: Iterable[PairsBatch]
) -> None:
    """Fit f's and g's linear parts, as `start_from_vectors` leaves them, by ridge regression.

    The first channels of f's map become the colours that tokens decode to, one for each of a token's four
    places. So the four places begin to differ, and a flip of a token can be seen. g reads the vectors of
    augmented images from 2x2 places. The map's channels get a variance of one.
    """
    pairs = list(pairs)
    first, decoder, encoder, _ = _linear_parts(adapter)
    pixels, patches = decoder.to_pixel[1], encoder.to_patch_embedding[0]
    device = pixels.weight.device
    vectors = [tokens.embeddings(batch.codes.to(device)) for batch in pairs]
    count = min(_COLOURS, max(1, adapter.config.channels // 4))
    colours = [_colours(tokenizer, batch.codes)[:, :count].to(device) for batch in pairs]
    inside = torch.cat([_rows(part) for part in vectors])
    weights, bias = _ridge(inside, torch.cat([_rows(_patches(part)) for part in colours]))
    from_width = pixels.weight[:, :, 0, 0]  # width, C: each channel of the vector
    own = (from_width @ weights).unflatten(1, (count, PATCH_SIDE, PATCH_SIDE))
    pixels.weight[:, :count] = own
    pixels.bias[:count] = bias.view(count, -1).mean(1)

    maps = [adapter.to_map(part) for part in vectors]
    scale = 1 / torch.cat([part.flatten(2) for part in maps]).std((0, 2)).clamp(min=1e-6)
    pixels.weight *= scale[:, None, None]
    pixels.bias *= scale
    augmented = [
        batch.geometry.apply(part * scale[:, None, None]) for batch, part in zip(pairs, maps, strict=True)
    ]
    expected = torch.cat([_rows(tokens.embeddings(batch.targets.to(device))) for batch in pairs])
    inputs = torch.cat([_rows(_patches(part)) for part in augmented])
    weights, bias = _ridge(inputs, expected)
    read = (inputs @ weights + bias).norm(dim=1).mean()
    length = expected.norm(dim=1).mean() / read  # regression shrinks what it is not sure of
    if not tokens.vectors.by_angle:  # whose lengths count
        length = torch.ones_like(length)
    to_width = first.weight  # width, C
    patches.weight.copy_(length * (to_width @ weights.T).view_as(patches.weight))
    patches.bias.copy_(length * (to_width @ bias))


def _linear_parts(adapter: TokenAdapt) -> tuple[Any, Any, Any, Any]:
    first, decoder, encoder, head = cast(Any, (*adapter.conversion_function, *adapter.reverse_transform))
    return first, decoder, encoder, head


def _span_of_positions(adapter: TokenAdapt) -> tuple[Tensor, float]:
    """Return an orthonormal basis (width, r) of all positions of f and g and of what a LayerNorm subtracts.

    The second result is the mean square of the length that positions have in a LayerNorm.
    """
    _, decoder, encoder, _ = _linear_parts(adapter)
    tables = torch.cat([decoder.de_pos_embedding[0], encoder.en_pos_embedding[0]])
    _, sizes, directions = torch.linalg.svd(F.pad(tables, (0, 0, 0, 1), value=1.0), full_matrices=False)
    centred = tables - tables.mean(1, keepdim=True)
    return directions[sizes > 1e-4 * sizes[0]].T, float(centred.square().sum(1).mean())


def _colours(tokenizer: Tokenizer, codes: Tensor) -> Tensor:
    """Decode codes (B, H, W) to small images (B, 3, 2H, 2W) from -0.5 to 0.5."""
    images = tokenizer.decode(codes)
    rows, columns = codes.shape[-2:]
    return F.adaptive_avg_pool2d(images.float() / 255 - 0.5, (PATCH_SIDE * rows, PATCH_SIDE * columns))


def _patches(maps: Tensor) -> Tensor:
    """Rearrange maps (B, C, 2H, 2W) to (B, 4C, H, W), in the order of a convolution's weights."""
    return F.pixel_unshuffle(maps, PATCH_SIDE)


def _rows(grids: Tensor) -> Tensor:
    """Rearrange grids (B, C, H, W) to rows (B * H * W, C)."""
    return grids.movedim(1, -1).flatten(0, 2)


def _ridge(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Fit weights (n, m) and a bias (m,) from rows (N, n) to rows (N, m) by ridge regression."""
    inputs, outputs = inputs.double(), outputs.double()
    centre, mean = inputs.mean(0), outputs.mean(0)
    shifted = inputs - centre
    gram = shifted.T @ shifted
    gram.diagonal().add_(_RIDGE * gram.diagonal() + 1e-6 * len(inputs))
    weights = torch.linalg.solve(gram, shifted.T @ (outputs - mean))
    return weights.float(), (mean - centre @ weights).float()
