"""The tables of the evidence are read to cells, and wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from evidence.cells import Cell, EvidenceError, Names, Workplace, in_order, missing_inputs
from evidence.results import add_result, read_results
from evidence.run import chosen_cells
from evidence.schedule import run_cells
from evidence.stores import training_rows
from evidence.tables import read_table
from evidence.trainings import epochs_of
from helpers.paths import ROOT

from seitpp_models.training import FinetuneSettings, PretrainSettings, SegmentSettings
from seitpp_models.training.resolving import resolve

EVIDENCE = ROOT / "benchmarks" / "evidence"
TABLES = sorted(EVIDENCE.glob("table*.yaml"))
KNOWN = {"finetune": FinetuneSettings, "pretrain": PretrainSettings, "segment": SegmentSettings}
SMALL: dict[str, Any] = {
    "title": "a table",
    "source": "{images}",
    "stores": {"one": {"image_size": 32}},
    "finetune": {"steps": 4, "batch_size": 8},
    "arms": {"plain": {"store": "one"}, "other": {"store": "one", "finetune": {"augment": "none"}}},
}


def by_names(path: Path) -> dict[tuple[str, str, int], Cell]:
    return {(cell.names.arm, cell.names.budget, cell.names.seed): cell for cell in read_table(path).cells}


@pytest.mark.parametrize("path", sorted(EVIDENCE.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_of_every_table_are_those_of_the_front_doors(path: Path) -> None:
    cells = in_order(read_table(path).cells)
    assert len({cell.key for cell in read_table(path).cells}) == len(read_table(path).cells)
    for cell in cells:
        if cell.kind in KNOWN:
            settings = set(cell.decisions["settings"])
            assert settings <= set(KNOWN[cell.kind].__annotations__), cell.names
            resolve(cell.kind, KNOWN[cell.kind], None, cell.decisions["settings"])  # or it raises
            assert cell.decisions["steps"] > 100


def test_there_are_seven_tables() -> None:
    assert [path.stem for path in TABLES] == [f"table{number}" for number in range(1, 8)]


def test_cells_that_are_the_same_in_two_tables_have_one_key() -> None:
    first, storage, cnn = (by_names(EVIDENCE / f"table{number}.yaml") for number in (1, 3, 7))
    for arm in ("SeiT", "both"):
        assert storage[arm, "10 %", 0].key == first[arm, "10 %", 0].key
        assert cnn[f"ViT, {arm}", "10 %", 1].key == first[arm, "10 %", 1].key
        robust = by_names(EVIDENCE / "table4.yaml")[arm, "10 %", 0]
        assert robust.needs["model"].key == first[arm, "10 %", 0].key


def test_a_cell_survives_the_way_to_another_process() -> None:
    for cell in read_table(EVIDENCE / "table2.yaml").cells:
        again = Cell.from_dict(cell.to_dict())
        assert (again, again.key, again.names) == (cell, cell.key, cell.names)


def test_seeds_settings_and_samples_decide_a_cell_and_names_do_not(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    keys = {cell.key for cell in read_table(path).cells}
    assert len(keys) == 4  # two arms, two seeds
    (tmp_path / "same.yaml").write_text(yaml.safe_dump({**SMALL, "title": "another"}))
    assert {cell.key for cell in read_table(tmp_path / "same.yaml").cells} == keys
    assert not keys & {cell.key for cell in read_table(path, held_out=0.1).cells}
    (tmp_path / "half.yaml").write_text(yaml.safe_dump({**SMALL, "budgets": {"half": 0.5}}))
    assert not keys & {cell.key for cell in read_table(tmp_path / "half.yaml").cells}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": {}}, "Did you mean 'arms'"),
        ({"arms": {"plain": {"store": "on"}}}, "expected one of the stores one, found on"),
        ({"arms": {"plain": {"stores": "one"}}}, "Did you mean 'store'"),
        ({"arms": {"plain": {"store": "one", "finetune": {"steps": None}}}}, "expected steps of finetune"),
        (
            {"arms": {"plain": {"store": "one", "finetune": {"epochs": 3}}}},
            "expected steps instead of epochs",
        ),
        ({"arms": {"plain": {"store": "one", "finetune": {"seed": 3}}}}, "expected seeds instead of seed"),
        ({"arms": {}}, "found none"),
        ({"arms": ["plain"]}, "expected names and values"),
    ],
)
def test_a_wrong_table_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **change}))
    with pytest.raises(EvidenceError, match=message):
        read_table(path)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "title: only"])
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(EvidenceError, match=r"table\.yaml: expected"):
        read_table(path)


def test_cells_without_their_inputs_are_left_out_with_all_that_need_them(tmp_path: Path) -> None:
    store = Cell("store", {"source": "{photographs}", "options": {}}, names=Names("t", "store"))
    training = Cell("finetune", {"settings": {}, "steps": 1}, {"store": store}, Names("t", "plain"))
    assert missing_inputs([training], {}) == ["photographs"]
    outcomes = run_cells([training], Workplace(tmp_path), jobs=0)
    assert [outcome.problem for outcome in outcomes] == ["waits for the inputs photographs"] * 2
    assert not (tmp_path / "results.jsonl").exists()


def test_what_needs_a_failed_cell_is_left_out(tmp_path: Path) -> None:
    store = Cell("store", {"source": str(tmp_path / "nothing"), "options": {}}, names=Names("t", "store"))
    training = Cell("finetune", {"settings": {}, "steps": 1}, {"store": store}, Names("t", "plain"))
    failed, left_out = run_cells([training], Workplace(tmp_path / "work"), jobs=0)
    assert "nothing" in failed.problem
    assert left_out.problem == "needs what has no result: t, store, seed 0"


def test_epochs_are_whole_and_come_near_the_steps() -> None:
    assert [epochs_of(2400, samples, 125) for samples in (50_000, 25_000, 10_000)] == [6, 12, 30]
    assert epochs_of(100, 1_001, 100) == 9  # 99 steps
    with pytest.raises(EvidenceError, match="a multiple of 11 steps"):
        epochs_of(17, 1_001, 100)


def test_a_smaller_share_is_part_of_a_larger_one_and_takes_of_each_class_alike() -> None:
    labels = np.repeat(np.arange(5), 40)
    half, fifth = training_rows(labels, 0.5), training_rows(labels, 0.2)
    assert set(fifth) < set(half)
    assert np.bincount(labels[half]).tolist() == [20] * 5
    assert np.bincount(labels[fifth]).tolist() == [8] * 5
    assert (np.diff(half) > 0).all()
    with pytest.raises(EvidenceError, match="expected labels"):
        training_rows(None, 0.5)


def test_results_are_added_one_a_line_and_a_line_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read_results(path) == {}
    for number in range(3):
        add_result(path, {"key": "same" if number else "first", "number": number})
    assert {key: result["number"] for key, result in read_results(path).items()} == {"first": 0, "same": 2}
    path.write_text(path.read_text() + '{"key": "cut')
    with pytest.raises(EvidenceError, match="line 4: expected a result"):
        read_results(path)


def test_a_result_of_another_input_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"some")
    cell = Cell("store", {"source": "{weights}", "options": {}}, names=Names("t", "store"))
    work = Workplace(tmp_path / "work", {"weights": str(weights)})
    work.folder.mkdir()
    add_result(work.folder / "results.jsonl", {"key": cell.key, "inputs": {"weights": "of before"}})
    with pytest.raises(EvidenceError, match=r"was made from another file \{weights\}"):
        run_cells([cell], work, jobs=0)


def test_only_arms_and_seeds_of_the_table_are_chosen() -> None:
    cells = read_table(EVIDENCE / "table1.yaml").cells
    assert chosen_cells(cells, (), ()) == cells
    [cell] = chosen_cells(cells, ("both",), (1,))
    assert (cell.names.arm, cell.names.seed) == ("both", 1)
    with pytest.raises(click.UsageError, match="--seed: expected one of 0, 1, found 7"):
        chosen_cells(cells, (), (7,))
    with pytest.raises(click.UsageError, match="--arm: expected one of SeiT, "):
        chosen_cells(cells, ("seit",), ())
