"""Blocks that keep little: timm's numbers, from about half of the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from seitpp_models.networks.blocks import LeanBlock


def pair(**arguments: Any) -> tuple[Block, LeanBlock]:
    """Return timm's block and ours, of the same weights."""
    torch.manual_seed(0)
    theirs, ours = Block(32, 4, qkv_bias=True, **arguments), LeanBlock(32, 4, qkv_bias=True, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def gradients(block: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    block(x).square().sum().backward()
    return x.grad, *(parameter.grad for parameter in block.parameters())


@pytest.mark.parametrize(
    "arguments", [{}, {"init_values": 0.5}, {"qk_norm": True, "norm_layer": torch.nn.LayerNorm}]
)
def test_a_lean_block_gives_results_and_gradients_of_timms(arguments: dict[str, Any]) -> None:
    theirs, ours = pair(**arguments)
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_it_does_in_bfloat16() -> None:
    theirs, ours = pair()
    x = torch.randn(3, 7, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(ours, x)
        torch.testing.assert_close(found, gradients(theirs, x), rtol=0.1, atol=0.1)


def test_a_mask_of_attention_goes_to_timms_block() -> None:
    theirs, ours = pair()
    x, seen = torch.randn(3, 7, 32), torch.ones(7, 7).tril().bool()
    torch.testing.assert_close(ours(x, attn_mask=seen), theirs(x, attn_mask=seen))


def test_gradients_are_of_the_places_that_were_dropped() -> None:
    _, block = pair(proj_drop=0.3, attn_drop=0.3)
    block.double()
    x = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)

    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return block(x)

    assert torch.autograd.gradcheck(seeded, (x,), fast_mode=True)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    _, block = pair(proj_drop=share)
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.ones_(block.mlp.fc2.bias)
    for parameter in block.attn.proj.parameters():
        torch.nn.init.zeros_(parameter)
    added = block(torch.zeros(50, 401, 32))  # the bias of fc2, dropped
    kept = added != 0
    assert float(kept.double().mean()) == pytest.approx(1 - share, abs=0.003)
    if share < 1:
        torch.testing.assert_close(added[kept].unique(), torch.tensor([1 / (1 - share)]), rtol=1e-4, atol=0)


def test_less_is_kept_for_the_backward_pass() -> None:
    kept = []
    for block in pair(proj_drop=0.1, attn_drop=0.1):
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = block(torch.randn(4, 64, 32))
        kept.append(sum(storages.values()))
        del out
    assert kept[1] < 0.6 * kept[0]
