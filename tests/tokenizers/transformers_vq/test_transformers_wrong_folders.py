"""Folders without a VQ model of transformers that can be read: each is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.model_folders import spoil_config
from helpers.transformers_models import CONFIGS, FAMILIES, build, noise

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers.kinds.transformers_vq import load  # noqa: E402


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(
        TokenizerError, match=r"model_type chameleon or .* found 'clip' in config\.json; name"
    ):
        load(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(TokenizerError, match=r"expected config\.json, found nothing"):
        load(str(tmp_path))


def test_weights_in_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    build("janus").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer = load(str(tmp_path))
    assert {tensor.dtype for tensor in tokenizer.network.state_dict().values()} == {torch.float32}
    assert tokenizer.encode(noise(1, 3, 16, 16)).unique().numel() > 5


def test_loading_leaves_the_random_numbers_of_others_alone(saved: Path) -> None:
    for family in FAMILIES:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        load(str(saved / family))
        assert torch.equal(torch.rand(4), expected)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        TokenizerError, match=r"expected weights model\.safetensors, found pytorch_model\.bin"
    ):
        load(str(folder))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_cut_off_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=r"model\.safetensors: expected a safetensors file, found a dam"):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("quant_conv.bias", None, r"found 1 missing \(quant_conv\.bias\) and 0 unexpected"),
        ("extra.weight", torch.zeros(2), r"found 0 missing \(\) and 1 unexpected \(extra\.weight\)"),
        ("quant_conv.bias", torch.full((6,), torch.nan), r"'quant_conv\.bias': expected finite numbers"),
        ("quant_conv.bias", torch.zeros(7), r"cannot be built .*quant_conv\.bias"),
        ("quant_conv.bias", torch.zeros(6, dtype=torch.int8), r"'quant_conv\.bias': .* found torch\.int8"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    changed = tensors | ({} if tensor is None else {name: tensor})
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_embeddings": 64}, "cannot be built .*quantize.embedding.weight"),
        ({"num_embeddings": "many"}, "cannot be built"),
        ({"base_channels": 33}, "cannot be built"),
        ({"channel_multiplier": [1, 1]}, "unexpected"),
        ({"double_latent": True}, "cannot be built"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    spoil_config(folder, change)
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


def test_models_whose_latents_do_not_fit_are_refused(tmp_path: Path) -> None:
    transformers.JanusVQVAE(CONFIGS["janus"](double_latent=True)).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="cannot take them"):
        load(str(tmp_path))
