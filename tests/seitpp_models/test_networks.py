"""Networks on tokens: sizes from stores, other grids, features, beginnings, files, compiled steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.network_stores import CHANNELS, CLASSES, CODES, GRID, MASKED, VIT, codebook, write_labelled
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2

import tokenstore
from seitpp_models import (
    MaskedTokenModel,
    ModelError,
    TokenClassifier,
    TokenSegmenter,
    TokenViT,
    TrainedModel,
    draw_mask,
    load_model,
    save_model,
    start_from,
)
from seitpp_models.networks.segmentation import segmentation_loss
from seitpp_models.networks.shape import taking_any_grid
from seitpp_models.networks.store_sizes import seen_grid
from seitpp_models.training.augmentations import CodesAndMasks
from seitpp_models.training.tasks import MaskedTokens, StepRandom
from seitpp_models.weights.files import build_model
from seitpp_models.weights.transfer import backbone_arguments
from tokenstore.augment import Ingredients
from tokenstore.augment.colour import OneOf
from tokenstore.augment.crops import nearest_crop
from tokenstore.format.manifest import TokenizerIdentity


def codes_of(count: int, grid: tuple[int, int] = GRID, seed: int = 0) -> torch.Tensor:
    return torch.randint(CODES, (count, *grid), generator=torch.Generator().manual_seed(seed))


def vit(**changes: Any) -> TokenViT:
    torch.manual_seed(0)
    model = build_model("vit", VIT | changes)
    assert isinstance(model, TokenViT)
    return model.eval()


def masked() -> MaskedTokenModel:
    torch.manual_seed(1)
    model = build_model("masked", MASKED)
    assert isinstance(model, MaskedTokenModel)
    return model.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tokenstore.TokenStore:
    return tokenstore.open(write_labelled(tmp_path_factory.mktemp("networks") / "store"))


@pytest.mark.parametrize(
    ("grid", "patch", "expected"),
    [
        ((32, 32), None, ((28, 28), 2)),
        ((32, 48), 2, ((28, 42), 2)),
        ((8, 8), None, ((8, 8), 1)),
        ((16, 16), 4, ((12, 12), 4)),
    ],
)
def test_seven_eighths_of_a_grid_are_seen(grid: Any, patch: int | None, expected: Any) -> None:
    assert seen_grid(grid, patch) == expected


def test_sizes_come_from_a_store(store: tokenstore.TokenStore) -> None:
    vectors = torch.randn(2, CHANNELS, *GRID)
    for name in ("seit_vit_tiny_token", "seit_vit_small_token"):
        model = timm.create_model(name, store=store, depth=1)
        assert model(vectors).shape == (2, CLASSES)
    assert TokenClassifier("resnet10t", store=store)(vectors).shape == (2, CLASSES)


def test_the_registered_models_have_the_published_sizes() -> None:
    sizes = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
    with torch.device("meta"):
        for name, width in sizes.items():
            model = timm.create_model(f"seit_vit_{name}_token", num_classes=1000)
            assert model.embed_dim == width
            assert model.patch_embed.proj.weight.shape == (width, 32, 4, 4)
    assert sum(part.numel() for part in model.parameters()) == pytest.approx(304e6, rel=0.01)


@pytest.mark.parametrize("grid", [(4, 10), (12, 8)])
def test_other_grids_get_interpolated_positions(grid: tuple[int, int]) -> None:
    model = vit()
    for take in (model, lambda codes: model.features(codes, [1])):
        with pytest.raises(ValueError, match=r"expected grids of \(6, 6\), .* found \(\d+, \d+\)"):
            take(codes_of(2, grid))
    with taking_any_grid(model):
        assert model(codes_of(2, grid)).shape == (2, CLASSES)
    with pytest.raises(ValueError, match="expected grids of"):
        model(codes_of(2, grid))
    tall = vit(grid=grid)
    assert tall(codes_of(2, grid)).shape == (2, CLASSES)
    start_from(tall, vit())


def test_features_are_those_of_the_blocks() -> None:
    model, codes = vit(), codes_of(3)
    first, last = model.features(codes, [0, 1])
    hidden = model.norm_pre(model._pos_embed(model.patch_embed(codes)))
    for block, found in zip(model.blocks, (first, last), strict=True):
        hidden = block(hidden)
        torch.testing.assert_close(found, hidden[:, 1:].mT.reshape(3, 32, 3, 3))
    torch.testing.assert_close(model.fc_norm(last.flatten(2).mean(2)) @ model.head.weight.T, model(codes))


def test_a_vit_begins_with_a_masked_token_model() -> None:
    before = masked()
    model = build_model("vit", backbone_arguments(before) | {"num_classes": 5}).eval()
    assert isinstance(model, TokenViT)
    start_from(model, before)
    codes = codes_of(4)
    encoded = before._embedded(codes) + before.pos_embed[:, 1:]
    token = (before.cls_token + before.pos_embed[:, :1]).expand(4, -1, -1)
    expected = before.blocks(torch.cat((token, encoded), 1))[:, 1:]
    (found,) = model.features(codes, [1])
    torch.testing.assert_close(found.flatten(2).mT, expected)
    assert float(model.head.weight.detach().abs().max()) < 1e-4
    with pytest.raises(ModelError, match=r"blocks\.1\..*found none"):
        start_from(vit(depth=3), vit(depth=1))
    with pytest.raises(ModelError, match=r"found none|expected shape"):
        start_from(vit(codebook_size=None), before)


def test_a_head_is_kept_where_it_is_asked_for_and_has_the_classes() -> None:
    before, model = vit(), vit()
    torch.nn.init.normal_(before.head.weight)
    start_from(model, before, keep_head=True)
    codes = codes_of(4)
    assert torch.equal(model.eval()(codes), before.eval()(codes))
    start_from(model, before)
    assert not torch.equal(model.head.weight, before.head.weight)
    with pytest.raises(ModelError, match=f"keep_head.*of {CLASSES + 1} classes.*found one of {CLASSES}"):
        start_from(vit(num_classes=CLASSES + 1), before, keep_head=True)
    with pytest.raises(ModelError, match=r"keep_head.*found a network without classes"):
        start_from(vit(), masked(), keep_head=True)


def test_label_maps_move_with_the_codes() -> None:
    codes = codes_of(40, (8, 8)) % 4
    masks = codes.repeat_interleave(2, 1).repeat_interleave(2, 2).to(torch.uint8)
    vectors = torch.eye(CODES)
    moved = CodesAndMasks(
        vectors, (8, 8), gives_codes=True, ignore_index=255, ingredients=Ingredients(scale=(0.5, 1))
    )
    moved.colour = OneOf([], [])
    inputs, labels = moved(codes, masks, generator=torch.Generator().manual_seed(0))
    assert labels.shape == (40, 16, 16)
    assert labels.max() < 4
    generator = torch.Generator().manual_seed(0)
    moved.colour(vectors, generator=generator)
    boxes = moved.geometry.draw(40, (8, 8), generator).boxes
    assert boxes is not None
    assert torch.equal(labels, nearest_crop(masks[:, None], 2 * boxes, (16, 16))[:, 0])
    whole = (boxes[:, 2:] == 8).all(1)
    same = (inputs.repeat_interleave(2, 1).repeat_interleave(2, 2) == labels).flatten(1).float().mean(1)
    assert whole.any()
    assert bool((same[whole] == 1).all())
    assert float(same.mean()) > 0.6  # bicubic and nearest differ at borders
    whole_moved = CodesAndMasks(
        vectors, (8, 8), gives_codes=True, ignore_index=255, ingredients=Ingredients(scale=(1, 1))
    )
    whole_moved.colour = moved.colour
    inputs, labels = whole_moved(codes, masks, generator=torch.Generator())
    assert torch.equal(inputs, codes)
    assert torch.equal(labels, masks)


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_a_segmenter_gives_logits_of_the_label_maps_size(head: Any) -> None:
    model = TokenSegmenter(vit(depth=4), 7, head, width=16).eval()
    codes = codes_of(2)
    assert model(codes).shape[:2] == (2, 7)
    assert model(codes, (48, 36)).shape == (2, 7, 48, 36)
    used = {id(part) for part in model.parameters() if part.requires_grad}
    model(codes, (12, 12)).sum().backward()
    assert used == {id(part) for part in model.parameters() if part.grad is not None}


@pytest.mark.parametrize("codebook_size", [None, CODES])
def test_a_segmenter_leaves_its_backbone_as_it_is(codebook_size: int | None) -> None:
    backbone = vit(depth=4, codebook_size=codebook_size).eval()
    tokens = codes_of(2) if codebook_size else torch.randn(2, CHANNELS, *GRID)
    logits = backbone(tokens)
    segmenter = TokenSegmenter(backbone, 7).eval()
    assert torch.equal(backbone(tokens), logits)
    hidden = backbone.forward_features(tokens)  # the last block's, after a LayerNorm
    last = segmenter.backbone.features(tokens, [3])[0]
    torch.testing.assert_close(backbone.norm(last.flatten(2).mT), hidden[:, 1:])


def test_ignored_pixels_do_not_count() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels[:, 2:] = 9
    expected = torch.nn.functional.cross_entropy(logits[:, :, :2], labels[:, :2])
    torch.testing.assert_close(segmentation_loss(logits, labels, 9), expected)
    assert float(segmentation_loss(logits, torch.full_like(labels, 9), 9)) == 0


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("masked", MASKED),
        ("vit", VIT),
        ("timm", {"name": "resnet10t", "num_classes": 3, "channels": 4}),
        ("segmenter", {"backbone": VIT | {"depth": 4}, "classes": 3, "head": "upernet", "width": 16}),
    ],
)
def test_a_network_is_what_its_file_holds(tmp_path: Path, kind: str, arguments: dict[str, Any]) -> None:
    identity = TokenizerIdentity("test", "ab" * 32)
    before = TrainedModel(build_model(kind, arguments), kind, arguments, identity, ("x", "y"))
    save_model(before, tmp_path / "model.safetensors")
    after = load_model(tmp_path / "model.safetensors")
    assert (after.kind, after.tokenizer, after.labels) == (kind, identity, ("x", "y"))
    ours, theirs = before.model.state_dict(), after.model.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(TrainedModel(vit(), "vit", VIT, TokenizerIdentity("test")), path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"cut\.safetensors: expected a network of save_model"):
        load_model(tmp_path / "cut.safetensors")
    save_file(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="its format is None"):
        load_model(tmp_path / "bare.safetensors")
    broken = vit()
    torch.nn.init.constant_(broken.head.weight, float("nan"))
    save_model(TrainedModel(broken, "vit", VIT, TokenizerIdentity("test")), path)
    with pytest.raises(ModelError, match=r"head\.weight: expected finite numbers"):
        load_model(path)


@pytest.mark.parametrize("network", ["masked", "vit"])
def test_a_step_compiles_in_one_piece(network: str) -> None:
    model: Any = masked() if network == "masked" else vit()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    codes = codes_of(2)
    if network == "vit":
        torch.testing.assert_close(compiled(codes), model(codes))
        return
    mask = draw_mask(2, 9, 0.6, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(compiled(codes, mask).loss, model(codes, mask).loss)


def test_a_step_draws_the_same_again_and_other_processes_something_else() -> None:
    seen: list[torch.Tensor] = []

    class Recorder(torch.nn.Module):
        def forward(self, codes: torch.Tensor, mask: Any) -> Any:
            seen.append(mask.masked)
            output = masked()(codes, mask)
            return dataclasses.replace(output, loss=output.loss)

    from seitpp_models.networks.masking import MaskRatio
    from seitpp_models.training.augmentations import CentralPart

    task = MaskedTokens(CentralPart(GRID), 9, MaskRatio())
    for step, rank, processes in ((0, 0, 1), (0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 1)):
        random = StepRandom.of(5, step, rank, processes, torch.device("cpu"))
        codes = codes_of(4 // processes, seed=rank)
        task.loss(Recorder(), [codes], random)
    whole, again, first, second, later = seen
    assert torch.equal(whole, again)
    assert torch.equal(whole, torch.cat((first, second)))
    assert whole.shape != later.shape or not torch.equal(whole, later)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected vectors \(B, 8, H, W\)"):
        vit(codebook_size=None)(torch.randn(2, 5, *GRID))
    with pytest.raises(ValueError, match="expected codes"):
        vit()(torch.from_numpy(np.array(codebook()))[:6, :6].expand(2, 6, 6))


def test_backbones_for_one_size_are_made_for_the_grid() -> None:
    vectors = torch.randn(2, CHANNELS, 8, 8)
    for name in ("vit_tiny_patch16_224", "resnet10t"):
        model = TokenClassifier(name, 3, CHANNELS, grid=(8, 8), enlarge=8)
        assert model.training
        assert model(vectors).shape == (2, 3)


def test_a_file_makes_timm_fetch_nothing() -> None:
    for asked in ({"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"pretrained_cfg": {"url": "x"}}):
        with pytest.raises(ModelError, match="expected arguments among"):
            build_model("timm", {"name": "resnet10t", "num_classes": 3, **asked})


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_patches_of_any_size_fill_the_grid(patch: int) -> None:
    model = vit(codebook_size=None, grid=(12, 12), patch=patch)
    assert model.patch_embed(torch.randn(1, CHANNELS, 12, 12)).shape[1:3] == (12 // patch, 12 // patch)
    assert model.pos_embed.shape[1] == 1 + (12 // patch) ** 2


def test_rates_decay_by_layer() -> None:
    def scales(model: Any) -> dict[str, tuple[float, float]]:
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
        groups = {
            id(part): (group["lr_scale"], group["weight_decay"])
            for group in optimizer.param_groups
            for part in group["params"]
        }
        return {name: groups[id(part)] for name, part in model.named_parameters()}

    of_masked = scales(masked())
    rates = [
        of_masked[f"{name}.weight"][0]
        for name in ("patch_embed.proj", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1", "mlm_layer.fc")
    ]
    assert rates == [0.125, 0.25, 0.5, 1.0]
    assert of_masked["mlm_layer.bias"][1] == 0
    assert of_masked["cls_token"][1] == 0.1
    of_segmenter = scales(TokenSegmenter(vit(), 3))
    names = ("backbone.patch_embed.proj", "backbone.blocks.0.mlp.fc1", "backbone.blocks.1.mlp.fc1")
    rates = [of_segmenter[f"{name}.weight"][0] for name in (*names, "head.classify")]
    assert rates == [0.125, 0.25, 0.5, 1.0]
    assert of_segmenter["backbone.pos_embed"][1] == 0
    of_backbone = scales(TokenClassifier("resnet10t", 3, CHANNELS, codebook_size=CODES))
    names = ("token_emb.word_embeddings", "enlarge", "backbone.conv1.0", "backbone.layer4.0.conv1")
    rates = [of_backbone[f"{name}.weight"][0] for name in (*names, "backbone.fc")]
    assert rates == [1.0, 0.5**5, 0.5**5, 0.5, 1.0]
    scales_of_embeddings = [
        scale
        for found in (of_masked, of_segmenter, of_backbone)
        for name, (scale, _) in found.items()
        if "token_emb." in name
    ]
    assert len(scales_of_embeddings) == 9  # as in the published runs, whose layers have no embedding
    assert set(scales_of_embeddings) == {1.0}
    of_backbone = scales(TokenClassifier("vit_tiny_patch16_224", 3, CHANNELS, grid=(8, 8)))
    assert of_backbone["backbone.pos_embed"] == (0.5**13, 0)
