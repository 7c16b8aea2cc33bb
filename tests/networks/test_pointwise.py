"""Pointwise layers give what torch's linear layers give, by whichever kernel."""

import pytest
import torch
import torch.nn.functional as F

from tokenstore.networks.pointwise import Pointwise, pointwise


@pytest.fixture
def convolutions(monkeypatch):
    """Let features of any CPU go through convolutions, and count the calls."""
    calls = []
    convolve = F.conv2d
    monkeypatch.setattr("tokenstore.networks.pointwise._ONEDNN_IS_FASTER", True)
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: calls.append(a) or convolve(*a, **k))
    return calls


@pytest.mark.parametrize("shape", [(1, 32, 32, 96), (5000, 16), (2, 3, 4096, 1), (1, 25, 31, 37)])
@pytest.mark.parametrize("biased", [True, False])
def test_the_convolution_of_one_pixel_equals_the_linear_layer(convolutions, shape, biased):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(48, shape[-1], generator=generator)
    bias = torch.randn(48, generator=generator) if biased else None
    with torch.no_grad():
        features = pointwise(x, weight, bias)
    assert len(convolutions) == 1
    assert features.is_contiguous()
    torch.testing.assert_close(features, F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("what", "x"),
    [
        ("few numbers", torch.ones(8, 8, 96)),
        ("turned features", torch.ones(96, 32, 32).permute(1, 2, 0)),
        ("float64", torch.ones(32, 32, 96, dtype=torch.float64)),
    ],
)
def test_other_features_go_through_the_linear_layer(convolutions, what, x):
    weight = torch.ones(4, 96, dtype=x.dtype)
    with torch.no_grad():
        assert (pointwise(x, weight) == 96).all(), what
    assert not convolutions


def test_under_autocast_the_linear_layer_rounds_as_ever(convolutions):
    layer, x = Pointwise(96, 48), torch.randn(1024, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = layer(x)
        assert torch.equal(features, F.linear(x, layer.weight, layer.bias))
    assert features.dtype == torch.bfloat16
    assert not convolutions


def test_a_layer_that_learns_has_the_gradients_and_the_names_of_a_linear_layer(convolutions):
    layer, plain = Pointwise(96, 48), torch.nn.Linear(96, 48)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1024, 96)
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert not convolutions
    assert torch.equal(layer.weight.grad, plain.weight.grad)
