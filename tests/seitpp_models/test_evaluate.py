"""The sizes of networks, and the command that measures them on stores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks_to_evaluate import (
    CODEBOOK,
    CODES,
    GRID,
    LABELS,
    MASKED,
    MASKS,
    NAMES,
    SAMPLES,
    TEST,
    VIT,
    K,
    batches,
    run,
    said,
    saved,
    trained,
    write_evaluated,
)
from helpers.stores import Samples, write_store

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.figures import (
    evaluate_classifier,
    evaluate_segmenter,
)
from seitpp_models.networks.token_form import TokenForm
from tokenstore.augment import CodebookEmbedding
from tokenstore.format.manifest import TokenizerIdentity


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluated(tmp_path_factory.mktemp("stores") / "store.zarr")


def test_the_sizes_of_every_kind_of_network_are_told() -> None:
    vit = trained("vit", VIT).shape
    assert (vit.grid, vit.patch, vit.codebook_size, vit.channels, vit.classes) == (GRID, 2, None, 4, 6)
    coded = trained("vit", VIT | {"codebook_size": K}).shape
    assert (coded.codebook_size, coded.channels) == (K, 4)
    masked = trained("masked", MASKED).shape
    assert (masked.grid, masked.codebook_size, masked.classes) == (GRID, K, K)
    segmenter = trained("segmenter", {"backbone": VIT, "classes": 3}).shape
    assert (segmenter.grid, segmenter.codebook_size, segmenter.classes) == (GRID, None, 3)
    convnext = trained("timm", {"name": "test_convnext", "num_classes": 6, "channels": 4}).shape
    assert (convnext.grid, convnext.patch, convnext.channels, convnext.classes) == (None, 1, 4, 6)
    assert convnext.crop((5, 7), "here") == (5, 7)


def test_codes_that_do_not_fit_the_network_are_refused() -> None:
    shape = trained("vit", VIT).shape
    assert shape.crop((10, 9), "here") == GRID
    with pytest.raises(ModelError, match=r"at least \(8, 8\), which the network sees, found \(8, 6\)"):
        shape.crop((8, 6), "here")
    with pytest.raises(ModelError, match=r"grids \(H, W\) of positions, found \(2, 8, 8\)"):
        shape.crop((2, 8, 8), "here")
    with pytest.raises(ModelError, match=r"whole patches of 2, found \(7, 7\)"):
        shape.crop((8, 8), "here", (7, 7))
    with pytest.raises(ModelError, match=r"here: expected the vectors of the codes.* found none"):
        shape.embedding(TokenForm("here", GRID, (K,)))
    with pytest.raises(ModelError, match=r"of 4 channels, .* found vectors of 3"):
        shape.embedding(TokenForm("here", GRID, (K,), CODEBOOK[:, :3]))
    coded = replace(shape, codebook_size=K)
    assert coded.embedding(TokenForm("here", GRID, (K,))) is None
    with pytest.raises(ModelError, match=r"codes from 0 to 15, .* found a codebook of 17"):
        coded.arranged(TokenForm("here", GRID, (17,)))
    with pytest.raises(ModelError, match=r"expected 1 codes a position, .* found 2"):
        coded.arranged(TokenForm("here", GRID, (K, K)))


def test_the_command_measures_a_classifier_on_a_store(store: Path, tmp_path: Path) -> None:
    network = trained("vit", VIT)
    file = saved(network, tmp_path / "model.safetensors")
    done = run(file, "--store", store, "--batch-size", 6, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "20 samples of split val" in said(done)
    assert "loss top-1 top-5" in said(done)
    expected = evaluate_classifier(
        network.model, batches(CODES, LABELS), embedding=CodebookEmbedding(CODEBOOK), crop=GRID
    )
    found = json.loads(run(file, "--store", store, "--json", "--batch-size", 6, "--workers", 1).stdout)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert (found["kind"], found["split"], found["samples"]) == ("vit", "val", SAMPLES)
    whole = run(file, "--store", store, "--crop", 10, "--json")
    assert whole.exit_code == 0, whole.output
    assert json.loads(whole.stdout)["loss"] != pytest.approx(expected["loss"], rel=1e-4)


def test_the_command_measures_other_kinds_of_networks(store: Path, tmp_path: Path) -> None:
    timm = {"name": "test_convnext", "num_classes": 6, "channels": 4, "codebook_size": K}
    done = run(saved(trained("timm", timm), tmp_path / "timm.safetensors"), "--store", store)
    assert done.exit_code == 0, done.output
    segmenter = trained("segmenter", {"backbone": VIT, "classes": 4}, labels=("sky", "road", "tree", "sea"))
    file = saved(segmenter, tmp_path / "segmenter.safetensors")
    done = run(file, "--store", store)
    assert done.exit_code == 0, done.output
    assert "mIoU" in done.output
    assert "road" in done.output
    found = json.loads(run(file, "--store", store, "--json").stdout)
    expected = evaluate_segmenter(
        segmenter.model,
        batches(CODES, MASKS),
        classes=4,
        ignore_index=255,
        embedding=CodebookEmbedding(CODEBOOK),
        crop=GRID,
    )
    for name in ("loss", "miou", "accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    assert [share is None for share in found["iou"]] == np.isnan(expected["iou"]).tolist()
    assert run(file, "--store", store, "--ignore-index", 9).exit_code == 1
    masked = saved(trained("masked", MASKED, labels=None), tmp_path / "masked.safetensors")
    done = run(masked, "--store", store, "--split", "train", "--mask-ratio", 0.6, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["right"] <= 1


def test_a_store_of_some_of_the_classes_is_matched_by_their_names(tmp_path: Path) -> None:
    network = trained("vit", VIT | {"codebook_size": K, "grid": (10, 10)})
    file, store = saved(network, tmp_path / "model.safetensors"), tmp_path / "store.zarr"
    few = np.flatnonzero(LABELS >= 4)
    names = ("n06", "n05")  # in an order of their own
    samples = Samples(CODES[few], np.array([names.index(NAMES[label]) for label in LABELS[few]], np.int32))
    write_store(store, {"test": samples}, K, tokenizer=TEST, class_names=names)
    with torch.no_grad():
        logits = network.model(torch.from_numpy(CODES[few].astype(np.int64))).numpy()
    found = []
    for words in ((), ("--all-classes",)):
        done = run(file, "--store", store, "--json", *words)
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.stdout)["top1"])
    assert found[0] == pytest.approx(float((logits[:, 4:].argmax(1) + 4 == LABELS[few]).mean()))
    assert found[1] == pytest.approx(float((logits.argmax(1) == LABELS[few]).mean()))


def test_what_does_not_fit_is_refused_in_one_line(store: Path, tmp_path: Path) -> None:
    file = saved(trained("vit", VIT), tmp_path / "model.safetensors")
    other = saved(
        trained("vit", VIT, tokenizer=TokenizerIdentity("other", "cd" * 32)), tmp_path / "other.safetensors"
    )
    fewer = saved(trained("vit", VIT | {"codebook_size": K - 1}), tmp_path / "fewer.safetensors")
    classes = saved(
        trained("vit", VIT | {"num_classes": 4}, labels=NAMES[:4]), tmp_path / "classes.safetensors"
    )
    segmenter = saved(trained("segmenter", {"backbone": VIT, "classes": 2}), tmp_path / "seg.safetensors")
    large = saved(trained("vit", VIT | {"grid": (12, 12)}), tmp_path / "large.safetensors")
    broken = trained("vit", VIT)
    next(broken.model.parameters()).data.fill_(torch.nan)
    not_finite = saved(broken, tmp_path / "nan.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-100])
    for model, split, expected in (
        (file, "test", "no split 'test'; it has train, val; choose by --split"),
        (file, "train", "split train: expected labels beside the codes, found tokens"),
        (segmenter, "train", "split train: expected masks beside the codes, found tokens"),
        (segmenter, "val", "expected labels from 0 to 1"),
        (other, "val", "expected codes of other (cdcdcdcdcdcd)"),
        (fewer, "val", "expected codes from 0 to 14, which the network knows, found a codebook of 16"),
        (classes, "val", "found n05, n06. Give the class folders"),
        (large, "val", "grids of at least (12, 12), which the network sees, found (10, 10)"),
        (not_finite, "val", "expected finite numbers, found others"),
        (damaged, "val", "expected a network of save_model"),
    ):
        refused = run(model, "--store", store, "--split", split)
        assert refused.exit_code == 1, expected
        assert expected in said(refused)
        assert said(refused).startswith("Error: ")
    flat = tmp_path / "flat.zarr"
    write_store(
        flat, {"val": Samples(CODES, LABELS, {"masks": LABELS})}, K, tokenizer=TEST, codebook=CODEBOOK
    )
    assert "expected masks to be label maps (H, W) of integers, found () int32" in said(
        run(segmenter, "--store", flat)
    )
    assert "expected labels from 0 to 3, of the 4 classes" in said(run(classes, "--store", flat))


def test_options_that_would_say_nothing_are_refused(store: Path, tmp_path: Path) -> None:
    file = saved(trained("vit", VIT), tmp_path / "model.safetensors")
    masked = saved(trained("masked", MASKED), tmp_path / "masked.safetensors")
    for words, expected in (
        ((file,), "expected --store or --images"),
        ((file, "--store", store, "--images", tmp_path), "expected --store or --images"),
        ((file, "--store", store, "--corruption", "contrast"), "--corruption goes with --images"),
        ((file, "--store", store, "--tokenizer", "default"), "--tokenizer goes with --images"),
        ((file, "--images", tmp_path, "--severity", 3), "--severity goes with --corruption"),
        ((file, "--images", tmp_path, "--corruption", "snow"), "'snow' is not one of"),
        ((file, "--images", tmp_path, "--corruption", "all", "--severity", 6), "6 is not in the range"),
        ((file, "--store", store, "--ignore-index", 0), "--ignore-index goes with a segmenter"),
        ((file, "--store", store, "--mask-ratio", 0.5), "--mask-ratio goes with a masked-token model"),
        ((masked, "--store", store, "--all-classes"), "--all-classes goes with a classifier"),
        ((masked, "--store", store, "--crop", 8), "--crop goes with a network"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2, expected
        assert expected in said(refused)
