"""The weights that TokenAdapt's training begins with: the best linear maps, so that blocks learn the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.adapter.pairs import PairsBatch
from tokenstore.augment import PATCH_SIDE, CodebookEmbedding, TokenAdapt
from tokenstore.tokenizers import Tokenizer

__all__ = ["start_from_codebook", "start_from_pairs"]

_LOUDNESS = 3.0
"""The length of a token's vector, in lengths of its position's vector."""
_SHARPNESS = 15.0
"""The factor of the cosine similarities that are the logits."""
_RIDGE = 1e-3
_COLOURS = 3


@torch.no_grad()
def start_from_codebook(adapter: TokenAdapt, codebook: Tensor) -> None:
    """Set f to enlarge the tokens' vectors, and g to give the codebook's vector nearest to a mean of 2x2.

    Training then begins at the quality of resampled vectors, and the blocks begin by adding nothing. The
    codebook's vectors (K, C) go through an orthonormal basis, and are long beside the positions.
    """
    width, channels = adapter.config.width, adapter.config.channels
    vectors = F.normalize(codebook, dim=1)
    basis = torch.linalg.qr(torch.randn(width, channels)).Q[:, :channels]
    length = _LOUDNESS * (width / 2) ** 0.5  # of a vector beside its position's, which is sqrt(width / 2)
    mean_length = float(codebook.norm(dim=1).mean())
    gain = (width / (length**2 + width / 2)) ** 0.5  # of the last LayerNorm
    to_width, from_width = length * basis / mean_length, basis.T / (gain * length) * mean_length
    first, decoder, encoder, head = _linear_parts(adapter)
    pixels, patches = decoder.to_pixel[1], encoder.to_patch_embedding[0]
    first.weight.copy_(to_width)
    pixels.weight.copy_(from_width.T[:, :, None, None].expand_as(pixels.weight))
    patches.weight.copy_(to_width[:, :, None, None].expand_as(patches.weight) / PATCH_SIDE**2)
    head.weight.copy_(_SHARPNESS * vectors @ from_width / mean_length)
    for layer in (first, pixels, patches, head):
        layer.bias.zero_()
    for part in (decoder, encoder):
        for attention, mlp in part.transformer.layers:
            for last in (attention.fn.to_out, mlp.fn.net[2]):
                last.weight.zero_()
                last.bias.zero_()


@torch.no_grad()
def start_from_pairs(
    adapter: TokenAdapt, tokenizer: Tokenizer, embedding: CodebookEmbedding, pairs: Iterable[PairsBatch]
) -> None:
    """Fit f's and g's linear parts, as `start_from_codebook` leaves them, by ridge regression.

    The first channels of f's map become the colours that tokens decode to, one for each of a token's four
    places. So the four places begin to differ, and a flip of a token can be seen. g reads the vectors of
    augmented images from 2x2 places. The map's channels get a variance of one.
    """
    pairs = list(pairs)
    first, decoder, encoder, _ = _linear_parts(adapter)
    pixels, patches = decoder.to_pixel[1], encoder.to_patch_embedding[0]
    device = embedding.codebook.device
    vectors = [embedding(batch.codes.to(device)) for batch in pairs]
    count = min(_COLOURS, adapter.config.channels // 4)
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
    expected = torch.cat([_rows(embedding(batch.targets.to(device))) for batch in pairs])
    inputs = torch.cat([_rows(_patches(part)) for part in augmented])
    weights, bias = _ridge(inputs, expected)
    read = (inputs @ weights + bias).norm(dim=1).mean()
    length = expected.norm(dim=1).mean() / read  # regression shrinks what it is not sure of
    to_width = first.weight  # width, C
    patches.weight.copy_(length * (to_width @ weights.T).view_as(patches.weight))
    patches.bias.copy_(length * (to_width @ bias))


def _linear_parts(adapter: TokenAdapt) -> tuple[Any, Any, Any, Any]:
    first, decoder, encoder, head = cast(Any, (*adapter.conversion_function, *adapter.reverse_transform))
    return first, decoder, encoder, head


def _colours(tokenizer: Tokenizer, codes: Tensor) -> Tensor:
    """Decode codes (B, H, W) to small images (B, 3, 2H, 2W) from -0.5 to 0.5."""
    images = tokenizer.decode(codes)
    rows, columns = codes.shape[1:]
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
