"""The report of runs has the figures of their logs and of their evaluations."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers.browser import chromium, visit
from helpers.networks_to_evaluate import LABELS, MASKED, NAMES, SAMPLES, VIT, saved, trained, write_evaluated
from tokenstore_cli.seitpp import cli

from seitpp_models.errors import ModelError
from seitpp_models.evaluation import evaluate
from seitpp_models.evaluation.run_files import EVALUATION
from seitpp_models.reporting import report
from seitpp_models.reporting.predictions import calibration, prediction_figures
from seitpp_models.reporting.runs import POINTS, run_names
from tokenstore.errors import ArgumentError

HOSTILE = "</script><b>x"


def run_folder(folder: Path, kind: str, arguments: dict[str, Any], steps: int = 1000) -> Path:
    """Write the folder of a run: its network, log and evaluations."""
    folder.mkdir(parents=True)
    saved(trained(kind, arguments), folder / "model.safetensors")
    lines = [
        {"step": step, "loss": 1 / step, "right": 0.5, "seconds": step / 10} for step in range(1, steps + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "evaluations.jsonl").write_text('{"step": 500, "loss": 1.5, "top1": 0.25}\n{"step": 1000, "lo')
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluated(tmp_path_factory.mktemp("stores") / "store.zarr")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Path]:
    """Write an evaluated run and one that is not."""
    folder = tmp_path_factory.mktemp("runs")
    first = run_folder(folder / HOSTILE[2:8] / "a", "vit", VIT)
    second = run_folder(folder / "b" / "a", "vit", VIT, 30)
    evaluate(first, store=store, workers=0, threads=1)
    return first, second


def test_the_figures_are_those_of_evaluate(runs: tuple[Path, Path], store: Path) -> None:
    expected = evaluate(runs[0] / "model.safetensors", store=store, workers=0, threads=1, by_class=True)
    first, second = report(*runs).runs
    assert first.evaluation is not None
    plain = json.loads(json.dumps(expected.to_dict()))
    assert {name: first.evaluation[name] for name in plain} == plain
    assert first.predictions is not None
    assert first.predictions.confusion is not None
    assert first.predictions.confusion.tolist() == expected.confusion.tolist()
    assert first.predictions.top1 == pytest.approx(expected.figures["top1"])
    (predictions,) = expected.predictions.values()
    assert first.predictions.confused == predictions.confused(30)
    assert second.evaluation is None
    assert second.predictions is None
    table = pq.ParquetFile(runs[0] / "predictions.parquet").read()
    assert table["label"].to_pylist() == LABELS.tolist()


def test_curves_are_means_of_steps(runs: tuple[Path, Path]) -> None:
    first, second = report(*runs).runs
    loss = first.curves["loss"]
    assert len(loss) <= POINTS
    assert loss[0] == (3, pytest.approx((1 + 1 / 2 + 1 / 3) / 3))
    assert loss[-1] == (1000, 1 / 1000)
    assert second.curves["loss"] == [(step, 1 / step) for step in range(1, 31)]
    assert first.evaluations == [{"step": 500, "loss": 1.5, "top1": 0.25}]
    assert (first.steps, first.seconds) == (1000, 100.0)


def test_the_page_loads_nothing_and_shows_every_part(runs: tuple[Path, Path], tmp_path: Path) -> None:
    made = report(*runs, out=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert made.nbytes == len(text.encode())
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", text)
    for part in (
        "Loss in training",
        "top-1 on held-out samples",
        "Reliability",
        "Confusion matrix",
        "Most confused",
    ):
        assert part in text
    assert all(f"<td>{name}</td>" in text for name in NAMES)
    assert "seitpp evaluate" in text  # of the run that was not


def test_predictions_that_were_written_as_csv_give_the_same_figures(
    runs: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path / "run", "vit", VIT, 30)
    (folder / "model.safetensors").write_bytes((runs[0] / "model.safetensors").read_bytes())
    evaluate(folder, store=store, workers=0, threads=1, predictions=tmp_path / "predictions.csv")
    first, second = (each.predictions for each in report(runs[0], folder).runs)
    assert first is not None
    assert second is not None
    assert second.confusion is not None
    assert first.confusion is not None
    assert second.confusion.tolist() == first.confusion.tolist()
    assert second.calibration.confidence == pytest.approx(first.calibration.confidence)


def test_of_corrupted_images_predictions_on_those_as_they_are_count(tmp_path: Path) -> None:
    rows = ["a,,,0,0,1"] * 60_000 + ["a,blur,1,0,1,0.5"]
    text = "source,corruption,severity,label,predicted,probability\n"
    (tmp_path / "predictions.csv").write_text(text + "\n".join(rows) + "\n")
    assert prediction_figures(tmp_path / "predictions.csv", 2).samples == 60_000


@pytest.mark.parametrize("text", ["", "label,predicted\n0,0\n", "label,predicted,probability\na,b,c\n"])
def test_another_csv_file_is_no_file_of_predictions(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ModelError, match="expected predictions of a classifier"):
        prediction_figures(tmp_path / "other.csv", 2)


def test_predictions_of_another_evaluation_are_not_shown(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "vit", VIT)
    for name in (EVALUATION, "predictions.parquet"):
        (folder / name).write_bytes((runs[0] / name).read_bytes())
    values = json.loads((folder / EVALUATION).read_text())
    values["predictions"]["file"] = str(tmp_path / "moved" / "predictions.parquet")
    (folder / EVALUATION).write_text(json.dumps(values))
    assert report(folder).runs[0].predictions is not None  # a folder that was moved
    with (folder / "predictions.parquet").open("ab") as file:
        file.write(b"x")
    (found,) = report(folder).runs
    assert found.predictions is None
    assert "another evaluation" in found.reasons["predictions"]


def test_a_segmenter_has_iou_and_a_reason_where_pictures_cannot_be_drawn(store: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "segmenter", {"backbone": VIT, "classes": 4})
    evaluate(folder, store=store, workers=0, threads=1)
    (found,) = report(folder).runs
    assert found.evaluation is not None
    assert len(found.evaluation["iou"]) == 4
    assert "tokenizer" in found.reasons["pictures"]
    assert np.load(folder / "predictions.npy").shape[0] == SAMPLES
    assert "IoU of each class" in report(folder).html()


def test_a_masked_model_has_figures_and_no_predictions(store: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "masked", MASKED)
    evaluate(folder, store=store, workers=0, threads=1)
    (found,) = report(folder).runs
    assert found.evaluation is not None
    assert found.evaluation["loss"] > 0
    assert sorted(path.name for path in folder.glob("predictions*")) == []
    assert "loss" in report(folder).html()


def test_calibration_is_counted_by_bins() -> None:
    probability = np.array([0.05, 0.05, 0.5, 0.99, 1.0, 1.0])
    right = np.array([True, False, True, True, True, False])
    found = calibration(probability, right)
    assert found.samples == [2, 1, 3]
    assert found.confidence == pytest.approx([0.05, 0.5, 2.99 / 3])
    assert found.accuracy == pytest.approx([0.5, 1, 2 / 3])
    assert found.error == pytest.approx((2 * 0.45 + 0.5 + 3 * (2.99 / 3 - 2 / 3)) / 6)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert run_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert run_names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]
    assert len(set(run_names([tmp_path, tmp_path]))) == 2


_WITHOUT_PLACE = '{"schema_version": 1, "samples": 3, "split": "val"}'
_LONG = "1" + 400 * "0"  # a whole number that is no float
_ODD_CLASSES = (
    '{"schema_version": 1, "samples": 3, "split": "val", "store": "a", "by_class": [{"label": "a"}]}'
)


@pytest.mark.parametrize(
    ("part", "name", "text"),
    [
        ("log", "log.jsonl", "no json\n"),
        ("log", "log.jsonl", "[1]\n"),
        ("log", "log.jsonl", '{"step": 1, "seconds": "one"}\n'),
        ("log", "log.jsonl", f'{{"step": 1, "loss": {_LONG}}}\n'),
        ("evaluations", "evaluations.jsonl", "[1]\n"),
        ("evaluations", "evaluations.jsonl", f'{{"step": 1, "top1": {_LONG}}}\n'),
        ("settings", "config.yaml", "a: [1, 2]\n"),
        ("settings", "config.yaml", "- a\n"),
        ("evaluation", EVALUATION, "{}"),
        ("evaluation", EVALUATION, "[" * 100_000),
        ("evaluation", EVALUATION, _WITHOUT_PLACE),
        ("evaluation", EVALUATION, _ODD_CLASSES),
        ("evaluation", EVALUATION, f'{_WITHOUT_PLACE[:-1]}, "store": "a", "top1": {_LONG}}}'),
    ],
)
def test_a_damaged_file_is_named_and_all_else_is_shown(
    runs: tuple[Path, Path], tmp_path: Path, part: str, name: str, text: str
) -> None:
    folder = run_folder(tmp_path / "run", "vit", VIT, 3)
    (folder / name).write_text(text)
    made = report(folder, runs[0], out=tmp_path / "page.html")
    damaged, sound = made.runs
    assert list(damaged.problems) == [part]
    assert name in damaged.problems[part]
    assert made.problems == (damaged.problems[part],)
    assert sound.to_dict() == {**report(runs[0]).runs[0].to_dict(), "name": sound.name}
    assert (damaged.curves == {}) == (part == "log")
    assert (damaged.evaluations == []) == (part == "evaluations")
    page = (tmp_path / "page.html").read_text()
    assert f"run, {part}:" in page
    assert "Confusion matrix" in page  # of the other run
    assert made.to_dict()["runs"][0]["problems"] == damaged.problems


def test_a_curve_ends_before_a_damaged_line_of_the_log(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", "vit", VIT, 30)
    with (folder / "log.jsonl").open("r+b") as log:
        log.seek(len(log.read()) // 2)
        log.write(b"\0" * 10)
    (found,) = report(folder).runs
    assert 10 < found.steps < 20
    assert found.curves["loss"] == [(step, 1 / step) for step in range(1, found.steps + 1)]
    assert f"line {found.steps + 1}" in found.problems["log"]


def test_predictions_that_are_damaged_leave_the_figures(
    runs: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path / "run", "vit", VIT, 3)
    (folder / "model.safetensors").write_bytes((runs[0] / "model.safetensors").read_bytes())
    evaluate(folder, store=store, workers=0, threads=1, predictions=tmp_path / "own.csv")
    text = "label,predicted,probability\n99,0,1\n"
    (tmp_path / "own.csv").write_text(text)
    values = json.loads((folder / EVALUATION).read_text())
    values["predictions"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / EVALUATION).write_text(json.dumps(values))
    made = report(folder)
    (found,) = made.runs
    assert found.evaluation is not None
    assert found.predictions is None
    assert "own.csv" in found.problems["predictions"]
    assert "own.csv" in made.html()


def test_folders_without_a_run_are_named_beside_others(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made = report(tmp_path / "empty", runs[1])
    assert [run.folder for run in made.runs] == [runs[1]]
    assert "log.jsonl" in str(made.unread["empty"])
    assert "empty cannot be shown" in made.html()
    assert made.to_dict()["unread"] == {"empty": str(made.problems[0])}
    words = ["report", str(tmp_path / "empty"), str(runs[1]), "-o", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "page.html: " in result.stdout
    assert "problem: " in result.stderr
    assert "log.jsonl" in result.stderr
    result = CliRunner().invoke(cli, [*words[:-2], "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["unread"]["empty"] in result.stderr


def test_a_run_that_has_only_begun_is_shown_as_unfinished(tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "config.yaml").write_text("epochs: 30\nrun:\n  command: finetune\n")
    (found,) = report(folder).runs
    assert found.problems == {}
    assert found.reasons["training"] == "training is not at its end: epoch 0.00 of 30"
    (folder / "log.jsonl").write_text('{"step": 7, "epoch": 29.5, "loss": 1, "seconds": 3}\n')
    made = report(folder)
    assert "epoch 29.50 of 30" in made.html()
    assert made.problems == ()
    for epoch in ("30.0", "NaN", "null"):
        (folder / "log.jsonl").write_text(f'{{"step": 8, "epoch": {epoch}, "loss": 1, "seconds": 3}}\n')
        assert "training" not in report(folder).runs[0].reasons


def test_no_folder_with_a_run_and_no_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match=r"log\.jsonl"):
        report(tmp_path, tmp_path / "other")
    with pytest.raises(ArgumentError, match="found none"):
        report()


def test_the_commands_make_what_the_calls_make(runs: tuple[Path, Path], tmp_path: Path, store: Path) -> None:
    words = ["report", *map(str, runs), "-o", str(tmp_path / "a.html")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    report(*runs, out=tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    printed = json.loads(CliRunner().invoke(cli, [*words[:-2], "--json"]).stdout)
    assert printed == json.loads(json.dumps(report(*runs).to_dict()))
    before = (runs[0] / EVALUATION).read_bytes()
    words = ["evaluate", str(runs[0]), "--store", str(store), "--workers", "0", "--threads", "1"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert (runs[0] / EVALUATION).read_bytes() == before


def test_the_page_is_quiet_fits_and_has_no_serious_fault_in_a_browser(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    with chromium() as browser:
        report(*runs, out=tmp_path / "page.html")
        for width, scheme in ((390, "dark"), (1400, "light")):
            with visit(browser, tmp_path / "page.html", width, scheme) as seen:
                assert seen.errors == []
                assert seen.requests == []
                assert seen.width() <= width
                assert seen.serious() == []
