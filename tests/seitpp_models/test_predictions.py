"""A classifier's figures by class, its confusions, and the file of its predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
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
    VIT,
    run,
    said,
    saved,
    trained,
    write_evaluated,
)
from sklearn.metrics import classification_report, confusion_matrix

from seitpp_models.errors import ModelError
from seitpp_models.evaluation import ClassFigures, Evaluation, evaluate
from seitpp_models.evaluation.figures import central_masks, network_input
from tokenstore.augment import CodebookEmbedding
from tokenstore.errors import ArgumentError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluated(tmp_path_factory.mktemp("stores") / "store.zarr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(trained("vit", VIT), tmp_path_factory.mktemp("models") / "model.safetensors")


@pytest.fixture(scope="module")
def evaluation(store: Path, model: Path) -> Evaluation:
    return evaluate(model, store=store, by_class=True, workers=0, threads=1, batch_size=7)


def test_predictions_are_those_of_the_network(evaluation: Evaluation) -> None:
    codes = torch.from_numpy(CODES.astype(np.int64))
    with torch.no_grad():
        logits = trained("vit", VIT).model(network_input(codes, GRID, CodebookEmbedding(CODEBOOK)))
    (found,) = evaluation.predictions.values()
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    assert found.labels.tolist() == LABELS.tolist()
    assert found.rows.tolist() == list(range(SAMPLES))
    assert found.probabilities == pytest.approx(logits.softmax(1).amax(1).numpy(), rel=1e-4)
    assert float((found.labels == found.predicted).mean()) == pytest.approx(evaluation.figures["top1"])


def test_figures_by_class_and_confusions_are_those_of_scikit_learn(evaluation: Evaluation) -> None:
    (found,) = evaluation.predictions.values()
    classes = list(range(len(NAMES)))
    assert np.array_equal(
        evaluation.confusion, confusion_matrix(found.labels, found.predicted, labels=classes)
    )
    report = classification_report(
        found.labels, found.predicted, labels=classes, target_names=NAMES, output_dict=True, zero_division=0
    )
    assert all(isinstance(figures, ClassFigures) for figures in evaluation.by_class)
    for figures in evaluation.by_class:
        expected = report[str(figures.name)]
        assert (figures.samples, figures.right) == (
            expected["support"],
            evaluation.confusion[figures.label, figures.label],
        )
        shares = np.nan_to_num([figures.precision, figures.recall, figures.f1])
        assert shares == pytest.approx([expected["precision"], expected["recall"], expected["f1-score"]])


def test_the_command_prints_classes_and_writes_files(store: Path, model: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("confusion.csv", "predictions.csv", "predictions.parquet")]
    words = [model, "--store", store, "--confusion", files[0], "--predictions"]
    done = run(*words, files[1], "--by-class")
    assert done.exit_code == 0, done.output
    for part in ("class samples top-1 precision F1", "n06", "taken for"):
        assert part in said(done)
    document = json.loads(run(*words, files[2], "--json").stdout)
    expected = evaluate(model, store=store, by_class=True, workers=0, threads=1)
    assert [entry["right"] for entry in document["by_class"]] == [each.right for each in expected.by_class]
    with files[0].open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["label", *NAMES]
    assert [[int(count) for count in line[1:]] for line in lines] == expected.confusion.tolist()
    (found,) = expected.predictions.values()
    with files[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(files[2]).to_pylist()
    assert (
        [row["source"] for row in rows]
        == [row["source"] for row in table]
        == [f"val/{n}.png" for n in range(SAMPLES)]
    )
    assert (
        [int(row["predicted"]) for row in rows]
        == [row["predicted"] for row in table]
        == found.predicted.tolist()
    )
    assert rows[0].keys() == table[0].keys()
    assert {row["class"] for row in table} == set(NAMES)


def test_a_segmenters_figures_are_of_pixels(store: Path, tmp_path: Path) -> None:
    names = ("sky", "road", "tree", "sea")
    segmenter = trained("segmenter", {"backbone": VIT, "classes": 4}, labels=names)
    files = [tmp_path / name for name in ("confusion.csv", "maps.npy")]
    settings: dict[str, Any] = {"store": store, "workers": 0, "threads": 1, "batch_size": 7}
    measured = evaluate(segmenter, **settings, confusion=files[0], predictions=files[1])
    codes = torch.from_numpy(CODES.astype(np.int64))
    masks = central_masks(torch.from_numpy(MASKS), CODES.shape[1:], GRID).numpy()
    with torch.no_grad():
        seen = network_input(codes, GRID, CodebookEmbedding(CODEBOOK))
        expected = segmenter.model(seen, masks.shape[1:]).argmax(1).numpy()
    maps = np.load(files[1])
    assert (maps.dtype, maps.tolist()) == (np.uint8, expected.tolist())
    counted = masks != 255
    pixels: list[Any] = [masks[counted], expected[counted]]
    table = confusion_matrix(*pixels, labels=range(4))
    assert measured.confusion.tolist() == table.tolist()
    report = classification_report(*pixels, labels=range(4), output_dict=True, zero_division=np.nan)
    for label, each in enumerate(measured.by_class):
        assert (each.name, each.samples) == (names[label], report[str(label)]["support"])
        assert each.recall == pytest.approx(report[str(label)]["recall"], nan_ok=True)
        assert each.precision == pytest.approx(report[str(label)]["precision"], nan_ok=True)
    with files[0].open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["label", *names]
    assert [[int(count) for count in line[1:]] for line in lines] == table.tolist()


def test_a_segmenters_classes_are_printed_and_other_files_refused(store: Path, tmp_path: Path) -> None:
    segmenter = trained("segmenter", {"backbone": VIT, "classes": 4})
    done = run(saved(segmenter, tmp_path / "segmenter.safetensors"), "--store", store, "--by-class")
    assert done.exit_code == 0, done.output
    assert "class pixels recall precision F1" in said(done)
    assert "taken for" in said(done)
    for name, network in (("maps.csv", segmenter), ("maps.npy", trained("vit", VIT))):
        with pytest.raises(ArgumentError, match=r"expected a name ending in .* for such a network"):
            evaluate(network, store=store, predictions=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["segmenter.safetensors"]


def test_what_has_no_effect_or_no_place_is_refused(store: Path, model: Path, tmp_path: Path) -> None:
    masked = trained("masked", MASKED)
    for setting in (
        {"by_class": True},
        {"confusion": tmp_path / "a.csv"},
        {"predictions": tmp_path / "a.csv"},
    ):
        (name,) = setting
        with pytest.raises(ArgumentError, match=rf"{name}=\.\.\. goes with a classifier"):
            evaluate(masked, store=store, workers=0, threads=1, **setting)  # type: ignore[arg-type]
    for words in (("--confusion", "a.parquet"), ("--predictions", "a.txt"), ("--predictions", "gone/a.csv")):
        refused = run(model, "--store", store, words[0], tmp_path / words[1])
        assert refused.exit_code == 2
        assert f"{words[0]} {tmp_path / words[1]}: expected a name ending in .csv" in said(refused)
    with pytest.raises(ModelError, match="expected kept predictions, found none"):
        _ = evaluate(model, store=store, workers=0, threads=1).confusion
