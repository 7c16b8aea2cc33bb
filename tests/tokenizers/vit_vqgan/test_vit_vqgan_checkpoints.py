"""Checkpoints of ViT-VQGAN: every layout and kind of file gives the same tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.vit_vqgan_models import images, loaded, random_tensors
from safetensors.torch import save_file

from tokenstore.networks.transformer import sin_cos_table
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.vit_vqgan import load


def test_every_layout_and_kind_of_file_gives_the_same_tokenizer(tmp_path: Path) -> None:
    tensors = random_tensors()
    lightning = {
        "epoch": 7,
        "global_step": 100,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": tensors | {"loss.discriminator.weight": torch.zeros(3), "loss.steps": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "hyper_parameters": {"image_size": 256, "path": "x"},
    }
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors | {"loss.discriminator.weight": torch.zeros(3)}, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "c.pt")
    torch.save(tensors | {"loss.discriminator.weight": torch.zeros(3)}, tmp_path / "d.pth")
    torch.save(lightning, tmp_path / "e.ckpt")
    torch.save(lightning, tmp_path / "f.CKPT", _use_new_zipfile_serialization=False)
    torch.save({k: torch.nn.Parameter(v.double()) for k, v in tensors.items()}, tmp_path / "g.pt")
    torch.save({k: v.mT.contiguous().mT if v.ndim > 1 else v for k, v in tensors.items()}, tmp_path / "h.pt")
    found = [load_tokenizer(f"vit-vqgan:{path}") for path in sorted(tmp_path.iterdir())]
    assert len(found) == 8
    codes = found[0].encode(images(2))
    rebuilt = found[0].decode(codes)
    for tokenizer in found:
        assert torch.equal(tokenizer.encode(images(2)), codes)
        assert torch.equal(tokenizer.decode(codes), rebuilt)
        assert tokenizer.fingerprint == found[0].fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_half_weights_are_read_as_float32(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors().items()}
    path = tmp_path / f"half.{suffix}"
    if suffix == "pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    state = load(str(path)).network.state_dict()
    for name, tensor in tensors.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.float())


def test_weights_do_not_hang_on_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tokenizer = loaded(path, random_tensors())
    codes = tokenizer.encode(images(1))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(tokenizer.encode(images(1)), codes)


def test_positions_come_from_the_checkpoint(tmp_path: Path) -> None:
    tensors = random_tensors()
    codes = loaded(tmp_path / "a.pt", tensors).encode(images(1))
    tensors["encoder.en_pos_embedding"] = sin_cos_table((4, 4), 48)
    assert not torch.equal(loaded(tmp_path / "b.pt", tensors).encode(images(1)), codes)
