"""Tests of the loss of predicted codes: that of torch's cross-entropy, without all logits in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seitpp_models.networks import code_loss as module
from seitpp_models.networks.code_loss import CodeLoss, code_loss
from seitpp_models.networks.masking import draw_mask
from seitpp_models.networks.mtm import MaskedTokenModel, masked_token_config

ROWS, CODES, CHANNELS = 37, 50, 8


def inputs(rows: int, codes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return vectors, a table, a bias and targets, the first three as leaves with gradients."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((rows, CHANNELS), (codes, CHANNELS), (codes,))
    leaves = [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]
    return [*leaves, torch.randint(codes, (rows,), generator=random)]


def plain(vectors: Tensor, table: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> CodeLoss:
    logits = vectors @ table.detach().T + bias
    return CodeLoss(
        F.cross_entropy(logits, targets, label_smoothing=smoothing),
        F.cross_entropy(logits, targets),
        (logits.argmax(1) == targets).double().mean(),
    )


@given(
    rows=st.integers(1, 40),
    codes=st.integers(1, 60),
    at_once=st.integers(1, 400),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(
    rows: int, codes: int, at_once: int, smoothing: float, seed: int
) -> None:
    given_inputs = inputs(rows, codes, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOGITS_AT_ONCE_CPU", at_once)
        found = code_loss(*given_inputs, smoothing)
    expected = plain(*given_inputs, smoothing)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-12)
    leaves = (given_inputs[0], given_inputs[2])
    gradients = [torch.autograd.grad(3 * each.loss, leaves) for each in (found, expected)]
    for mine, right in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-12)


def test_only_the_loss_has_a_gradient_and_the_table_gets_none() -> None:
    vectors, table, bias, targets = inputs(ROWS, CODES)
    found = code_loss(vectors, table, bias, targets, 0.1)
    assert [each.requires_grad for each in found] == [True, False, False]
    found.loss.backward()
    assert table.grad is None
    assert vectors.grad is not None
    assert bias.grad is not None


def test_evaluation_computes_no_gradients() -> None:
    for allowed, steps in ((False, 0), (True, 1)):
        with torch.set_grad_enabled(allowed), _Called() as called:
            loss = code_loss(*inputs(ROWS, CODES)).loss
        assert loss.requires_grad == allowed
        assert called.names.count("scatter_") == steps


def test_half_precision_does_not_reach_the_loss() -> None:
    vectors, table, bias, targets = inputs(ROWS, CODES, dtype=torch.float32)
    exact = code_loss(vectors, table, bias, targets).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(code_loss(vectors, table, bias, targets).loss, exact)
        halves = code_loss(vectors.bfloat16(), table, bias, targets)
    assert halves.loss.dtype == torch.float32
    rounded = vectors.bfloat16().float().requires_grad_()
    torch.testing.assert_close(halves.loss, code_loss(rounded, table, bias, targets).loss)
    for leaf, same in ((vectors, rounded), (bias, bias)):
        (gradient,) = torch.autograd.grad(halves.loss, leaf, retain_graph=True)
        (right,) = torch.autograd.grad(code_loss(rounded, table, bias, targets).loss, same)
        torch.testing.assert_close(gradient, right, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_torch_compile_takes_the_plain_formula_in_float32(autocast: bool) -> None:
    given_inputs = inputs(ROWS, CODES, dtype=torch.float32)
    found = code_loss(*given_inputs, 0.1)
    compiled_loss = torch.compile(code_loss, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        compiled = compiled_loss(*given_inputs, 0.1)
    for mine, right in zip(compiled, found, strict=True):
        torch.testing.assert_close(mine, right)
    assert compiled.loss.requires_grad


class _Called(TorchFunctionMode):
    """The names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Largest(TorchFunctionMode):
    """The elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return found


def test_a_step_of_pretraining_never_has_all_logits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, at_once = 16384, 2**16
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE_CPU", at_once)
    config = masked_token_config(
        "tiny", codebook_size=codes, channels=4, grid=(4, 4), depth=1, width=24, heads=1, decoder_width=32
    )
    model = MaskedTokenModel(config)
    mask = draw_mask(64, 4, 0.5, 0.5, torch.Generator().manual_seed(0))
    with _Largest() as largest:
        output = model(torch.randint(codes, (64, 4, 4)), mask)
        output.loss.backward()
    parameters = max(each.numel() for each in model.parameters())
    assert largest.numbers <= max(at_once, parameters)
    assert output.logits.numel() == 64 * 2 * 4 * codes > 2 * max(at_once, parameters)
    found = F.cross_entropy(output.logits.flatten(0, 2), output.targets.flatten())
    torch.testing.assert_close(found, output.loss)
