"""Codebook files name their autoencoder, and are refused where they are damaged or do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.autoencoder_models import SIZE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import load_tokenizer, model_folders
from tokenstore.tokenizers.kinds.autoencoder import (
    FORMAT,
    AutoencoderTokenizer,
    load_autoencoder,
    write_codebook,
)


@pytest.fixture(scope="module")
def kept_pair(
    fitted: AutoencoderTokenizer, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(models["kl"], folder / "model")
    named = load_autoencoder(str(models["kl"]))
    named.reference = "model"
    write_codebook(named.tokenizer(fitted.network.quantiser, SIZE), folder / "codebook.safetensors")
    return folder


@pytest.fixture
def pair(kept_pair: Path, tmp_path: Path) -> Path:
    """Copy a codebook file and its autoencoder, in the folder `model` beside it."""
    shutil.copytree(kept_pair, tmp_path, dirs_exist_ok=True)
    return tmp_path / "codebook.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, object], dict[str, torch.Tensor]], None]) -> None:
    """Write a codebook file anew after a change to its config and tensors."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    change(config, tensors)
    save_file(tensors, path, {"format": FORMAT, "config": json.dumps(config)})


def test_a_relative_autoencoder_is_found_from_here_or_beside_the_codebook(
    pair: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fitted: AutoencoderTokenizer
) -> None:
    assert load_tokenizer(f"autoencoder:{pair}").fingerprint == fitted.fingerprint
    (tmp_path / "elsewhere").mkdir()
    pair = pair.rename(tmp_path / "elsewhere" / "moved.safetensors")
    with pytest.raises(
        TokenizerError, match=r"model cannot be loaded; .* autoencoder:.*moved.safetensors@FOLDER"
    ):
        load_tokenizer(f"autoencoder:{pair}")
    monkeypatch.chdir(tmp_path)
    assert load_tokenizer("autoencoder:elsewhere/moved.safetensors").fingerprint == fitted.fingerprint


def test_an_autoencoder_that_moved_can_be_named_anew(
    pair: Path, tmp_path: Path, fitted: AutoencoderTokenizer
) -> None:
    (tmp_path / "model").rename(tmp_path / "a@b.safetensors")
    with pytest.raises(TokenizerError, match="@FOLDER"):
        load_tokenizer(f"autoencoder:{pair}")
    moved = load_tokenizer(f"autoencoder:{pair}@{tmp_path / 'a@b.safetensors'}")
    assert moved.fingerprint == fitted.fingerprint


@pytest.mark.parametrize("change", ["weights", "config", "class"])
def test_another_autoencoder_than_the_one_learned_for_is_refused(
    pair: Path, tmp_path: Path, models: dict[str, Path], change: str
) -> None:
    model = tmp_path / "model"
    if change == "weights":
        weights = load_file(model / "diffusion_pytorch_model.safetensors")
        weights["decoder.conv_out.bias"] += 1e-3
        save_file(weights, model / "diffusion_pytorch_model.safetensors")
    elif change == "config":
        config = json.loads((model / "config.json").read_text()) | {"norm_num_groups": 2}
        (model / "config.json").write_text(json.dumps(config))
    else:
        shutil.rmtree(model)
        shutil.copytree(models["tiny"], model)
    known = load_autoencoder(str(models["kl"])).fingerprint[:16]
    found = load_autoencoder(str(model)).fingerprint[:16]
    with pytest.raises(
        TokenizerError, match=rf"learned for \(model: AutoencoderKL {known}\), found .*{found} at"
    ):
        load_tokenizer(f"autoencoder:{pair}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quantiser", "vq", "quantiser to be one of nearest, residual, fsq, found 'vq'"),
        ("quantiser", ["nearest"], "quantiser to be one of"),
        ("quantiser", "residual", r"expected the tensors \['tables'\], found \['table'\]"),
        ("levels", [2.0], "levels to be null or a list"),
        ("levels", "88", "levels to be null or a list"),
        ("levels", [8, 8, 8, 8], "levels with fsq only"),
        ("autoencoder", "", "autoencoder to be text"),
        ("autoencoder", "a/b/c", "no such folder"),
        ("autoencoder_class", "UNet2DModel", "autoencoder_class to be one of"),
        ("autoencoder_fingerprint", 3, "autoencoder_fingerprint to be text"),
        ("latent_channels", 5, "expected vectors of 5 channels, found 4"),
        ("latent_channels", True, r"latent_channels to be in 1\.\."),
        ("image_size", 0, r"image_size to be in 1\.\.65536, found 0"),
        ("image_size", 10**30, r"image_size to be in 1\.\."),
        ("surprise", 1, "expected a config with the fields"),
    ],
)
def test_configs_that_make_no_sense_are_refused(pair: Path, field: str, value: object, message: str) -> None:
    rewrite(pair, lambda config, tensors: config.update({field: value}))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(f"autoencoder:{pair}")
    assert str(pair) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "expected the tensors"),
        ({"table": torch.zeros(32, 4), "more": torch.zeros(1)}, "expected the tensors"),
        ({"table": torch.zeros(32, 3)}, "expected vectors of 4 channels, found 3"),
        ({"table": torch.zeros(32)}, "expected finite vectors"),
        ({"table": torch.zeros(0, 4)}, "expected finite vectors"),
        ({"table": torch.full((32, 4), float("nan"))}, "expected finite vectors"),
        ({"table": torch.zeros(32, 4, dtype=torch.float64)}, "expected float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    pair: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    def change(config: dict[str, object], found: dict[str, torch.Tensor]) -> None:
        found.clear()
        found.update(tensors)

    rewrite(pair, change)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(f"autoencoder:{pair}")


@pytest.mark.parametrize("config", ["", "[]", "{", "3", "[" * 100_000])
def test_configs_that_are_no_objects_are_refused(pair: Path, config: str) -> None:
    save_file(load_file(pair), pair, {"format": FORMAT, "config": config})
    with pytest.raises(TokenizerError, match=r"expected a (config|JSON object)"):
        load_tokenizer(f"autoencoder:{pair}")


def test_files_of_another_format_damaged_or_absent_are_refused(pair: Path) -> None:
    tensors, whole = load_file(pair), pair.read_bytes()
    save_file(tensors, pair, {"format": "tokenstore.autoencoder_codebook.2"})
    with pytest.raises(TokenizerError, match=r"format 'tokenstore.autoencoder_codebook.1', found '.*\.2'"):
        load_tokenizer(f"autoencoder:{pair}")
    for damaged in (whole[:-1], whole[:100], b"", b"\x80\x04pickle"):
        pair.write_bytes(damaged)
        with pytest.raises(TokenizerError, match="found a damaged one"):
            load_tokenizer(f"autoencoder:{pair}")
    pair.unlink()
    with pytest.raises(TokenizerError, match="fit-codebook` wrote, found none"):
        load_tokenizer(f"autoencoder:{pair}")


def test_a_model_of_the_hub_that_only_the_file_names_is_not_fetched(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(pair, lambda config, tensors: config.update(autoencoder="somebody/model"))
    asked: list[str] = []

    def fetch(repository: str) -> None:
        asked.append(repository)
        raise TokenizerError("no network in tests")

    monkeypatch.setattr(model_folders, "_hub_files", fetch)
    monkeypatch.setattr(model_folders, "_cached", lambda repository: None)
    with pytest.raises(TokenizerError, match="nothing is fetched because a file says so"):
        load_tokenizer(f"autoencoder:{pair}")
    assert asked == []
    monkeypatch.setattr(model_folders, "_cached", lambda repository: pair.parent / "model")
    assert load_tokenizer(f"autoencoder:{pair}").name
    with pytest.raises(TokenizerError, match="no network in tests"):
        load_tokenizer(f"autoencoder:{pair}@somebody/model")
    assert asked == ["somebody/model"]
