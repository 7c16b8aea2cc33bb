"""Files of networks, adapters and settings that declare more than they hold end in one error, soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import official_tensors, small_adapter
from helpers.networks_to_evaluate import MASKED, VIT, K, saved, trained
from safetensors import safe_open
from safetensors.torch import save_file

from seitpp_models.errors import ModelError
from seitpp_models.training.resolving import resolve
from seitpp_models.training.settings import FinetuneSettings
from seitpp_models.weights import load_model, load_official
from tokenstore.augment import load_adapter
from tokenstore.augment.adapters import save_adapter
from tokenstore.errors import AdapterError, ArgumentError, TokenstoreError

HUGE = 10**12
TIMM = {"name": "test_convnext", "num_classes": 6, "channels": 4}
SECONDS = 5.0
"""The seconds that a refusal may take on a busy machine; building what a file declares takes for ever."""


def with_metadata(path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Change a JSON value in the metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    text = change(json.loads(metadata[name]))
    save_file(tensors, path, metadata | {name: text if isinstance(text, str) else json.dumps(text)})
    return path


def refused(load: Callable[[Path], object], path: Path, error: type[TokenstoreError], expected: str) -> None:
    start = time.process_time()
    with pytest.raises(error, match=expected) as found:
        load(path)
    assert time.process_time() - start < SECONDS
    assert str(path) in str(found.value)
    assert len(str(found.value)) < 1000


@pytest.mark.parametrize(
    ("kind", "arguments", "changes"),
    [
        ("vit", VIT, {"depth": HUGE}),
        ("vit", VIT, {"depth": 20_000}),
        ("vit", VIT, {"grid": [100_000, 100_000]}),
        ("vit", VIT, {"embed_dim": 64_000}),
        ("vit", VIT, {"num_classes": HUGE}),
        ("vit", VIT, {"codebook_size": 1_000_000}),
        ("masked", MASKED, {"decoder_depth": HUGE}),
        ("masked", MASKED, {"grid": [HUGE, HUGE]}),
        ("segmenter", {"backbone": VIT, "classes": 3}, {"classes": HUGE}),
        ("segmenter", {"backbone": VIT, "classes": 3}, {"backbone": VIT | {"depth": HUGE}}),
        ("timm", TIMM, {"num_classes": HUGE}),
        ("timm", TIMM, {"grid": [40_000, 40_000]}),
        (
            "timm",
            TIMM,
            {"name": "vit_giant_patch14_224"},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_a_network_that_declares_more_than_its_tensors_is_refused(
    tmp_path: Path, kind: str, arguments: dict[str, Any], changes: dict[str, Any]
) -> None:
    path = saved(trained(kind, arguments), tmp_path / "model.safetensors")
    load_model(path)
    with_metadata(path, "arguments", lambda values: values | changes)
    if changes == {"grid": [40_000, 40_000]}:  # which needs no more tensors, and so no memory
        load_model(path)
    else:
        refused(load_model, path, ModelError, "expected")


@pytest.mark.parametrize("name", ["arguments", "labels", "tokenizer", "preprocessing"])
@pytest.mark.parametrize(
    "value", ["[" * 100_000, '{"a": ' * 50_000, "[[], " * 2_000_000, "3", '"text"', "NaN"]
)
def test_metadata_of_other_kinds_is_refused(tmp_path: Path, name: str, value: str) -> None:
    path = saved(trained("vit", VIT | {"codebook_size": K}), tmp_path / "model.safetensors")
    refused(load_model, with_metadata(path, name, lambda _: value), ModelError, "expected a network of save_")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(
            ("config", lambda sizes, size=size: sizes | {size: HUGE})
            for size in ("codebook_size", "depth", "mlp")
        ),
        ("config", lambda sizes: sizes | {"grid": [HUGE, HUGE]}),
        ("config", lambda sizes: sizes | {"width": 2**40}),
        ("config", lambda _: "[" * 100_000),
        ("tokenizer", lambda _: "[" * 100_000),
        ("tokenizer", lambda _: [3]),
    ],
)
def test_an_adapter_that_declares_more_than_its_tensors_is_refused(
    tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(small_adapter(), path)
    refused(
        load_adapter, with_metadata(path, name, change), AdapterError, "expected the weights of a TokenAdapt"
    )


def test_a_checkpoint_whose_tensors_are_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    tensors = official_tensors()
    head = torch.zeros(1, 384).expand(20_000_000, 384)  # of stride zero: a few stored bytes
    torch.save(tensors | {"reverse_transform.1.weight": head}, tmp_path / "adapter.pth")
    refused(load_adapter, tmp_path / "adapter.pth", AdapterError, "dense tensors")
    torch.save({"head.weight": head, "pos_embed": head[None]}, tmp_path / "model.pth")
    refused(load_official, tmp_path / "model.pth", ModelError, "dense tensors")


LISTS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LISTS, "by an alias"),
        (MERGES, "by an alias"),
        ("epochs: " + "[" * 10_000, "too deep"),
        ("epochs: [1, [2]]", "epochs: expected one value, found a list"),
        ("x" * 100_000, "at most 16384 bytes"),
        ("epochs: 0x" + "f" * 10_000, "a number of up to 64 bits"),
        ("epochs: .inf", "epochs.*expected a number"),
        ("epochs: .nan", "epochs.*expected a number"),
        ("- epochs", "expected settings by their names, found a list"),
        ("epochs: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("epochs: !!int ''", "expected a YAML file"),
        ("epochs: !!timestamp x", "expected a YAML file"),
    ],
    ids=lambda text: text[:20],
)
def test_a_recipe_that_would_grow_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(ArgumentError, match=expected) as found:
        resolve("finetune", FinetuneSettings, path, {})
    assert time.process_time() - start < SECONDS
    assert len(str(found.value)) < 1000


def test_an_alias_of_one_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: &few 3\nbatch-size: *few\n")
    settings = resolve("finetune", FinetuneSettings, path, {})
    assert (settings["epochs"], settings["batch_size"]) == (3, 3)


def test_tied_and_unusual_networks_still_load(tmp_path: Path) -> None:
    for kind, arguments in (
        ("vit", VIT | {"codebook_size": K}),
        ("masked", MASKED),
        ("segmenter", {"backbone": VIT | {"depth": 4}, "classes": 3, "head": "upernet", "width": 16}),
        ("timm", {"name": "test_vit", "num_classes": 6, "channels": 4, "grid": [8, 8]}),
    ):
        network = replace(trained(kind, arguments), labels=None)
        loaded = load_model(saved(network, tmp_path / "model.safetensors")).model.state_dict()
        assert all(torch.equal(loaded[name], part) for name, part in network.model.state_dict().items())
