"""Files of a TokenAdapt: our own and the published checkpoints; what is no adapter is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import official_tensors, seeded, small_adapter
from safetensors.torch import save_file

from tokenstore.augment import (
    TokenAdapt,
)
from tokenstore.augment.adapters import load_adapter, save_adapter
from tokenstore.errors import AdapterError
from tokenstore.format.manifest import TokenizerIdentity


def test_a_file_gives_back_weights_sizes_and_tokenizer(tmp_path: Path) -> None:
    adapter = small_adapter()
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    assert (loaded.config, loaded.tokenizer) == (adapter.config, adapter.tokenizer)
    assert loaded.tensors().keys() == adapter.tensors().keys()
    assert all(torch.equal(tensor, adapter.tensors()[name]) for name, tensor in loaded.tensors().items())
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    adapter = small_adapter()
    for name, dtype in (("whole", None), ("half", torch.float16)):
        save_adapter(adapter, tmp_path / f"{name}.safetensors", dtype)
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    for name, tensor in load_adapter(tmp_path / "half.safetensors").tensors().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, adapter.tensors()[name], atol=1e-3, rtol=1e-3)


def test_an_adapter_is_for_the_codes_of_its_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = small_adapter()
    save_adapter(adapter, path)
    assert adapter.tokenizer is not None
    same, unknown = adapter.tokenizer, TokenizerIdentity("codes from somewhere")
    for tokenizer in (None, same, unknown):
        loaded = load_adapter(path, tokenizer=tokenizer)
        assert torch.equal(loaded.reverse_transform[1].weight, adapter.reverse_transform[1].weight)
    other = TokenizerIdentity("another", "cd" * 32)
    with pytest.raises(AdapterError, match=r"of another \(cdcd.*found one .* some tokenizer \(abab.*trains"):
        load_adapter(path, tokenizer=other)
    adapter.tokenizer = None
    save_adapter(adapter, path)
    assert load_adapter(path, tokenizer=other).tokenizer is None


def test_an_adapter_follows_codes_that_were_pruned(tmp_path: Path) -> None:
    path, pruned_path = tmp_path / "adapter.safetensors", tmp_path / "pruned.safetensors"
    adapter = small_adapter()
    assert adapter.tokenizer is not None
    save_adapter(adapter, path)
    pruned = replace(adapter.tokenizer, kept_codes=((0, 3, 17),))
    loaded = load_adapter(path, tokenizer=pruned)
    assert (loaded.config.codebook_size, loaded.tokenizer) == (3, pruned)
    vectors = torch.randn(2, 8, 4, 6, generator=seeded(0))
    whole, part = (each.to_logits(each.to_map(vectors)) for each in (adapter, loaded))
    torch.testing.assert_close(part, whole[:, [0, 3, 17]])
    save_adapter(loaded, pruned_path)
    assert load_adapter(pruned_path, tokenizer=pruned).tokenizer == pruned
    for tokenizer in (adapter.tokenizer, replace(pruned, kept_codes=((0, 3, 16),))):
        with pytest.raises(AdapterError, match="pruned to 3; "):
            load_adapter(pruned_path, tokenizer=tokenizer)
    for kept in (((3,), (4,)), ((3, 20),)):
        with pytest.raises(AdapterError, match=r"pruned to \d, found one for 20 codes"):
            load_adapter(path, tokenizer=replace(pruned, kept_codes=kept))
    # One of unknown origin may be for the store's own numbers, if it has so many, and for no others.
    adapter.tokenizer = None
    save_adapter(adapter, path)
    with pytest.raises(AdapterError, match="found one for 20 codes of an unknown tokenizer"):
        load_adapter(path, tokenizer=pruned)
    twenty = replace(pruned, kept_codes=(tuple(range(100, 120)),))
    assert load_adapter(path, tokenizer=twenty).config.codebook_size == 20


@pytest.mark.parametrize("name", ["model.pth", "model.ckpt", "model.safetensors"])
def test_published_checkpoints_are_loaded_in_every_form(tmp_path: Path, name: str) -> None:
    tensors = official_tensors() | {"blocks.0.weight": torch.zeros(2)}
    if name.endswith("safetensors"):
        save_file(tensors, tmp_path / name)
    else:
        torch.save({"state_dict": tensors} if name.endswith("ckpt") else tensors, tmp_path / name)
    adapter = load_adapter(tmp_path / name)
    assert torch.equal(adapter.reverse_transform[1].weight, tensors["reverse_transform.1.weight"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_files_that_are_no_adapters_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(200)))
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_adapter(small_adapter(), tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    for name in (
        "empty.safetensors",
        "noise.safetensors",
        "evil.pth",
        "other.safetensors",
        "cut.safetensors",
        "absent.safetensors",
        "absent.pth",
    ):
        with pytest.raises(AdapterError, match=f"{name}: expected the weights of a TokenAdapt"):
            load_adapter(tmp_path / name)
    assert "run" not in capsys.readouterr().out
    tensors = official_tensors()
    for change, message in (
        ({"reverse_transform.1.bias": torch.zeros(5)}, r"reverse_transform.1.bias: expected shape \(391,\)"),
        (
            {"conversion_function.2.weight": torch.zeros(5)},
            "conversion_function.2.weight: expected shape none",
        ),
    ):
        with pytest.raises(AdapterError, match=message):
            TokenAdapt.from_tensors({**tensors, **change})
    del tensors["reverse_transform.0.transformer.norm.bias"]
    with pytest.raises(AdapterError, match=r"norm.bias: expected shape \(384,\), found none"):
        TokenAdapt.from_tensors(tensors)
