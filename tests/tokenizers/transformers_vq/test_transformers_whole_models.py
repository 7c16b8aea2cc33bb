"""VQ models of transformers are found inside whole multimodal models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.transformers_models import FAMILIES, TOKENIZERS, noise

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers.kinds.transformers_vq import TransformersVQTokenizer, load  # noqa: E402

TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def whole_model(family: str, model: Any) -> Any:
    """Build a tiny multimodal model around a VQ model."""
    vocabulary = {"<image>": 5, "<|extra_200|>": 6}
    if family == "chameleon":
        config = transformers.ChameleonConfig(**TEXT, vq_config=model.config, vocabulary_map=vocabulary)
        whole = transformers.ChameleonForConditionalGeneration(config)
    elif family == "emu3":
        text = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.Emu3Config(
            vq_config=model.config.to_dict(), text_config=text, vocabulary_map=vocabulary
        )
        whole = transformers.Emu3ForConditionalGeneration(config)
    else:
        vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
        config = transformers.JanusConfig(
            text_config={**TEXT, "model_type": "llama"},
            vision_config={**vision, "patch_size": 4, "projection_dim": 32},
            vq_config=model.config.to_dict() | {"projection_dim": 32, "image_token_embed_dim": 32},
        )
        whole = transformers.JanusForConditionalGeneration(config)
    whole.model.vqmodel.load_state_dict(model.state_dict())
    return whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard_size", ["1GB", "100KB"])
def test_the_vq_model_is_found_inside_a_whole_model(
    tmp_path: Path,
    models: dict[str, Any],
    tokenizers: dict[str, TransformersVQTokenizer],
    family: str,
    shard_size: str,
) -> None:
    whole_model(family, models[family]).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "100KB")
    tokenizer = load(str(tmp_path))
    assert type(tokenizer) is TOKENIZERS[family]
    assert tokenizer.fingerprint == tokenizers[family].fingerprint
    assert tokenizer.image_size == {"chameleon": 32, "janus": 32, "emu3": 256}[family]
    images = noise(1, 3, 16, 16, seed=8)
    assert torch.equal(tokenizer.encode(images), tokenizers[family].encode(images))


def test_shards_that_hold_nothing_of_the_vq_model_are_not_needed(
    tmp_path: Path, models: dict[str, Any], tokenizers: dict[str, TransformersVQTokenizer]
) -> None:
    whole_model("janus", models["janus"]).save_pretrained(tmp_path, max_shard_size="100KB")
    names = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shard for name, shard in names.items() if "vqmodel" in name}
    others = set(names.values()) - needed
    assert others
    for shard in others:
        (tmp_path / shard).unlink()
    assert load(str(tmp_path)).fingerprint == tokenizers["janus"].fingerprint


def test_a_whole_model_without_its_vq_model_is_refused(tmp_path: Path, models: dict[str, Any]) -> None:
    whole_model("janus", models["janus"]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "vqmodel" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TokenizerError, match=r"found \d+ missing \(decoder\.conv_in\.bias, .*\) and 0 unex"):
        load(str(tmp_path))
