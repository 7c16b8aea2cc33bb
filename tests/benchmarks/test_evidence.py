"""A table of the evidence runs by one command: stores, trainings on tokens and pixels, results, a report."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from evidence.cells import Cell, EvidenceError, Names, Workplace, in_order
from evidence.estimates import estimated
from evidence.pixel_images import Form, as_jpeg, read_images, shared_bytes
from evidence.report import groups_of, markdown, plot
from evidence.results import read_results
from evidence.schedule import run_cells
from evidence.stores import conversion, make_store, make_subset, stored_bytes
from evidence.table import main as table_command
from evidence.tables import Table, read_table
from evidence.view_trainings import train_on_views
from evidence.views import ViewLoader, make_views, stored_views
from helpers.paths import ROOT
from PIL import Image

import tokenstore
from tokenstore.loading import TokenDataset, TokenLoader

EVIDENCE = ROOT / "benchmarks" / "evidence"
CLASSES, OF_A_CLASS, SIDE = ("dark", "bright"), {"train": 8, "val": 4}, 32
TRAINING = {
    "steps": 4,
    "batch_size": 8,
    "model": "tiny",
    "depth": 1,
    "learning_rate": 0.001,
    "precision": "fp32",
    "smoothing": 0.1,
}
TABLE: dict[str, Any] = {
    "title": "A small table",
    "source": "{images}",
    "stores": {"small": {"image_size": SIDE}},
    "budgets": {"100 %": 1.0, "50 %": 0.5},
    "seeds": [0],
    "finetune": TRAINING,
    "arms": {
        "codes": {"store": "small", "finetune": {"augment": "none", "adapter": "none"}},
        "views": {
            "store": "small",
            "views": {"adapter": "default", "count": 2},
            "finetune": {"augment": "seit", "adapter": "none", "input": "vectors", "grid_size": 4},
        },
        "pixels": {
            "store": "small",
            "pixels": {"side": 16, "quality": 20, "sight": {"side": 32, "crop": 32, "patch": 8}},
        },
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make folders of dark and of bright images, in splits train and val."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in OF_A_CLASS.items():
        for name, level in zip(CLASSES, (40, 160), strict=True):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (level + rng.integers(0, 60, (SIDE, SIDE, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def written(folder: Path, name: str = "small", **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**TABLE, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Workplace]:
    """Run the small table in this process."""
    folder = tmp_path_factory.mktemp("work")
    table = read_table(written(folder))
    work = Workplace(folder / "out", {"images": str(images)})
    outcomes = run_cells(table.cells, work, jobs=0)
    assert [outcome.problem for outcome in outcomes] == [""] * 10  # two stores, their views, six trainings
    return table, work


def results(work: Workplace) -> dict[str, Any]:
    return dict(read_results(work.folder / "results.jsonl"))


def test_every_cell_has_a_result_with_bytes_steps_and_where_it_was_made(
    done: tuple[Table, Workplace],
) -> None:
    table, work = done
    known = results(work)
    assert {cell.key for cell in table.cells} <= known.keys()
    for cell in table.cells:
        result = known[cell.key]
        assert result["steps"] == 4
        assert result["samples"] == (16 if cell.names.budget == "100 %" else 8)
        assert {"top1", "loss", "training_top1"} <= result["figures"].keys()
        assert result["bytes"] > 0
        assert result["machine"]["threads"] == 1
        assert {"commit", "finished", "versions", "decisions"} <= result.keys()


def test_cells_that_exist_do_not_run_again(done: tuple[Table, Workplace]) -> None:
    table, work = done
    before = (work.folder / "results.jsonl").read_bytes()
    assert run_cells(table.cells, work, jobs=0) == []
    assert (work.folder / "results.jsonl").read_bytes() == before


def test_a_cell_gives_the_same_figures_again(done: tuple[Table, Workplace], tmp_path: Path) -> None:
    table, work = done
    again = Workplace(tmp_path, work.inputs)
    cells = [cell for cell in table.cells if cell.names.budget == "50 %"]
    run_cells(cells, again, jobs=0)
    for cell in cells:
        first, second = results(work)[cell.key], results(again)[cell.key]
        assert first["figures"] == second["figures"]
        assert first["bytes"] == second["bytes"]
        assert first["fingerprint"] == second["fingerprint"]


def test_reports_have_every_arm_and_the_same_picture_each_time(
    done: tuple[Table, Workplace], tmp_path: Path
) -> None:
    table, work = done
    text = markdown(table, results(work))
    assert text.count("1 of 1") == 6
    assert "| codes | 50 % |" in text
    assert plot(table, results(work), tmp_path / "a.svg")
    assert plot(table, results(work), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "MB of the training data" in (tmp_path / "a.svg").read_text()
    assert not plot(table, {}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()
    assert all(not group.results for group in groups_of(table, {}))


def test_a_plot_goes_to_an_svg_file_alone(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.touch()
    arguments = [str(EVIDENCE / "table6.yaml"), str(results), "--plot", str(tmp_path / "plot.png")]
    shown = CliRunner().invoke(table_command, arguments)
    assert shown.exit_code == 2
    assert "ends in .svg" in shown.output
    assert not (tmp_path / "plot.png").exists()


def test_an_estimate_measures_each_kind_of_cell_and_leaves_nothing(
    done: tuple[Table, Workplace], images: Path, tmp_path: Path
) -> None:
    table, _ = done
    estimates = estimated(table.cells, Workplace(tmp_path, {"images": str(images)}), {})
    assert {each.name: each.cells for each in estimates} == {
        "store small": 1,
        "codes": 2,
        "views, views": 1,  # of each budget
        "views": 2,
        "pixels": 2,
    }
    assert all(each.seconds > 0 for each in estimates)
    assert list(tmp_path.iterdir()) == []


def test_samples_held_out_of_the_training_take_the_place_of_val(
    done: tuple[Table, Workplace], tmp_path: Path
) -> None:
    _, work = done
    table = read_table(written(tmp_path), held_out=0.25)
    [subset, *_] = [cell for cell in in_order(table.cells) if cell.kind == "subset"]
    here = Workplace(
        tmp_path, work.inputs, places={subset.needs["store"].key: work.place(subset.needs["store"])}
    )
    facts = make_subset(subset, here)
    assert facts["splits"] == {"train": 12, "val": 4}
    sources = tokenstore.open(here.place(subset))["val"].samples_table()["source"].to_pylist()
    assert all(source.startswith("train/") for source in sources)
    (tmp_path / "cells" / f"{subset.key}.training").mkdir()  # as a process that is killed at its end leaves
    assert make_subset(subset, here) == facts
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [subset.key]


def test_a_trained_network_is_evaluated_on_corrupted_images(
    done: tuple[Table, Workplace], tmp_path: Path
) -> None:
    _, work = done
    written(tmp_path)
    other = tmp_path / "robust.yaml"
    settings = {"corruptions": ["contrast", "gaussian_noise"], "severities": [1, 5], "images_of_a_class": 2}
    other.write_text(
        yaml.safe_dump({"title": "corrupted", "of": "small.yaml", "arms": ["codes"], **settings})
    )
    cells = [cell for cell in read_table(other).cells if cell.names.budget == "100 %"]
    before = set(results(work))
    [outcome] = run_cells(cells, work, jobs=0)
    assert set(results(work)) - before == {cells[0].key}
    result = results(work)[cells[0].key]
    assert outcome.problem == ""
    assert result["samples"] == 4
    assert {name: len(values) for name, values in result["by_severity"].items()} == {
        "contrast": 2,
        "gaussian_noise": 2,
    }
    assert 0 <= result["figures"]["corrupted"] <= 1
    assert not (work.place(cells[0]) / "images").exists()


def test_bytes_of_coefficients_have_the_quantisation_tables_that_training_reads(
    images: Path, tmp_path: Path
) -> None:
    tokenstore.convert(images, tmp_path / "dct", tokenizer="dct", image_size=SIDE, workers=0)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / "dct" / "train" / part).rglob("*") if path.is_file())
        for part in ("tokens", "labels", "quantization")
    ]
    assert min(sizes) > 0
    assert stored_bytes(tmp_path / "dct") == sum(sizes)


def test_stores_and_their_estimates_are_made_on_the_device_of_the_work(tmp_path: Path) -> None:
    options = {"image_size": SIDE}
    cell = Cell("store", {"source": "{photographs}", "options": options}, names=Names("t", "store"))
    inputs = {"photographs": "somewhere"}
    on_gpu = conversion(cell, Workplace(tmp_path, inputs, "cuda:0", threads=3))
    assert on_gpu == {"source": "somewhere", "device": "cuda", "workers": 2, **options}
    assert conversion(cell, Workplace(tmp_path, inputs))["device"] == "cpu"


def test_bytes_of_images_are_those_of_their_form(images: Path) -> None:
    names = [f"train/dark/{number}.png" for number in range(3)]
    raw = read_images(images, names, Form(SIDE, "raw"))
    assert raw.nbytes == 3 * SIDE * SIDE * 3
    files = read_images(images, names, Form(16, "files"))
    assert files.nbytes == sum((images / name).stat().st_size for name in names)
    assert files.pixels.shape == (3, 16, 16, 3)
    jpeg = read_images(images, names, Form(SIDE, 20))
    sizes = [len(as_jpeg(pixels, 20)) for pixels in raw.pixels]
    tables = shared_bytes(as_jpeg(raw.pixels[0], 20))
    assert jpeg.nbytes == sum(sizes) - 2 * tables
    assert not np.array_equal(jpeg.pixels, raw.pixels)


@pytest.mark.parametrize(("side", "quality"), [(0, 20), (16, 0), (16, 96), (16, "best"), (16, True)])
def test_a_form_that_no_image_has_is_refused(side: int, quality: Any) -> None:
    with pytest.raises(EvidenceError, match="expected"):
        Form(side, quality)


def test_half_of_a_batch_are_stored_views_of_its_samples(done: tuple[Table, Workplace]) -> None:
    table, work = done
    [cell] = [cell for cell in table.cells if (cell.names.arm, cell.names.budget) == ("views", "100 %")]
    views = stored_views(cell.needs["views"], work)
    store = tokenstore.open(work.place(cell.needs["store"]))
    split = store["train"]
    own = np.asarray(split.read("tokens", np.arange(len(split))))
    assert [each.shape for each in views] == [own.shape] * 2
    assert not np.array_equal(views[0], views[1])
    tokens = TokenLoader(TokenDataset(store, "train"), 6, shuffle=True, seed=3, num_threads=0)
    drawn = set()
    for epoch in range(4):
        tokens.set_epoch(epoch)
        for codes, labels in ViewLoader(tokens, views):
            rows, first = tokens.last_rows, len(codes) - len(codes) // 2
            assert np.array_equal(labels.numpy(), split.labels[rows])
            assert np.array_equal(codes[:first].numpy(), own[rows[:first]])
            for row, seen in zip(rows[first:], codes[first:].numpy(), strict=True):
                drawn |= {time for time in range(2) if np.array_equal(seen, views[time][row])}
                assert any(np.array_equal(seen, view[row]) for view in views)
    assert drawn == {0, 1}


def test_arms_of_flips_differ_in_tokenizer_views_and_flips_alone() -> None:
    cells = [cell for cell in read_table(EVIDENCE / "flips.yaml").cells if cell.names.seed == 0]
    first, *others = (
        {name: value for name, value in cell.decisions["settings"].items() if name != "flip"}
        for cell in cells
    )
    assert len(others) == 4
    assert all(each == first for each in others)


def test_stored_views_go_with_whole_batches_and_few_codes(
    done: tuple[Table, Workplace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, work = done
    [cell] = [cell for cell in table.cells if (cell.names.arm, cell.names.budget) == ("views", "100 %")]
    base = cell.needs["store"]
    store = tokenstore.open(work.place(base))
    with pytest.raises(EvidenceError, match="accumulation: expected 1 with stored views, found 2"):
        train_on_views("finetune", store, tmp_path / "run", [], {"accumulation": 2})
    assert not (tmp_path / "run").exists()
    most = store.manifest.codebook_sizes[0]
    monkeypatch.setattr("evidence.views._MOST_CODES", most - 1)
    with pytest.raises(EvidenceError, match=f"expected up to {most - 1:,} codes"):
        make_views(cell.needs["views"], Workplace(tmp_path, work.inputs, places={base.key: work.place(base)}))


def test_views_that_are_drawn_are_not_drawn_again(done: tuple[Table, Workplace], tmp_path: Path) -> None:
    table, work = done
    [cell] = [each for each in in_order(table.cells) if each.kind == "views" and each.names.budget == "50 %"]
    store = cell.needs["store"]
    here = Workplace(tmp_path, work.inputs, places={store.key: work.place(store)})
    facts = make_views(cell, here)
    first = here.place(cell) / "views-00.npy"
    assert facts["views_bytes"] == 2 * first.stat().st_size
    expected = [view.copy() for view in stored_views(cell, here)]
    assert all(np.array_equal(*pair) for pair in zip(expected, stored_views(cell, work), strict=True))
    (here.place(cell) / "views-01.npy").unlink()  # as of a process that was killed between the two
    written = first.stat().st_mtime_ns
    make_views(cell, here)
    assert first.stat().st_mtime_ns == written
    assert all(np.array_equal(*pair) for pair in zip(expected, stored_views(cell, here), strict=True))


@pytest.mark.parametrize("linked", [True, False])
def test_a_share_converted_alone_has_the_samples_of_the_share_of_all(
    done: tuple[Table, Workplace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    _, work = done
    link = os.link

    def refuse_images(source: Path, target: Path) -> None:
        if Path(source).suffix == ".png":
            raise OSError(errno.EXDEV, "another file system")
        link(source, target)

    if not linked:
        monkeypatch.setattr(os, "link", refuse_images)
    own = {"small": {"image_size": SIDE, "share_alone": True}}
    [alone] = [
        cell
        for cell in in_order(read_table(written(tmp_path, stores=own)).cells)
        if "share" in cell.decisions
    ]
    here = Workplace(tmp_path, work.inputs)
    facts = make_store(alone, here)
    [subset] = [cell for cell in in_order(done[0].cells) if cell.kind == "subset"]
    assert facts["splits"] == {"train": 8, "val": 8}
    first, second = (tokenstore.open(place) for place in (here.place(alone), work.place(subset)))
    for name in ("train", "val"):
        ours, theirs = (store[name].samples_table()["source"].to_pylist() for store in (first, second))
        assert ours == theirs
        assert np.array_equal(
            *(np.asarray(store[name].read("tokens", np.arange(8))) for store in (first, second))
        )
    assert list(here.place(alone).parent.iterdir()) == [here.place(alone)]  # no links are left
    assert make_store(alone, here) == facts


@pytest.mark.thorough
def test_a_killed_table_goes_on_to_the_figures_it_would_have_had(images: Path, tmp_path: Path) -> None:
    path = written(tmp_path, finetune={**TRAINING, "steps": 120}, budgets={"100 %": 1.0})
    for name in ("whole", "killed"):
        command = [sys.executable, EVIDENCE / "run.py", path, "--out", tmp_path / name]
        command += ["--input", f"images={images}", "--jobs", "2"]
        if name == "killed":
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                while not any((tmp_path / name).glob("cells/*/log.jsonl")) and process.poll() is None:
                    time.sleep(0.02)
                process.terminate()
                assert process.wait() == 130
            assert not any("finetune" in line for line in lines_of(tmp_path / name))
            assert any((tmp_path / name).glob("cells/*/state.pt"))
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    whole, killed = (read_results(tmp_path / name / "results.jsonl") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for key, result in whole.items():
        assert result["figures"] == killed[key]["figures"]
    shown = subprocess.run(
        [sys.executable, EVIDENCE / "table.py", path, tmp_path / "whole" / "results.jsonl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "| codes |" in shown.stdout


def lines_of(folder: Path) -> list[str]:
    path = folder / "results.jsonl"
    return path.read_text().splitlines() if path.exists() else []
