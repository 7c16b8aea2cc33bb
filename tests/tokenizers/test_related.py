"""Ready codes and the tokenizer that made them: related by their vectors, then one kind of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.stores import write_store
from tokenstore_cli.main import cli
from torch import nn

import tokenstore
from seitpp_models.errors import ModelError
from seitpp_models.evaluation.on_images import tokenizer_for
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import Parameter, TokenizerError
from tokenstore.format import TokenizerIdentity
from tokenstore.tokenizers.pruned import PrunedTokenizer
from tokenstore.tokenizers.registry import load_tokenizer
from tokenstore.tokenizers.related import codebook_fingerprint


@pytest.fixture(scope="module")
def own() -> Any:
    return load_tokenizer("default")


def ready(folder: Path, vectors: np.ndarray, codes: int) -> dict[str, Any]:
    """Write ready codes and the file of their vectors; return the arguments of their conversion."""
    np.save(folder / "codes.npy", np.random.default_rng(0).integers(0, codes, (6, 4, 4)).astype(np.uint16))
    np.save(folder / "vectors.npy", vectors)
    return {"source": folder / "codes.npy", "target": folder / "out", "codebook": folder / "vectors.npy"}


def network(manifest: Any) -> TrainedModel:
    return TrainedModel.for_store(nn.Identity(), "vit", {}, manifest)


@pytest.mark.parametrize("factor", [1, 3.5], ids=["the same vectors", "the same directions"])
def test_codes_of_a_tokenizers_vectors_are_its_codes(own: Any, tmp_path: Path, factor: float) -> None:
    arguments = ready(tmp_path, own.codebook * np.float32(factor), len(own.codebook))
    manifest = tokenstore.convert(**arguments, tokenizer="default").manifest
    assert (manifest.tokenizer.fingerprint, manifest.tokenizer.kept_codes) == (own.fingerprint, None)
    assert (manifest.tokenizer.spec, manifest.tokenizer.device) == ("default", None)
    assert tokenizer_for(network(manifest)).fingerprint == own.fingerprint


def test_some_of_a_tokenizers_vectors_count_as_a_pruned_codebook(own: Any, tmp_path: Path) -> None:
    kept = [3, 8, 9, 700, 2047]
    arguments = ready(tmp_path, own.codebook[kept], 5)
    words = [arguments["source"], arguments["target"], "--codebook", arguments["codebook"]]
    done = CliRunner().invoke(cli, ["convert", *map(str, words), "--tokenizer", "default"])
    assert done.exit_code == 0, done.output
    manifest = tokenstore.open(arguments["target"]).manifest
    assert manifest.tokenizer.kept_codes == (tuple(kept),)
    assert tokenstore.verify(arguments["target"]).ok
    tokenizer = tokenizer_for(network(manifest))
    assert isinstance(tokenizer, PrunedTokenizer)
    np.testing.assert_array_equal(tokenizer.codebook, own.codebook[kept])


def test_codes_of_other_vectors_are_refused(own: Any, tmp_path: Path) -> None:
    changed = own.codebook.copy()
    changed[5] = -changed[5] + 1
    others = (
        (changed, "1 of 2,048 are none of its 2,048, the first is that of code 5"),
        (own.codebook[::-1], "in another order"),
        (own.codebook[:, :7], "expected a codebook like the tokenizer's"),
    )
    for vectors, expected in others:
        arguments = ready(tmp_path, vectors, len(vectors))
        with pytest.raises(TokenizerError, match=expected):
            tokenstore.convert(**arguments, tokenizer="default")
        assert not (tmp_path / "out").exists()
    bare = {**ready(tmp_path, own.codebook, 9), "codebook": None, "codebook_size": 9}
    with pytest.raises(TokenizerError, match="found \\(9,\\), and no vectors to compare") as caught:
        tokenstore.convert(**bare, tokenizer="default")
    assert caught.value.parameters == (Parameter("codebook"),)  # which commands write as an option


def test_a_network_of_ready_codes_takes_images_by_a_tokenizer_of_exactly_their_vectors(own: Any) -> None:
    def of(fingerprint: str) -> TrainedModel:
        return TrainedModel(nn.Identity(), "vit", {}, TokenizerIdentity("unknown", fingerprint))

    assert tokenizer_for(of(codebook_fingerprint(own.codebook)), "default").name == own.name
    with pytest.raises(ModelError, match=r"expected codes of unknown .* by tokenstore\.convert"):
        tokenizer_for(of(codebook_fingerprint(own.codebook[1:])), "default")


def test_a_store_is_related_to_the_tokenizer_of_its_vectors(own: Any, tmp_path: Path) -> None:
    arguments = ready(tmp_path, own.codebook, len(own.codebook))
    before = tokenstore.convert(**arguments).manifest
    codes = tokenstore.open(arguments["target"])["train"][:]
    tokenstore.relate(arguments["target"], "default")
    store = tokenstore.open(arguments["target"])
    assert (before.tokenizer.name, store.manifest.tokenizer.name) == ("unknown", own.name)
    assert store.manifest.tokenizer.fingerprint == own.fingerprint
    assert [done.operation for done in store.manifest.history] == ["relate"]
    assert (store["train"][:] == codes).all()
    assert tokenstore.verify(arguments["target"]).ok
    assert tokenizer_for(network(store.manifest)).fingerprint == own.fingerprint
    tokenstore.relate(arguments["target"], own)  # which changes nothing


def test_a_store_of_some_vectors_is_related_as_one_of_a_pruned_codebook(own: Any, tmp_path: Path) -> None:
    kept = [3, 8, 9, 700, 2047]
    arguments = ready(tmp_path, own.codebook[kept], 5)
    tokenstore.convert(**arguments)
    done = tokenstore.relate(arguments["target"], own, tmp_path / "related")
    assert done.manifest.tokenizer.kept_codes == (tuple(kept),)
    assert tokenstore.open(arguments["target"]).manifest.tokenizer.name == "unknown"


def test_a_store_of_other_vectors_or_of_another_tokenizer_is_not_related(own: Any, tmp_path: Path) -> None:
    arguments = ready(tmp_path, own.codebook[::-1].copy(), len(own.codebook))
    tokenstore.convert(**arguments)
    with pytest.raises(TokenizerError, match="in another order"):
        tokenstore.relate(arguments["target"], own)
    assert tokenstore.open(arguments["target"]).manifest.tokenizer.name == "unknown"
    codes = np.zeros((4, 4, 4), np.uint16)
    identity = TokenizerIdentity("another", "ab" * 32)
    write_store(tmp_path / "known", {"train": (codes, None)}, len(own.codebook), tokenizer=identity)
    with pytest.raises(TokenizerError, match="expected codes of an unknown tokenizer"):
        tokenstore.relate(tmp_path / "known", own)
