"""Weights files of the default tokenizer: saved and loaded, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import noise
from helpers.tiny_tokenizer import TINY
from safetensors.torch import load_file, save_file

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.conv_vq import FORMAT, ConvVQ, ConvVQTokenizer, save_weights


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_weights(ConvVQ(TINY), path)
    return path


# ---- codes


def test_a_weights_file_is_named_by_its_path(tiny_weights: Path) -> None:
    assert load_tokenizer(f"conv-vq:{tiny_weights}").name == "tiny"


# ---- weights files


def spoil(
    path: Path, tensors: dict[str, torch.Tensor] | None = None, config: object = None, form: str = FORMAT
) -> None:
    """Write the weights again with other tensors, config or format."""
    config = json.loads(TINY.to_json()) if config is None else config
    metadata = {"format": form, "config": json.dumps(config)}
    save_file(load_file(path) if tensors is None else tensors, path, metadata=metadata)


def test_weights_survive_saving_and_loading(tiny_weights: Path) -> None:
    first = ConvVQTokenizer.load(tiny_weights)
    save_weights(first.network, tiny_weights)
    again = ConvVQTokenizer.load(tiny_weights)
    assert again.fingerprint == first.fingerprint
    images = noise(1, 3, 32, 32)
    assert torch.equal(again.encode(images), first.encode(images))


def test_any_change_of_weights_or_config_changes_the_fingerprint(tiny_weights: Path) -> None:
    seen = {ConvVQTokenizer.load(tiny_weights).fingerprint}
    for name, tensor in load_file(tiny_weights).items():
        changed = load_file(tiny_weights)
        changed[name] = tensor + 0.125
        path = tiny_weights.with_name("changed.safetensors")
        spoil(path, changed)
        seen.add(ConvVQTokenizer.load(path).fingerprint)
    spoil(tiny_weights, config=json.loads(TINY.to_json()) | {"name": "renamed"})
    seen.add(ConvVQTokenizer.load(tiny_weights).fingerprint)
    assert len(seen) == len(load_file(tiny_weights)) + 2


def test_absent_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.safetensors: expected a weights file"):
        load_tokenizer(f"conv-vq:{tmp_path / 'none.safetensors'}")


def test_a_folder_is_refused_as_weights(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(TokenizerError, match=r"folder\.safetensors"):
        load_tokenizer(f"conv-vq:{tmp_path / 'folder.safetensors'}")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_cut_off_weights_are_refused(tiny_weights: Path, kept: int) -> None:
    tiny_weights.write_bytes(tiny_weights.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match="damaged"):
        ConvVQTokenizer.load(tiny_weights)


def test_bytes_that_are_no_weights_are_refused(tiny_weights: Path) -> None:
    tiny_weights.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(TokenizerError, match="damaged"):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("codebook", torch.zeros(16, 9), r"expected shape \(16, 8\), found \(16, 9\)"),
        ("codebook", torch.zeros(16, 8, dtype=torch.int32), "float16 or float32, found torch.int32"),
        ("codebook", torch.full((16, 8), torch.nan), "expected finite numbers"),
        ("decoder.9.weight", torch.zeros(1), r"expected shape absent, found \(1,\)"),
        ("encoder.1.bias", None, r"expected shape \(16,\), found absent"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    tiny_weights: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(tiny_weights) | ({} if tensor is None else {name: tensor})
    if tensor is None:
        del tensors[name]
    spoil(tiny_weights, tensors)
    with pytest.raises(TokenizerError, match=f"tensor '{name}': .*{message}"):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 0}, r"codebook_size to be in 1\.\.65536, found 0"),
        ({"patch": 2.0}, "patch to be .* found 2.0"),
        ({"patch": True}, "patch to be .* found True"),
        ({"decoder_blocks": 10**12}, "decoder_blocks to be"),
        ({"decoder_blocks": 60000}, "more blocks than the file's"),
        ({"encoder_width": 65536, "decoder_width": 65536}, "expected shape"),
        ({"name": 3}, "name to be text"),
        ({"surprise": 1}, "expected a config with the fields"),
    ],
)
def test_configs_that_make_no_sense_are_refused(
    tiny_weights: Path, change: dict[str, object], message: str
) -> None:
    spoil(tiny_weights, config=json.loads(TINY.to_json()) | change)
    with pytest.raises(TokenizerError, match=message):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize("config", [[], "text", 3])
def test_configs_that_are_no_objects_are_refused(tiny_weights: Path, config: object) -> None:
    spoil(tiny_weights, config=config)
    with pytest.raises(TokenizerError, match="expected a config with the fields"):
        ConvVQTokenizer.load(tiny_weights)


def test_weights_of_another_format_are_refused(tiny_weights: Path) -> None:
    spoil(tiny_weights, form="tokenstore.conv_vq.2")
    with pytest.raises(TokenizerError, match=r"expected .*conv_vq\.1', found '.*conv_vq\.2'"):
        ConvVQTokenizer.load(tiny_weights)
    save_file({"weight": torch.zeros(2)}, tiny_weights)
    with pytest.raises(TokenizerError, match="found None"):
        ConvVQTokenizer.load(tiny_weights)
