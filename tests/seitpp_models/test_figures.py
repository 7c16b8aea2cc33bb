"""The figures of networks against plain counting."""

from __future__ import annotations

import json
import multiprocessing
import os
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
    NAMES,
    SAMPLES,
    VIT,
    K,
    Lookup,
    batches,
    trained,
    write_evaluated,
)
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
from tokenstore import TokenDataset, TokenLoader
from tokenstore.augment import CodebookEmbedding


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluated(tmp_path_factory.mktemp("stores") / "store.zarr")


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
    assert set(figures.compute()) == {"loss", "top1"}, "a top-5 of three classes would say nothing"


@pytest.mark.parametrize(("classes", "names"), [(5, ["loss", "top1"]), (6, ["loss", "top1", "top5"])])
def test_top_five_is_a_figure_of_more_than_five_classes(classes: int, names: list[str]) -> None:
    figures = ClassifierFigures()
    figures.update(torch.zeros(3, classes), torch.tensor([0, 1, 2]))
    assert sorted(figures.compute()) == names


def test_logits_of_classes_that_the_data_does_not_have_are_left_out() -> None:
    known = ("a", "b", "c", "d", "e", "f")
    logits = torch.tensor([[9.0, 0, 8, 1, 7, 6], [9, 1, 8, 0, 7, 6]])
    labels = torch.tensor([0, 1])  # d, b: names are matched, not numbers
    kept = ClassifierFigures(match_classes(("d", "b"), known, 6, "here"))
    kept.update(logits, labels)
    assert kept.compute()["top1"] == 1
    assert kept.compute()["loss"] == pytest.approx(float(np.log1p(np.exp(-1))))
    assert "top5" not in kept.compute(), "two classes count"
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
