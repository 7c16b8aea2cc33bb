"""Each command about networks gives the result of its Python call, and every command has such a test."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers.commands import PROGRAMS, all_commands
from helpers.network_stores import CLASSES, write_labelled
from helpers.paths import TESTS
from helpers.pictures import write_images
from safetensors.torch import load_file

from seitpp_models.adapter import train_tokenadapt
from seitpp_models.evaluation import evaluate
from seitpp_models.reporting import report
from seitpp_models.training import finetune, pretrain, segment
from tokenstore.networks.runs import LOG

QUICK: dict[str, Any] = {
    "model": "tiny",
    "depth": 1,
    "threads": 1,
    "loader_threads": 0,
    "adapter": "none",
    "batch_size": 32,
    "epochs": 1,
    "warmup_epochs": 0.5,
    "device": "cpu",
}
CALLS = {
    "tokenstore convert": "tokenstore.convert",
    "tokenstore info": "tokenstore.info",
    "tokenstore recode": "tokenstore.recode",
    "tokenstore merge": "tokenstore.merge",
    "tokenstore copy": "tokenstore.copy",
    "tokenstore export": "tokenstore.export",
    "tokenstore append": "tokenstore.append",
    "tokenstore select": "tokenstore.select",
    "tokenstore split": "tokenstore.split",
    "tokenstore relabel": "tokenstore.relabel",
    "tokenstore rename-class": "tokenstore.rename_class",
    "tokenstore dedupe": "tokenstore.dedupe",
    "tokenstore relate": "tokenstore.relate",
    "tokenstore stats": "tokenstore.stats",
    "tokenstore report": "tokenstore.report",
    "tokenstore verify": "tokenstore.verify",
    "tokenstore preview": "tokenstore.preview",
    "tokenstore reconstruct": "tokenstore.reconstruct",
    "tokenstore tokenizers": "tokenstore.tokenizers.tokenizer_kinds",
    "tokenstore train-tokenizer": "tokenstore.tokenizers.train.train_tokenizer",
    "tokenstore fit-codebook": "tokenstore.tokenizers.train.fit_codebook",
    "seitpp pretrain": "seitpp_models.training.pretrain",
    "seitpp finetune": "seitpp_models.training.finetune",
    "seitpp segment": "seitpp_models.training.segment",
    "seitpp train-tokenadapt": "seitpp_models.adapter.train_tokenadapt",
    "seitpp evaluate": "seitpp_models.evaluation.evaluate",
    "seitpp report": "seitpp_models.reporting.report",
}
"""The public function behind each command."""
OF_THE_SHELL = {"tokenstore completion", "seitpp completion"}
"""Commands about the command line itself."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("calls") / "store")


def run(command: str, *words: object, **options: Any) -> str:
    """Run a command of `seitpp` that succeeds, and return its output."""
    words += tuple(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value))
    result = CliRunner().invoke(PROGRAMS["seitpp"], [command, *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def plain(values: Mapping[str, Any]) -> Any:
    """Return values as JSON gives them back."""
    return json.loads(json.dumps(values))


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the steps that a run logged, without their times."""
    steps = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert steps
    return [{name: value for name, value in step.items() if name != "seconds"} for step in steps]


def have_equal_tensors(file: Path, other: Path) -> bool:
    """Return True if two files of weights have the same tensors; their metadata is in no order."""
    one, two = load_file(file), load_file(other)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("train", "settings"),
    [
        (pretrain, {"decoder_width": 32, "decoder_depth": 1}),
        (finetune, {"augment": "none", "smoothing": 0.1}),
        (segment, {"classes": CLASSES + 1, "head": "linear", "augment": "none", "batch_size": 16}),
    ],
    ids=["pretrain", "finetune", "segment"],
)
def test_a_command_that_trains_gives_the_losses_and_weights_of_its_call(
    store: Path, tmp_path: Path, train: Any, settings: dict[str, Any]
) -> None:
    settings = {**QUICK, **settings}
    run(train.__name__, store, "--out", tmp_path / "command", **settings)
    steps: list[int] = []
    trained = train(store, tmp_path / "call", on_step=lambda step: steps.append(step.step), **settings)
    assert log(tmp_path / "command") == log(tmp_path / "call")
    assert steps == [step["step"] for step in log(tmp_path / "call")]
    weights = tmp_path / "command" / trained.weights.name
    assert have_equal_tensors(weights, trained.weights)
    evaluations = (tmp_path / "command" / "evaluations.jsonl").read_text().splitlines()
    figures = {name: value for name, value in json.loads(evaluations[-1]).items() if name != "step"}
    assert figures == plain(trained.figures)


def test_evaluate_gives_the_figures_of_its_call(store: Path, tmp_path: Path) -> None:
    trained = finetune(store, tmp_path / "run", **QUICK, augment="none")
    said = json.loads(run("evaluate", trained.weights, "--json", store=store, threads=1, workers=0))
    assert said.pop("model") == str(trained.weights)
    assert said == plain(evaluate(trained.weights, store=store, threads=1, workers=0).to_dict())
    assert said["top1"] == trained.figures["top1"]


def test_report_gives_the_figures_of_its_call(store: Path, tmp_path: Path) -> None:
    finetune(store, tmp_path / "run", **QUICK, augment="none")
    said = json.loads(run("report", tmp_path / "run", "--json"))
    assert said == plain(report(tmp_path / "run").to_dict())


@pytest.mark.thorough
def test_train_tokenadapt_writes_the_weights_of_its_call(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 3, (64, 64))
    settings = {"steps": 1, "batch_size": 1, "width": 64, "held_out": 0.0, "workers": 0, "threads": 1}
    command, call = tmp_path / "command.safetensors", tmp_path / "call.safetensors"
    run("train-tokenadapt", images=images, out=command, **settings)
    steps: list[int] = []
    trained = train_tokenadapt(
        images,
        call,
        **settings,  # type: ignore[arg-type]
        on_step=lambda result: steps.append(result.step),
    )
    assert (trained.weights, trained.steps, trained.quality, steps) == (call, 1, {}, [1])
    assert have_equal_tensors(command, call)


def test_every_command_is_compared_with_a_public_function() -> None:
    assert CALLS.keys() | OF_THE_SHELL == all_commands().keys()
    tests = "".join(path.read_text() for path in (TESTS / "cli").glob("test_python_calls*.py"))
    for command, function in CALLS.items():
        module, name = function.rsplit(".", 1)
        package = importlib.import_module(module)
        assert name in package.__all__
        assert callable(getattr(package, name))
        assert f'"{command.split()[1]}"' in tests or f"({name}, " in tests, command
        assert f"{name}(" in tests or f"({name}, " in tests, function
