"""Training networks on stores: it learns, stops and goes on anywhere, on any number of processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.forked_programs import ForkedProgram, ForkServer
from helpers.network_commands import PRETRAIN, QUICK, lines, losses, refused, seitpp
from helpers.network_stores import (
    CLASSES,
    CODES,
    PREPARED,
    gradients_and_rows,
    network_run,
    write_labelled,
)
from helpers.waiting import wait_until

from seitpp_models.errors import ModelError, SamplesError
from seitpp_models.training import runs
from seitpp_models.training.network_run import WEIGHTS
from seitpp_models.weights.files import load_model, save_model
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.networks.runs import LOG, STATE


@pytest.fixture
def store(labelled: Path) -> Path:
    return labelled


def test_pretraining_leaves_weights_a_log_evaluations_and_a_picture(pretrained: Path) -> None:
    steps = lines(pretrained / LOG)
    assert [line["step"] for line in steps] == list(range(1, 7))
    assert all(0 < line["loss"] < 2 * np.log(CODES) for line in steps)
    assert [line["step"] for line in lines(pretrained / "evaluations.jsonl")] == [3, 6]
    assert (pretrained / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((pretrained / "tensorboard").glob("events*"))
    trained = load_model(pretrained / WEIGHTS)
    assert trained.kind == "masked"
    assert (trained.tokenizer, trained.preprocessing) == (TokenizerIdentity("test"), PREPARED)


@pytest.mark.parametrize(
    "options",
    [
        ["--augment", "finetune"],
        ["--augment", "seit", "--input", "vectors", "--ema", "0.9"],
        ["--augment", "none", "--precision", "bf16", "--accumulation", "2", "--clip", "1"],
        ["--augment", "none", "--layer-decay", "0.7", "--share", "0.5"],
    ],
    ids=lambda options: "-".join(options[1::2]),
)
def test_a_classifier_is_trained_from_scratch(store: Path, tmp_path: Path, options: list[str]) -> None:
    result = seitpp("finetune", store, "--out", tmp_path / "run", *QUICK, "--epochs", 1, *options)
    assert result.exit_code == 0, result.output
    (evaluation,) = lines(tmp_path / "run" / "evaluations.jsonl")
    raw = {"raw_loss", "raw_top1"} if "--ema" in options else set()
    assert set(evaluation) == {"step", "loss", "top1", *raw}
    trained = load_model(tmp_path / "run" / WEIGHTS)
    assert (trained.labels, trained.preprocessing) == (("a", "b", "c", "d"), PREPARED)


def test_what_can_be_learnt_is_learnt_from_pretrained_weights(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    options = [*QUICK[4:], "--from", pretrained / WEIGHTS, "--augment", "none", "--epochs", 12]
    result = seitpp("finetune", store, "--out", tmp_path / "run", *options, "--evaluate-every", 0)
    assert result.exit_code == 0, result.output
    (evaluation,) = lines(tmp_path / "run" / "evaluations.jsonl")
    assert evaluation["top1"] > 0.9
    ours = load_model(tmp_path / "run" / WEIGHTS).model.state_dict()
    before = load_model(pretrained / WEIGHTS).model.state_dict()
    assert ours["blocks.0.attn.qkv.weight"].shape == before["blocks.0.attn.qkv.weight"].shape


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_label_maps_are_learnt(store: Path, pretrained: Path, tmp_path: Path, head: str) -> None:
    options = f"--classes {CLASSES + 1} --head {head} --epochs 1 --batch-size 16".split()
    options += ["--threads", "1", "--loader-threads", "0", "--learning-rate", "0.002", "--warmup-epochs", "0"]
    if head == "upernet":
        options += ["--model", "tiny", "--depth", "4", "--decoder-width", "16"]
    else:
        options += ["--from", str(pretrained / WEIGHTS)]
    result = seitpp("segment", store, "--out", tmp_path / "run", *options, "--device", "cpu")
    assert result.exit_code == 0, result.output
    (evaluation,) = lines(tmp_path / "run" / "evaluations.jsonl")
    assert evaluation["miou"] > 0
    assert len(evaluation["iou"]) == CLASSES + 1
    trained = load_model(tmp_path / "run" / WEIGHTS)
    assert (trained.kind, trained.preprocessing) == ("segmenter", PREPARED)


def test_any_backbone_of_timm_is_trained(store: Path, tmp_path: Path) -> None:
    options = ["--model", "resnet10t", *QUICK[4:], "--augment", "none", "--epochs", 1, "--input", "vectors"]
    result = seitpp("finetune", store, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    trained = load_model(tmp_path / "run" / WEIGHTS)
    assert (trained.kind, trained.preprocessing) == ("timm", PREPARED)


# Stopping and going on.


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    modules = ["tokenstore_cli.seitpp", "seitpp_models.training.pretraining", "helpers.network_stores"]
    modules += ["torch.utils.tensorboard", "matplotlib.backends.backend_agg"]
    modules += ["tokenstore_cli.networks.pretrain"]
    modules += ["tokenstore.codecs.bitpack_kernels", "tokenstore.loading.sampling.feistel"]
    with ForkServer(*modules) as server:
        yield server


def start(
    forks: ForkServer, processes: int, module: str, *arguments: object, output: Path | None = None
) -> list[ForkedProgram]:
    """Start a program in several processes, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return [
        forks.start(module, *arguments, output=output, environment=environment if processes > 1 else {})
        for environment in environments
    ]


def pretraining(store: Path, out: Path, *options: object) -> list[object]:
    program = ["tokenstore_cli.seitpp", "pretrain", store, "--out", out, *PRETRAIN]
    return [*program, "--epochs", 4, "--evaluate-every", 0, *options]


def wait_for_steps(process: ForkedProgram, out: Path, least: int) -> None:
    wait_until(
        lambda: (out / LOG).exists() and len((out / LOG).read_bytes().splitlines()) > least, process=process
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_to_the_same_losses(forks: ForkServer, tmp_path: Path, processes: int) -> None:
    store = write_labelled(tmp_path / "store", samples=90)  # 32, 32 and 26 a step
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(forks, processes, *pretraining(store, whole))
    assert [process.wait() for process in undisturbed] == processes * [0]
    every_step = pretraining(store, killed, "--checkpoint-minutes", 0, "--resume")
    begun = start(forks, processes, *every_step)
    wait_for_steps(begun[0], killed, random.randint(1, 6))
    for process in begun:
        os.kill(process.pid, signal.SIGKILL)
    assert [process.wait() for process in begun] == processes * [-signal.SIGKILL]
    assert 0 < len(losses(killed)) < 12
    again = start(forks, processes, *every_step)
    assert [process.wait() for process in again] == processes * [0]
    assert losses(killed) == losses(whole)
    ours, theirs = (load_model(run / WEIGHTS).model.state_dict() for run in (killed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_terminated_run_is_kept(forks: ForkServer, store: Path, tmp_path: Path) -> None:
    out, printed = tmp_path / "run", tmp_path / "printed"
    (process,) = start(forks, 1, *pretraining(store, out), output=printed)
    wait_for_steps(process, out, 2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 130
    done = torch.load(out / STATE, weights_only=True)["progress"][0]
    assert f"stopped after step {done}" in printed.read_text()
    assert losses(out)[-1][0] == done < 12


def test_an_evaluation_that_was_cut_short_is_made_when_the_run_goes_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    program = ["pretrain", store, "--out", out, *PRETRAIN, "--epochs", 2, "--checkpoint-minutes", 0]
    with monkeypatch.context() as patched:
        patched.setattr(runs, "evaluate_store", Mock(side_effect=KeyboardInterrupt))
        assert seitpp(*program).exit_code != 0
    assert torch.load(out / STATE, weights_only=True)["progress"][0] == 3
    result = seitpp(*program, "--resume")
    assert result.exit_code == 0, result.output
    assert [line["step"] for line in lines(out / "evaluations.jsonl")] == [3, 6]


def test_a_run_goes_on_wherever_its_first_weights_lie(store: Path, pretrained: Path, tmp_path: Path) -> None:
    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    shutil.copy(pretrained / WEIGHTS, moved)
    trained = load_model(moved)
    torch.nn.init.zeros_(trained.model.cls_token)  # type: ignore[arg-type]
    save_model(trained, other)
    program = ["finetune", store, "--out", tmp_path / "run", *QUICK[4:], "--augment", "none", "--epochs", 1]
    assert seitpp(*program, "--from", pretrained / WEIGHTS).exit_code == 0
    assert seitpp(*program, "--from", moved, "--resume").exit_code == 0
    refusal = seitpp(*program, "--from", other, "--resume")
    assert refusal.exit_code == 1
    assert "from is now" in refusal.output


def test_pretraining_goes_on_from_other_weights(store: Path, pretrained: Path, tmp_path: Path) -> None:
    options = [*QUICK[4:], "--from", pretrained / WEIGHTS, "--epochs", 1, "--learning-rate", 1e-12]
    result = seitpp("pretrain", store, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    (ours,), (*_, theirs) = (lines(run / "evaluations.jsonl") for run in (tmp_path / "run", pretrained))
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    refusal = seitpp("pretrain", store, "--out", tmp_path / "b", *options, "--decoder-depth", 1)
    assert refusal.exit_code == 2
    assert "--decoder-depth goes with models without --from" in refusal.output


def test_pretraining_goes_on_from_masked_models_alone(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "classifier"
    program = ["finetune", store, "--out", out, *QUICK, "--augment", "none", "--epochs", 1]
    assert seitpp(*program).exit_code == 0
    told = refused("pretrain", store, "--out", tmp_path / "run", *QUICK[4:], "--from", out / WEIGHTS)
    assert "expected a masked-token model to begin with, found a TokenViT" in told


def test_a_run_is_not_gone_on_with_by_other_settings(store: Path, pretrained: Path) -> None:
    result = seitpp("pretrain", store, "--out", pretrained, *PRETRAIN, "--epochs", 2)
    assert result.exit_code == 1
    assert "a run is there" in result.output
    for option, told in ((["--seed", 1], "seed 0 -> 1"), (["--augment", "none"], "augment mtm -> none")):
        result = seitpp("pretrain", store, "--out", pretrained, *PRETRAIN, "--epochs", 2, "--resume", *option)
        assert result.exit_code == 1
        assert told in result.output


# Several processes.


@pytest.mark.parametrize("task", ["masked", "classes", "maps"])
def test_two_processes_have_the_gradients_of_one(
    forks: ForkServer, store: Path, tmp_path: Path, task: str
) -> None:
    ranks = start(forks, 2, "helpers.network_stores", store, task, tmp_path / "found")
    assert [process.wait() for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"found.{rank}", weights_only=True) for rank in range(2)]
    alone = gradients_and_rows(store, task)
    assert sorted(found[0]["rows"] + found[1]["rows"]) == sorted(alone["rows"]) == list(range(96))
    assert found[0]["loss"] == found[1]["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    assert found[0]["gradients"].keys() == alone["gradients"].keys()
    for name, expected in alone["gradients"].items():
        for part in found:
            torch.testing.assert_close(part["gradients"][name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["classes", "maps"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(store: Path, tmp_path: Path, task: str) -> None:
    def gradients(parts: int) -> list[torch.Tensor]:
        run = network_run(store, tmp_path, task, Accelerator(cpu=True), accumulation=parts)
        run.train_on(next(iter(run.batches())))
        return [part.grad for part in run.network.model.parameters() if part.grad is not None]

    for whole, summed in zip(gradients(1), gradients(3), strict=True):
        torch.testing.assert_close(summed, whole, atol=1e-5, rtol=0)


def test_a_loss_that_is_no_number_names_the_samples(store: Path, tmp_path: Path) -> None:
    run = network_run(store, tmp_path, "classes", Accelerator(cpu=True))
    batch = next(iter(run.batches()))
    torch.nn.init.constant_(run.network.model.head.bias, float("nan"))  # type: ignore[union-attr, arg-type]
    rows = ", ".join(map(str, run.loader.last_rows.tolist()))
    with pytest.raises(
        SamplesError, match=rf"the loss of step 0 is nan, on samples {rows} of the split"
    ) as told:
        run.train_on(batch)
    assert told.value.row_numbers == tuple(run.loader.last_rows.tolist())


def test_a_loss_that_is_no_number_ends_all_processes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = network_run(store, tmp_path, "classes", Accelerator(cpu=True))
    batch = next(iter(run.batches()))
    sums = iter([(len(batch[0]),), (float("nan"), 0.0, len(batch[0]))])  # as if of others
    monkeypatch.setattr(run, "_summed", lambda *_: next(sums))
    before = [part.detach().clone() for part in run.network.model.parameters()]
    with pytest.raises(ModelError, match="the loss of step 0 is nan, on those of another process"):
        run.train_on(batch)
    for ours, theirs in zip(run.network.model.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)
