"""Latents to implicit codes and back, against slow re-statements of the papers' rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers.implicit_codes import ImplicitQuantiser

CODEBOOKS = [
    ImplicitCodebook("lfq", (2,) * 6),
    ImplicitCodebook("bsq", (2,) * 5),
    ImplicitCodebook("fsq", (8, 8, 8, 5, 5, 5)),
    ImplicitCodebook("fsq", (2, 3, 7)),
]


@pytest.mark.parametrize("implicit", CODEBOOKS, ids=str)
def test_every_code_has_the_vector_of_the_format_and_returns_from_it(implicit: ImplicitCodebook) -> None:
    quantiser = ImplicitQuantiser(implicit)
    codes = torch.arange(implicit.size).view(1, 1, -1)
    vectors = quantiser.vectors(codes)
    np.testing.assert_array_equal(vectors[0, :, 0].T, implicit.table())
    half = torch.tensor([n // 2 if implicit.kind == "fsq" else 1 for n in implicit.levels]).view(1, -1, 1, 1)
    inside = vectors * half * 0.999  # the outer levels, which a tanh reaches at infinity
    latents = vectors if implicit.kind != "fsq" else unbounded(inside, implicit)
    assert torch.equal(quantiser.codes(latents.float()), codes)


def unbounded(values: torch.Tensor, implicit: ImplicitCodebook) -> torch.Tensor:
    """Return latents that are bounded to `values` (B, D, h, w): the inverse of the paper's bound."""
    channels = []
    for channel, levels in enumerate(implicit.levels):
        half = (levels - 1) * 1.001 / 2
        offset = 0.5 * (levels % 2 == 0)
        shift = np.arctanh(offset / half)
        channels.append(torch.atanh((values[:, channel].double() + offset) / half) - shift)
    return torch.stack(channels, dim=1)


def test_signs_are_bits_and_zero_is_negative() -> None:
    quantiser = ImplicitQuantiser(ImplicitCodebook("lfq", (2, 2, 2)))
    latents = torch.tensor([[0.1, -3, 0], [-1e-9, 5, 1e-9]]).view(2, 3, 1, 1)
    assert quantiser.codes(latents).flatten().tolist() == [1, 2 + 4]


def test_finite_scalars_follow_the_paper_s_rule_one_by_one() -> None:
    levels = (8, 5, 2)
    quantiser = ImplicitQuantiser(ImplicitCodebook("fsq", levels))
    latents = 2 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    codes = quantiser.codes(latents)
    for place in np.ndindex(2, 4, 5):
        expected, radix = 0, 1
        for channel, count in enumerate(levels):
            z = float(latents[place[0], channel, place[1], place[2]])
            half = (count - 1) * 1.001 / 2
            offset = 0.5 if count % 2 == 0 else 0.0
            bounded = np.tanh(z + np.arctanh(offset / half)) * half - offset
            expected += radix * (round(bounded) + count // 2)
            radix *= count
        assert codes[place] == expected
    assert len(codes.unique()) > 15


def test_codes_of_a_position_depend_on_its_latent_alone() -> None:
    quantiser = ImplicitQuantiser(CODEBOOKS[2])
    latents = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(1))
    turned = quantiser.codes(latents.flip(0).transpose(2, 3))
    assert torch.equal(turned, quantiser.codes(latents).flip(0).transpose(1, 2))
    assert not quantiser.state_dict()
