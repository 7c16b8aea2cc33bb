"""Checkpoints that are not of their kind of tokenizer: each is refused with the reason, by every kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from helpers import magvit_models, maskgit_models, vqgan_models
from helpers.wrong_checkpoints import WRONG
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import TOKENIZERS, load_tokenizer

GOOD: Mapping[str, Callable[[], dict[str, Tensor]]] = {
    "vqgan": vqgan_models.random_checkpoint,
    "open-magvit2": magvit_models.random_checkpoint,
    "maskgit-vqgan": maskgit_models.random_checkpoint,
}


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, dict[str, Tensor]]:
    return {kind: make() for kind, make in GOOD.items()}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("wrong", WRONG)
def test_spoilt_checkpoints_are_refused_with_the_reason(
    kind: str, wrong: str, tensors: Mapping[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    write, message = WRONG[wrong]
    path = tmp_path / "wrong.ckpt"
    write(path, tensors[kind])
    load = importlib.import_module(TOKENIZERS[kind].module).load
    with pytest.raises(TokenizerError, match=rf"^{path}: (?s:.*){message}"):
        load(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", GOOD)
def test_a_checkpoint_has_to_be_named(kind: str) -> None:
    with pytest.raises(TokenizerError, match=rf"expected {kind}:\S+, found"):
        importlib.import_module(TOKENIZERS[kind].module).load(None)
    with pytest.raises(TokenizerError, match=rf"expected {kind}:\S+"):
        load_tokenizer(kind)
