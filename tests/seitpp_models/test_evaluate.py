"""Figures of networks against plain counting, and the command on small stores and folders of images."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.stores import Samples, random_codes, write_store
from PIL import Image
from tokenstore_cli.seitpp import cli
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.class_names import match_classes
from seitpp_models.evaluation.figures import (
    ClassifierFigures,
    central_masks,
    evaluate_classifier,
    evaluate_masked,
    evaluate_segmenter,
)
from seitpp_models.evaluation.on_images import (
    CLEAN,
    Condition,
    Decoding,
    ImageEvaluation,
    evaluate_images,
    tokenizer_for,
)
from seitpp_models.evaluation.on_stores import evaluate_store
from seitpp_models.weights.files import TrainedModel, build_model, save_model
from tokenstore import TokenDataset, TokenLoader
from tokenstore.augment import CodebookEmbedding
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.reading import open_store
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import Tokenizer, load_tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of

pytestmark = pytest.mark.usefixtures("without_fsync")

NAMES = ("n01", "n02", "n03", "n04", "n05", "n06")
TEST = TokenizerIdentity("test", "ab" * 32)
K, GRID, SAMPLES = 16, (8, 8), 20
VIT = {"size": "tiny", "grid": GRID, "depth": 1, "channels": 4, "num_classes": len(NAMES)}
MASKED = {
    "codebook_size": K,
    "channels": 4,
    "grid": GRID,
    "width": 32,
    "depth": 1,
    "heads": 2,
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
CODES = random_codes(SAMPLES, (10, 10), K)
LABELS = (np.arange(SAMPLES) % len(NAMES)).astype(np.int32)
MASKS = np.random.default_rng(0).integers(0, 3, (SAMPLES, 40, 40), np.uint8)
MASKS[:, :12] = 255
CODEBOOK = np.random.default_rng(1).normal(size=(K, 4)).astype(np.float32)


def trained(kind: str, arguments: dict[str, Any], **facts: Any) -> TrainedModel:
    torch.manual_seed(0)
    model = build_model(kind, arguments).eval()
    for parameter in model.parameters():  # heads begin as zeros
        nn.init.normal_(parameter, std=0.3)
    return TrainedModel(model, kind, arguments, **({"tokenizer": TEST, "labels": NAMES} | facts))


def saved(network: TrainedModel, path: Path) -> Path:
    save_model(network, path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty samples of six classes with grids of 10x10 and masks of 40x40; a split without either."""
    path = tmp_path_factory.mktemp("stores") / "store.zarr"
    splits = {"train": Samples(CODES), "val": Samples(CODES, LABELS, {"masks": MASKS})}
    write_store(path, splits, K, tokenizer=TEST, class_names=NAMES, codebook=CODEBOOK)
    return path


def batches(*columns: Any, size: int = 7) -> list[tuple[Tensor, ...]]:
    tensors = [torch.from_numpy(np.asarray(column)) for column in columns]
    parts = [tensor.long().split(size) for tensor in tensors]
    return list(zip(*parts, strict=True))


def run(*words: object) -> Result:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(cli, ["evaluate", "--threads", "1", "--workers", "0", *map(str, words)])
    finally:
        torch.set_num_threads(threads)


def said(result: Result) -> str:
    """Return the output of a command that ended well, or its error, in one line."""
    return " ".join(result.output.split())


class Lookup(nn.Module):
    """Logits of a sample are the row that its first code names."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        assert not self.training
        found = self.logits[codes[:, 0, 0]]
        return found if size is None else found[:, :, None, None].expand(-1, -1, *size).clone()


# ---- figures


def test_figures_of_a_classifier_are_those_of_plain_counting() -> None:
    logits = torch.randn((30, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(9, (30,), generator=torch.Generator().manual_seed(1))
    model = Lookup(logits).train()
    codes = torch.arange(30).view(30, 1, 1).expand(30, 4, 4)
    seen: list[int] = []
    figures = evaluate_classifier(model, batches(codes, labels), on_batch=seen.append)
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert figures["top1"] == pytest.approx(float((rank == 0).float().mean()))
    assert figures["top5"] == pytest.approx(float((rank < 5).float().mean()))
    loss = -logits.log_softmax(1).gather(1, labels[:, None]).mean()
    assert figures["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert list(figures) == ["loss", "top1", "top5"]
    assert (seen, model.training) == ([7, 7, 7, 7, 2], True)


def test_few_classes_are_all_in_the_top_five() -> None:
    figures = ClassifierFigures()
    figures.update(torch.tensor([[1.0, 2, 3], [3, 2, 1]]), torch.tensor([2, 2]))
    assert figures.compute()["top1"] == 0.5
    assert figures.compute()["top5"] == 1


def test_logits_of_classes_that_the_data_does_not_have_are_left_out() -> None:
    known = ("a", "b", "c", "d", "e", "f")
    logits = torch.tensor([[9.0, 0, 8, 1, 7, 6], [9, 1, 8, 0, 7, 6]])
    labels = torch.tensor([0, 1])  # d, b: names are matched, not numbers
    kept = ClassifierFigures(match_classes(("d", "b"), known, 6, "here"))
    kept.update(logits, labels)
    assert kept.compute()["top1"] == 1
    assert kept.compute()["loss"] == pytest.approx(float(np.log1p(np.exp(-1))))
    of_all = ClassifierFigures(match_classes(("d", "b"), known, 6, "here", all_classes=True))
    of_all.update(logits, labels)
    assert of_all.compute()["top1"] == 0
    assert of_all.compute()["top5"] == 1


def test_classes_are_matched_by_name_or_refused() -> None:
    assert match_classes(None, NAMES, 6, "here") is None
    assert match_classes(NAMES, NAMES, 6, "here") is None
    assert match_classes(("x",) * 6, None, 6, "here") is None
    with pytest.raises(ModelError, match=r"found x1, x2, x3, x4, x5 and 2 more\. Give the class folders"):
        match_classes(["n02", *(f"x{number}" for number in range(1, 8))], NAMES, 6, "here")
    with pytest.raises(ModelError, match="no names of them, found 2"):
        match_classes(("a", "b"), None, 6, "here")
    with pytest.raises(ModelError, match="7 classes in its file, found 6"):
        match_classes(("n02",), NAMES, 7, "here")


def test_figures_of_a_segmenter_are_those_of_plain_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 4), generator=generator)
    logits[:, 3] = -9  # never predicted, and in no mask
    codes = torch.arange(5).view(5, 1, 1).expand(5, 4, 4)
    masks = torch.randint(3, (5, 6, 6), generator=generator)
    masks[:2, :3] = 255
    figures = evaluate_segmenter(Lookup(logits), batches(codes, masks, size=2), classes=4, ignore_index=255)
    predicted = logits.argmax(1)[:, None, None].expand(5, 6, 6)
    counted = masks != 255
    iou = []
    for label in range(3):
        true, found = (masks == label) & counted, (predicted == label) & counted
        iou.append(float((true & found).sum() / (true | found).sum()))
    assert figures["iou"][:3] == pytest.approx(iou)
    assert np.isnan(figures["iou"][3])
    assert figures["miou"] == pytest.approx(np.mean(iou))
    assert figures["accuracy"] == pytest.approx(float((predicted == masks)[counted].float().mean()))
    losses = -logits.log_softmax(1)[
        torch.arange(5).repeat_interleave(36).view(5, 6, 6)[counted], masks[counted]
    ]
    assert figures["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_an_ignored_class_of_the_network_has_no_part_in_the_mean() -> None:
    codes = torch.zeros((1, 2, 2), dtype=torch.long)
    masks = torch.tensor([[[0, 1], [1, 2]]])
    model = Lookup(torch.tensor([[0.0, 1, 0]]))
    figures = evaluate_segmenter(model, [(codes, masks)], classes=3, ignore_index=0)
    assert np.isnan(figures["iou"][0])
    assert figures["iou"][1:] == pytest.approx([2 / 3, 0])
    assert figures["miou"] == pytest.approx(1 / 3)
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_masks_are_cropped_as_the_codes_under_them() -> None:
    rows = torch.arange(36)[:, None].expand(36, 18)[None]
    assert central_masks(rows, (9, 9), None) is rows
    part = central_masks(rows, (9, 9), (6, 9))
    assert part.shape == (1, 24, 18)
    assert part[0, :, 0].tolist() == list(range(4, 28))  # the smaller half of the margin is above
    with pytest.raises(ModelError, match=r"multiples of the grid's, \(8, 8\), found \(36, 18\)"):
        central_masks(rows, (8, 8), 6)


def test_data_that_the_network_has_no_classes_for_is_refused() -> None:
    codes = np.zeros((3, 2, 2), np.int64)
    for label in (-1, 3):
        with pytest.raises(ModelError, match=f"from 0 to 2, .* found {label}"):
            evaluate_classifier(Lookup(torch.zeros(1, 3)), batches(codes, [0, label, 1]))
    masks = np.full((3, 2, 2), 3)
    with pytest.raises(ModelError, match=r"from 0 to 2, .* found 3"):
        evaluate_segmenter(Lookup(torch.zeros(1, 3)), batches(codes, masks), classes=3, ignore_index=255)
    with pytest.raises(ModelError, match="found none but of 3"):
        evaluate_segmenter(Lookup(torch.zeros(1, 3)), batches(codes, masks), classes=3, ignore_index=3)
    for nothing in (
        lambda: evaluate_classifier(Lookup(torch.zeros(1, 3)), []),
        lambda: evaluate_segmenter(Lookup(torch.zeros(1, 3)), [], classes=3, ignore_index=255),
    ):
        with pytest.raises(ModelError, match="expected samples to evaluate on, found none"):
            nothing()


def test_masked_tokens_are_the_same_whatever_the_batch(store: Path) -> None:
    network = trained("masked", MASKED, labels=None)
    dataset = TokenDataset(store, "val", columns=["tokens"])

    def figures(size: int, seed: int = 0) -> dict[str, float]:
        return evaluate_masked(network.model, TokenLoader(dataset, size), seed=seed, crop=GRID)

    whole = figures(SAMPLES)
    assert figures(3) == pytest.approx(whole, rel=1e-5)
    assert figures(SAMPLES, seed=1) != pytest.approx(whole, rel=1e-5)
    assert whole["loss"] > 1
    assert 0 <= whole["right"] < 0.5
    with pytest.raises(ModelError, match="expected a masked-token model, found Lookup"):
        evaluate_masked(Lookup(torch.zeros(1, 3)), TokenLoader(dataset, 3))


def test_the_crop_and_the_vectors_are_what_the_network_was_trained_on() -> None:
    network = trained("vit", VIT)
    embedding = CodebookEmbedding(CODEBOOK)
    found = evaluate_classifier(network.model, batches(CODES, LABELS), embedding=embedding, crop=GRID)
    central = torch.from_numpy(CODES.astype(np.int64))[:, 1:9, 1:9]
    with torch.no_grad():
        logits = network.model(embedding(central))
    assert found["top1"] == pytest.approx(float((logits.argmax(1).numpy() == LABELS).mean()))
    assert found["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, torch.from_numpy(LABELS).long())), rel=1e-4
    )


def evaluate_part(rank: int, meeting_place: Path, store: Path, logits: Tensor, out: Path) -> None:
    """Evaluate as one of two processes."""
    torch.set_num_threads(1)
    meeting = f"file://{meeting_place}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    loader = TokenLoader(TokenDataset(store, "val"), 3, num_threads=0)
    figures = evaluate_classifier(Lookup(logits), loader)
    (out / f"{rank}.json").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(os.name != "posix", reason="processes are forked")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_agree_on_the_figures_of_all_samples(store: Path, tmp_path: Path) -> None:
    logits = torch.randn((K, len(NAMES)), generator=torch.Generator().manual_seed(0))
    fork = multiprocessing.get_context("fork")
    meeting_place = tmp_path / "meeting"
    processes = [
        fork.Process(target=evaluate_part, args=(rank, meeting_place, store, logits, tmp_path))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    expected = evaluate_classifier(Lookup(logits), batches(CODES, LABELS))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected, rel=1e-5)


# ---- networks and codes


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
    with pytest.raises(ModelError, match=r"grids \(H, W\) of one codebook's codes, found \(2, 8, 8\)"):
        shape.crop((2, 8, 8), "here")
    with pytest.raises(ModelError, match=r"whole patches of 2, found \(7, 7\)"):
        shape.crop((8, 8), "here", (7, 7))
    for codebook, found in ((None, "none"), (CODEBOOK[:, :3], r"shape \(16, 3\)"), (CODEBOOK[None], "shape")):
        with pytest.raises(ModelError, match=f"of 4 channels, .* found {found}"):
            shape.embedding(K, codebook, "here")
    coded = replace(shape, codebook_size=K)
    assert coded.embedding(K, None, "here") is None
    with pytest.raises(ModelError, match=r"codes from 0 to 15, .* found a codebook of 17"):
        coded.embedding(17, None, "here")


# ---- the command on a store


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


# ---- images


def write_photos(folder: Path, names: tuple[str, ...], count: int = 2) -> Path:
    rng = np.random.default_rng(3)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
            coarse.resize((80, 70), Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of three of the six classes."""
    return write_photos(tmp_path_factory.mktemp("images") / "photos", NAMES[1:4])


@pytest.fixture(scope="module")
def photo_model() -> TrainedModel:
    """Return a network of the default tokenizer's codes."""
    return trained("vit", VIT | {"channels": 32}, tokenizer=identity_of(default_tokenizer(), "default"))


@functools.cache
def default_tokenizer() -> Tokenizer:
    return load_tokenizer("default")


def evaluated(
    network: TrainedModel, folder: Path, *conditions: Condition, all_classes: bool = False, **decoding: Any
) -> ImageEvaluation:
    encoder = Encoder(default_tokenizer(), ImageOptions(64))
    return evaluate_images(
        network,
        open_source(folder),
        "train",
        encoder,
        [CLEAN, *conditions],
        all_classes=all_classes,
        decoding=Decoding(**decoding),
    )


def test_images_are_classified_by_the_tokens_they_become(photos: Path, photo_model: TrainedModel) -> None:
    tokenizer = default_tokenizer()
    images = []
    for name in NAMES[1:4]:
        for number in range(2):
            with Image.open(photos / name / f"{number}.png") as image:
                images.append(np.array(image.resize((64, 64), Image.Resampling.BICUBIC)))
    codes = tokenizer.encode(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    labels = torch.tensor([1, 1, 2, 2, 3, 3])
    with torch.no_grad():
        logits = photo_model.model(CodebookEmbedding(tokenizer.codebook)(codes))
    found = evaluated(photo_model, photos).figures[CLEAN]
    assert found["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits[:, 1:4], labels - 1)), rel=1e-4
    )
    assert found["top1"] == pytest.approx(float((logits[:, 1:4].argmax(1) + 1 == labels).float().mean()))
    assert found["top5"] == 1
    of_all = evaluated(photo_model, photos, all_classes=True)
    assert of_all.figures[CLEAN]["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )
    assert (of_all.samples, of_all.skipped, of_all.crop) == (6, [], GRID)


def test_images_give_the_figures_of_the_store_that_they_become(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    options = ConvertOptions(image_size=64, workers=0)
    convert_source(
        open_source(photos), tmp_path / "photos.zarr", tokenizer=default_tokenizer(), options=options
    )
    figures = evaluate_store(photo_model, open_store(tmp_path / "photos.zarr"), "train")
    assert figures == pytest.approx(evaluated(photo_model, photos).figures[CLEAN], rel=1e-5)


def test_corruptions_do_not_depend_on_batches_and_threads(photos: Path, photo_model: TrainedModel) -> None:
    noise = [Condition("gaussian_noise", severity) for severity in (1, 5)]
    whole = evaluated(photo_model, photos, *noise, batch_size=6, threads=2).figures
    parts = evaluated(photo_model, photos, *noise, batch_size=4).figures
    assert list(whole) == [CLEAN, *noise]
    for condition in whole:
        assert parts[condition] == pytest.approx(whole[condition], rel=1e-5)
    assert len({figures["loss"] for figures in whole.values()}) == 3
    other = evaluated(photo_model, photos, *noise, seed=1).figures
    assert other[CLEAN] == pytest.approx(whole[CLEAN])
    assert other[noise[0]]["loss"] != pytest.approx(whole[noise[0]]["loss"])


def test_images_that_cannot_be_read_are_told_and_count_nowhere(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    folder = write_photos(tmp_path / "photos", NAMES[1:4])
    (folder / NAMES[2] / "0.png").write_bytes(b"no image")
    noise = Condition("gaussian_noise", 3)
    found = evaluated(photo_model, folder, noise)
    assert found.samples == 5
    assert [name for name, _ in found.skipped] == [f"{NAMES[2]}/0.png"]
    (folder / NAMES[2] / "0.png").write_bytes((photos / NAMES[2] / "0.png").read_bytes())
    assert evaluated(photo_model, folder, noise).samples == 6
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ModelError, match="none of its images can be read"):
        evaluated(photo_model, folder)


def test_the_command_measures_a_classifier_on_images(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    file = saved(photo_model, tmp_path / "model.safetensors")
    words = ["--image-size", 64, "--workers", 0, "--threads", 1]
    noise = ["--corruption", "contrast", "--corruption", "pixelate", "--severity", 5, "--severity", 2]
    done = run(file, "--images", photos, *words, *noise)
    assert done.exit_code == 0, done.output
    assert "6 images of split train; 64x64 pixels are 8x8 codes of conv-vq-8x-2k" in said(done)
    found = json.loads(run(file, "--images", photos, *words, *noise, "--json").stdout)
    rows = [(row["corruption"], row["severity"]) for row in found["results"]]
    assert rows == [(None, 0), ("contrast", 2), ("contrast", 5), ("pixelate", 2), ("pixelate", 5)]
    for word in ("corruption", "severity", "none", "contrast", "pixelate", "top-5"):
        assert word in done.output
    expected = evaluated(photo_model, photos, Condition("pixelate", 5))
    for row, figures in zip(found["results"][::4], expected.figures.values(), strict=True):
        assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-4)
    assert (found["samples"], found["classes"], found["grid"], found["crop"]) == (6, 3, [8, 8], [8, 8])


def test_every_corruption_can_be_asked_for_at_once() -> None:
    from seitpp_models.evaluation.evaluating import _conditions

    assert len(_conditions(["all"], [])) == 1 + 13 * 5
    assert len(_conditions(["contrast", "contrast"], [3, 3])) == 2
    assert _conditions([], []) == [CLEAN]


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda folder: write_photos(folder, ("n02", "cat")), "found cat. Give the class folders"),
        (lambda folder: write_photos(folder, (".",)), "found images without labels"),
        (
            lambda folder: write_photos(folder, ("test/n02", "train/n02")),
            "no split 'val'; it has train, test",
        ),
        (lambda folder: np.save(folder.with_suffix(".npy"), CODES), "expected images, found ready codes"),
    ],
)
def test_images_whose_classes_are_not_known_are_refused(
    prepare: Callable[[Path], object], expected: str, photo_model: TrainedModel, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    prepare(folder)
    place = folder if folder.exists() else folder.with_suffix(".npy")
    file = saved(photo_model, tmp_path / "model.safetensors")
    refused = run(file, "--images", place, "--image-size", 64, "--workers", 0)
    assert refused.exit_code == 1
    assert expected in said(refused)


def test_another_tokenizer_and_another_kind_of_network_are_refused(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    file = saved(photo_model, tmp_path / "model.safetensors")
    jpeg = run(file, "--images", photos, "--tokenizer", "dct")
    assert jpeg.exit_code == 1
    assert "the tokenizer dct: expected codes of conv-vq-8x-2k" in said(jpeg)
    identity = photo_model.tokenizer
    with pytest.raises(ModelError, match=r"expected codes of conv-vq-8x-2k \(bbbbbbbbbbbb\)"):
        tokenizer_for(replace(photo_model, tokenizer=replace(identity, fingerprint="b" * 64)))
    unknown = replace(photo_model, tokenizer=TokenizerIdentity("mine", "b" * 64))
    with pytest.raises(Exception, match="The network's file names it 'mine'; name the tokenizer by tok"):
        tokenizer_for(unknown)
    pruned = replace(photo_model, tokenizer=replace(identity, kept_codes=((3, 5, 8),)))
    assert tokenizer_for(pruned).codebook_sizes == (3,)
    masked = saved(trained("masked", MASKED, tokenizer=identity), tmp_path / "masked.safetensors")
    refused = run(masked, "--images", photos)
    assert "expected a classifier for images, found a network of kind 'masked'" in said(refused)
