"""Folders without a VQModel of RGB images that can be read: each is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.diffusers_models import DIM, WEIGHTS, as_pipeline
from helpers.model_folders import spoil_config

diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers.kinds.diffusers_vq import load  # noqa: E402


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere: expected the folder of a model or the id ORG/NAME .* found no such folder"),
        ("/nowhere/at/all", r"found no such folder"),
        ("./no/where", r"found no such folder"),
    ],
)
def test_what_is_no_folder_and_no_hub_id_is_refused(name: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(name)


def test_folders_without_a_vq_model_are_refused(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"config\.json: expected the folder of a model, found a file"):
        load(str(folder / "config.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"expected config\.json, there or in vqvae/, .* found nothing"):
        load(str(tmp_path / "empty"))
    (folder / "config.json").unlink()
    with pytest.raises(TokenizerError, match=f"expected config.json, there or in .* found {WEIGHTS}; name"):
        load(str(folder))
    pipeline = as_pipeline(tmp_path / "pipeline", {"vae": "AutoencoderKL"}, saved)
    expected = r"expected a config with _class_name VQModel, found 'AutoencoderKL' in vae/config\.json"
    with pytest.raises(TokenizerError, match=expected):
        load(str(pipeline))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "expected JSON"), ("[]", "expected a JSON object, found list"), ("\xff\xfe", "expected JSON")],
)
def test_configs_that_are_no_objects_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenizerError, match=rf"config\.json: {message}"):
        load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_vq_embeddings": 64}, r"cannot be loaded .*quantize\.embedding\.weight"),
        ({"norm_num_groups": 3}, "cannot be loaded"),
        ({"act_fn": "no such function"}, "cannot be loaded"),
        ({"block_out_channels": []}, "cannot be loaded"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "found quantised ones"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    spoil_config(folder, change)
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


def test_models_that_are_not_of_rgb_images_are_refused(tmp_path: Path) -> None:
    model = diffusers.VQModel(in_channels=4, block_out_channels=(8,), norm_num_groups=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"expected a model of RGB images .* cannot take them"):
        load(str(tmp_path))
    model = diffusers.VQModel(out_channels=1, block_out_channels=(8,), norm_num_groups=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"found \[\(1, 2, 1\), \(1, 1, 2, 1\)\]"):
        load(str(tmp_path))


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(TokenizerError, match=f"expected weights {WEIGHTS}, found none; pickles"):
        load(str(folder))
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04\x95")
    with pytest.raises(TokenizerError, match=r"found diffusion_pytorch_model\.bin; pickles .* never read"):
        load(str(folder))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_cut_off_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=f"{WEIGHTS}: expected a safetensors file, found a damaged one"):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("quant_conv.bias", None, r"found 1 missing \(quant_conv\.bias\) and 0 unexpected"),
        ("extra.weight", torch.zeros(2), r"found 0 missing \(\) and 1 unexpected \(extra\.weight\)"),
        ("quant_conv.bias", torch.full((DIM,), torch.nan), r"'quant_conv\.bias': expected finite numbers"),
        ("decoder.conv_in.bias", torch.full((16,), torch.inf), r"'decoder\.conv_in\.bias': expected finite"),
        ("quant_conv.bias", torch.zeros(DIM + 1), "cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(name, None)
    save_file(tensors | ({} if tensor is None else {name: tensor}), folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "expected a weight_map"),
        ({"weight_map": {"a": "missing.safetensors"}}, r"expected the shard 'missing\.safetensors'"),
        ({"weight_map": {"a": "../model/x.safetensors"}}, r"expected the shard '\.\./model/x\.safetensors'"),
    ],
)
def test_an_index_that_names_no_shards_is_refused(folder: Path, index: object, message: str) -> None:
    (folder / WEIGHTS).rename(folder / "x.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))
