"""Runs that are not made: every setting, as a recipe that repeats them, and what a store makes of them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers.network_commands import PRETRAIN, QUICK, seitpp
from tokenstore_cli.networks.planned_display import print_planned

from seitpp_models.recipes import recipe_names
from seitpp_models.training import planned
from tokenstore.errors import ArgumentError

COMMANDS = {"seit": "finetune"}


@pytest.mark.parametrize("name", recipe_names())
def test_a_dry_run_prints_every_setting_as_a_recipe_that_repeats_them(name: str, tmp_path: Path) -> None:
    first = name.split("-")[0]
    command = COMMANDS.get(first, first)
    done = seitpp(command, "--config", name, "--dry-run")
    assert done.exit_code == 0, done.output
    settings = planned(command, config=name).settings  # type: ignore[arg-type]
    printed = yaml.safe_load(done.output)
    assert {key.replace("-", "_"): value for key, value in printed.items()} == dict(settings)
    recipe = tmp_path / "printed.yaml"
    recipe.write_text(done.output)
    assert planned(command, config=recipe).settings == settings  # type: ignore[arg-type]


def test_a_dry_run_on_a_store_prints_groups_of_parameters_and_writes_nothing(
    labelled: Path, tmp_path: Path
) -> None:
    words = ["finetune", labelled, "--out", tmp_path / "run", *QUICK, "--augment", "seit", "--dry-run"]
    done = seitpp(*words, "--layer-decay", 0.5)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "run").exists()
    text = " ".join(line.lstrip("# ") for line in done.output.splitlines())
    assert re.search(r"0\.25 of the learning rate, weight decay 0\.1: 1 tensors, [\d,]+ weights: patch", text)
    assert re.search(r"1 of the learning rate, weight decay 0\.1: \d tensors.*token_emb.*head\.weight", text)
    assert "TokenEDA" in text
    assert "colour_last=True" in text
    assert yaml.safe_load(done.output)["layer-decay"] == 0.5


def test_what_a_store_makes_of_settings_is_a_value_in_python(labelled: Path) -> None:
    settings = dict(zip((word[2:].replace("-", "_") for word in PRETRAIN[::2]), PRETRAIN[1::2], strict=True))
    run = planned("pretrain", labelled, **settings, epochs=2)
    assert run.plan is not None
    assert run.plan.steps == 2 * -(-run.plan.samples // 32)
    assert sum(group.weights for group in run.groups) == run.plan.parameters
    assert {group.scale for group in run.groups} == {1.0}
    assert "Requantise" in run.augmentation
    with pytest.raises(ArgumentError, match="learning_rate"):
        planned("pretrain", learning_rate=-1)


def test_on_a_narrow_terminal_each_line_of_a_comment_is_one(
    labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    run = planned("pretrain", labelled, config="pretrain-cpu", epochs=50, model="tiny")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_planned(run)
    text = capsys.readouterr().out.replace("\x1b[0m", "")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert len(comments) > 10
    assert [line for line in comments if len(line) > 70] == []
    assert len(yaml.safe_load(text)) == len(run.settings)


def test_a_run_needs_a_store_and_a_folder(labelled: Path, tmp_path: Path) -> None:
    without_store = seitpp("finetune", "--out", tmp_path / "run")
    assert without_store.exit_code == 2
    assert "Missing argument 'STORE'" in without_store.output.replace("[STORE]", "STORE")
    without_out = seitpp("finetune", labelled)
    assert without_out.exit_code == 2
    assert "Missing option '-o' / '--out'" in without_out.output
