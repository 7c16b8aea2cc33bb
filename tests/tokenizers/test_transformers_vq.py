"""The VQ models of transformers: the codes and images of the library, alone and inside whole models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers import load_tokenizer  # noqa: E402
from tokenstore.tokenizers.kinds.transformers_vq import (  # noqa: E402
    ChameleonTokenizer,
    Emu3Tokenizer,
    JanusTokenizer,
    Normalisation,
    TransformersVQTokenizer,
    load,
)

CODES = 96
SHAPE = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1}
STRIDE = 4
FRAMES = 2
CONFIGS: dict[str, Callable[..., Any]] = {
    "chameleon": lambda **changes: transformers.ChameleonVQVAEConfig(
        **SHAPE, latent_channels=8, embed_dim=6, num_embeddings=CODES, resolution=32, **changes
    ),
    "janus": lambda **changes: transformers.JanusVQVAEConfig(
        **{
            **SHAPE,
            "latent_channels": 8,
            "embed_dim": 6,
            "num_embeddings": CODES,
            "num_patches": 6,
            **changes,
        }
    ),
    "emu3": lambda **changes: transformers.Emu3VQVAEConfig(
        **SHAPE,
        **{"temporal_downsample_factor": FRAMES, **changes},
        codebook_size=CODES,
        attn_resolutions=[2],
        hidden_size=32,
    ),
}
MODELS = {
    "chameleon": lambda config: transformers.ChameleonVQVAE(config),
    "janus": lambda config: transformers.JanusVQVAE(config),
    "emu3": lambda config: transformers.Emu3VQVAE(config),
}
TOKENIZERS = {"chameleon": ChameleonTokenizer, "janus": JanusTokenizer, "emu3": Emu3Tokenizer}
FAMILIES = tuple(MODELS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def as_pixels(family: str, images: torch.Tensor) -> torch.Tensor:
    """Pixels as the published models of a family have them."""
    if family == "chameleon":
        return images.float() * 0.0078 - 1
    return (images.float() * (1 / 255) - 0.5) / 0.5


def latents_of(family: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the vectors (n, D) that a model quantises for images (B, 3, H, W) or (B, T, 3, H, W)."""
    kept = []
    handle = model.quantize.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    library_codes(family, model, images)
    handle.remove()
    return torch.cat([part.movedim(-3, -1).reshape(-1, part.shape[-3]) for part in kept])


def build(family: str, **changes: Any) -> Any:
    """Build a small model of random weights whose codebook holds latents of noise, so that codes vary."""
    torch.manual_seed(0)
    model = MODELS[family](CONFIGS[family](**changes)).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.5)
        vectors = latents_of(family, model, noise(1, 3, 64, 64, seed=9))
        model.quantize.embedding.weight.copy_(vectors[:CODES])
    return model


def library_codes(family: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return codes (B, *grid) of the model's own encode, input by input."""
    height, width = images.shape[-2:]
    grids = []
    with torch.no_grad():
        for one in images.split(1):
            pixels = as_pixels(family, one)
            if family == "emu3":
                grids.append(torch.stack(model.encode(pixels, [(height, width)]).image_tokens))
            else:
                codes = model.encode(pixels).image_tokens
                grids.append(codes.view(1, height // STRIDE, width // STRIDE))
    return torch.cat(grids)


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def assert_same_images(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for levels that the last bit of a float tips."""
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert found.unique().numel() > 20
    difference = found.int() - expected.int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {family: build(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def saved(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family, model in models.items():
        model.save_pretrained(root / family)
    return root


@pytest.fixture(scope="module")
def tokenizers(saved: Path) -> dict[str, TransformersVQTokenizer]:
    return {family: load(str(saved / family)) for family in FAMILIES}


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Copy the saved Janus model, to be spoiled by a test."""
    return shutil.copytree(saved / "janus", tmp_path / "model")


# ---- images


@pytest.mark.parametrize(("family", "side"), [("chameleon", 32), ("janus", 24), ("emu3", 256)])
def test_a_tokenizer_says_what_its_config_says(
    saved: Path, models: dict[str, Any], family: str, side: int
) -> None:
    tokenizer = load_tokenizer(f"transformers:{saved / family}")
    assert type(tokenizer) is TOKENIZERS[family]
    assert tokenizer.name == f"{family}-vq"
    assert tokenizer.codebook_sizes == (CODES,)
    assert tokenizer.image_size == side
    assert tokenizer.grid((3, 32, 64)) == (8, 16)
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.dtype == np.float32
    assert np.array_equal(tokenizer.codebook, models[family].quantize.embedding.weight.detach().numpy())
    assert tokenizer.dtype == torch.float32
    assert not tokenizer.network.training


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (40, 16)])
def test_codes_are_those_of_the_library(
    tokenizers: dict[str, TransformersVQTokenizer],
    models: dict[str, Any],
    family: str,
    height: int,
    width: int,
) -> None:
    images = noise(3, 3, height, width, seed=1)
    codes = tokenizers[family].encode(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, height // STRIDE, width // STRIDE)
    assert torch.equal(codes, library_codes(family, models[family], images))
    assert codes.unique().numel() > 30


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_do_not_depend_on_the_batch_its_order_or_threads(
    saved: Path, tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    tokenizer, images = tokenizers[family], noise(7, 3, 16, 24, seed=2)
    alone = torch.cat([tokenizer.encode(image) for image in images.split(1)])
    assert torch.equal(tokenizer.encode(images), alone)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    assert torch.equal(tokenizer.encode(images[order]), alone[order])
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        threaded = load(str(saved / family))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded.encode(images), alone)


def test_janus_decodes_as_the_library_and_other_sides_too(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    tokenizer, model = tokenizers["janus"], models["janus"]
    codes = tokenizer.encode(noise(2, 3, 24, 24, seed=3))
    with torch.no_grad():
        expected = torch.cat([model.decode(grid.flatten(1)) for grid in codes.split(1)])
    assert_same_images(tokenizer.decode(codes), as_images(expected))
    larger = build("janus", num_patches=10)
    larger.load_state_dict(model.state_dict())
    codes = tokenizer.encode(noise(1, 3, 40, 40, seed=3))
    with torch.no_grad():
        expected = larger.decode(codes.flatten(1))
    assert_same_images(tokenizer.decode(codes), as_images(expected))
    assert tokenizer.decode(codes[:, :3]).shape == (1, 3, 12, 40)


def test_emu3_decodes_images_as_the_library(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    codes = tokenizers["emu3"].encode(noise(2, 3, 24, 16, seed=3))
    with torch.no_grad():
        expected = torch.cat([models["emu3"].decode(grid) for grid in codes.split(1)])
    assert_same_images(tokenizers["emu3"].decode(codes), as_images(expected))


def test_chameleon_has_no_decoder(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    for codes in (torch.zeros((1, 2, 2), dtype=torch.int64), torch.zeros((0, 2, 2), dtype=torch.int64)):
        with pytest.raises(
            TokenizerError, match="chameleon-vq: expected a model with a decoder, found Chameleon's"
        ):
            tokenizers["chameleon"].decode(codes)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_other_sides_are_refused(
    tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(24, 26\)"):
        tokenizers[family].encode(noise(1, 3, 24, 26))
    with pytest.raises(TokenizerError, match="uint8, found"):
        tokenizers[family].encode(torch.zeros(1, 3, 24, 24))


# ---- video


def test_video_is_encoded_and_decoded_as_by_the_library(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    tokenizer, video = tokenizers["emu3"], noise(2, 6, 3, 16, 24, seed=4)
    codes = tokenizer.encode(video)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 3, 4, 6) == (2, *tokenizer.grid((6, 3, 16, 24)))
    assert torch.equal(codes, library_codes("emu3", models["emu3"], video))
    assert codes.unique().numel() > 20
    with torch.no_grad():
        expected = torch.cat([models["emu3"].decode(grid) for grid in codes.split(1)])
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.shape == video.shape
    assert_same_images(rebuilt, as_images(expected))
    assert torch.equal(tokenizer.decode(codes.to(torch.int16)), rebuilt)
    assert torch.equal(tokenizer.encode(video[[1]]), codes[[1]])


def test_upright_and_long_video_keeps_all_its_codes(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    """Compare with codes from before the library's own encode cuts both."""
    tokenizer, model, video = tokenizers["emu3"], models["emu3"], noise(1, 10, 3, 16, 8, seed=5)
    codes = tokenizer.encode(video)
    assert codes.shape == (1, 5, 4, 2)
    uncut = []
    handle = model.quantize.register_forward_hook(lambda module, inputs, output: uncut.append(output))
    cut = library_codes("emu3", model, video)
    handle.remove()
    assert cut.shape == (1, 4, 2, 2)
    assert torch.equal(codes, uncut[0])
    assert tokenizer.decode(codes).shape == video.shape


def test_an_image_is_a_film_of_equal_frames(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    tokenizer, images = tokenizers["emu3"], noise(2, 3, 16, 16, seed=6)
    film = images[:, None].expand(-1, FRAMES, -1, -1, -1)
    assert torch.equal(tokenizer.encode(film)[:, 0], tokenizer.encode(images))
    codes = tokenizer.encode(images)
    assert torch.equal(tokenizer.decode(codes[:, None])[:, 0], tokenizer.decode(codes))


def test_empty_batches_stay_empty(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    codes = tokenizers["emu3"].encode(torch.zeros((0, 4, 3, 16, 8), dtype=torch.uint8))
    assert codes.shape == (0, 2, 4, 2)
    assert codes.dtype == torch.int64
    assert tokenizers["emu3"].decode(codes).shape == (0, 4, 3, 16, 8)
    assert tokenizers["janus"].decode(tokenizers["janus"].encode(noise(0, 3, 8, 4))).shape == (0, 3, 8, 4)


def test_video_that_does_not_fit_is_refused(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    with pytest.raises(TokenizerError, match="frames of a video to be a multiple of 2, found 3"):
        tokenizers["emu3"].encode(noise(1, 3, 3, 16, 16))
    with pytest.raises(TokenizerError, match="frames of a video to be a multiple of 2, found 0"):
        tokenizers["emu3"].encode(noise(1, 0, 3, 16, 16))
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(16, 18\)"):
        tokenizers["emu3"].encode(noise(1, 2, 3, 16, 18))
    with pytest.raises(TokenizerError, match="uint8, found"):
        tokenizers["emu3"].encode(torch.zeros(1, 2, 3, 16, 16))
    with pytest.raises(TokenizerError, match=r"0\.\.95, found 96\.\.96"):
        tokenizers["emu3"].decode(torch.full((1, 1, 2, 2), CODES))
    with pytest.raises(TokenizerError, match=r"\(B, 3, H, W\) uint8, found \(1, 2, 3, 16, 16\)"):
        tokenizers["janus"].encode(noise(1, 2, 3, 16, 16))


def test_models_of_frames_that_are_no_power_of_two_are_refused(tmp_path: Path) -> None:
    transformers.Emu3VQVAE(CONFIGS["emu3"](temporal_downsample_factor=3)).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="cannot take them"):
        load(str(tmp_path))


# ---- pixels


def processor_of(family: str, **options: Any) -> Any:
    """Return the library's own image processor, which neither resizes nor crops here."""
    if family == "emu3":
        return transformers.Emu3ImageProcessor(do_resize=False, **options)
    module = f"transformers.models.{family}.image_processing_pil_{family}"
    name = f"{family.capitalize()}ImageProcessorPil"
    processor = getattr(pytest.importorskip(module), name)
    return processor(do_resize=False, do_center_crop=False, do_pad=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127},
        {"do_normalize": False},
    ],
)
def test_pixels_are_those_of_the_folders_image_processor(
    saved: Path, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    folder = shutil.copytree(saved / family, tmp_path / "model")
    processor = processor_of(family, **options)
    processor.save_pretrained(folder)
    images = noise(1, 3, 16, 24, seed=7)
    picture = images[0].permute(1, 2, 0).numpy()
    expected = torch.as_tensor(np.asarray(processor(picture, return_tensors="np")["pixel_values"]))
    tokenizer = load(str(folder))
    torch.testing.assert_close(tokenizer.normalisation.to_pixels(images)[0], expected[0].float())
    assert torch.equal(tokenizer.normalisation.to_images(expected.float()), images)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_image_processor_pixels_are_those_of_the_published_models(
    tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    levels = noise(1, 3, 16, 16, seed=8)
    assert torch.equal(tokenizers[family].normalisation.to_pixels(levels), as_pixels(family, levels))


def test_the_processor_of_a_whole_model_goes_before_that_of_images(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.25, "image_std": 0.5}')
    one = load(str(folder))
    assert one.normalisation == Normalisation(1 / 255, (0.25,) * 3, (0.5,) * 3)
    (folder / "processor_config.json").write_text('{"processor_class": "JanusProcessor"}')
    assert load(str(folder)).normalisation == one.normalisation
    (folder / "processor_config.json").write_text('{"image_processor": {"do_rescale": false}}')
    assert load(str(folder)).normalisation == Normalisation(1.0, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "values",
    [
        {"image_std": 0},
        {"image_std": [0.5, 0.5]},
        {"image_mean": ["a", 0, 0]},
        {"image_mean": None},
        {"rescale_factor": -1},
        {"rescale_factor": [1, 1]},
        {"rescale_factor": float("nan")},
    ],
)
def test_processors_that_make_no_sense_are_refused(folder: Path, values: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=r"preprocessor_config\.json: expected rescale_factor over 0"):
        load(str(folder))


# ---- the fingerprint


def spoil_config(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_holds_the_weights_and_the_pixels(
    saved: Path, tmp_path: Path, tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    folder = shutil.copytree(saved / family, tmp_path / "model")
    seen = {tokenizers[family].fingerprint, load(str(folder)).fingerprint}
    assert len(seen) == 1
    weights = load_file(folder / "model.safetensors")
    for name in ("quantize.embedding.weight", "encoder.conv_in.bias", "post_quant_conv.weight"):
        name = name if name in weights else name.replace(".weight", ".conv.weight")
        save_file(weights | {name: weights[name] + 0.125}, folder / "model.safetensors", {"format": "pt"})
        seen.add(load(str(folder)).fingerprint)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.25]}')
    seen.add(load(str(folder)).fingerprint)
    assert len(seen) == 5


def test_the_fingerprint_holds_what_of_the_config_decides_codes(
    saved: Path, tmp_path: Path, tokenizers: dict[str, TransformersVQTokenizer]
) -> None:
    folder = shutil.copytree(saved / "emu3", tmp_path / "model")
    spoil_config(folder, {"transformers_version": "4.0.0", "attention_dropout": 0.5})
    assert load(str(folder)).fingerprint == tokenizers["emu3"].fingerprint
    spoil_config(folder, {"num_attention_heads": 2})
    assert load(str(folder)).fingerprint != tokenizers["emu3"].fingerprint


# ---- inside whole models

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


# ---- what is refused


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
