"""The weights that a run keeps, the average it may evaluate or not, and what it trains of a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.network_commands import QUICK, lines, refused, seitpp
from helpers.network_stores import write_labelled
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.evaluation.figures import evaluate_segmenter
from seitpp_models.training.kept_weights import BEST, KeptWeights, WhatToKeep
from seitpp_models.training.network_run import AVERAGE, WEIGHTS
from seitpp_models.training.tasks import Classification
from tokenstore.augment import soft_targets


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("kept") / "store", 64)


def files_after(folder: Path, what: WhatToKeep, steps: range) -> list[str]:
    """Keep weights in a folder as a run of so many steps does, and return the names of its files."""
    kept = KeptWeights(folder, what)
    for step in steps:
        name, outdated = kept.after_step(step)
        if name is not None:
            (folder / name).touch()
        for path in outdated:
            path.unlink()
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("last", "every", "epochs"),
    [(0, 0, []), (2, 0, [8, 9]), (0, 3, [3, 6, 9]), (2, 3, [3, 6, 8, 9]), (1, 4, [4, 8, 9])],
)
def test_the_last_epochs_and_every_nth_stay(last: int, every: int, epochs: list[int], tmp_path: Path) -> None:
    what = WhatToKeep(last=last, every=every, epoch_steps=5)
    expected = [f"epoch-{epoch}.safetensors" for epoch in epochs]
    assert files_after(tmp_path, what, range(1, 48)) == expected
    resumed = files_after(tmp_path, what, range(45, 48))  # a run that goes on
    assert resumed == expected


def test_the_best_evaluation_is_that_of_the_figure_that_counts(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path, WhatToKeep(best=True))
    figures = [{"top1": 0.5, "loss": 1.0}, {"top1": 0.4, "loss": 0.1}, {"top1": 0.6, "loss": 9.0}]
    assert [kept.is_best(each) for each in figures] == [True, False, True]
    losses = KeptWeights(tmp_path, WhatToKeep(best=True))
    assert [losses.is_best({"loss": loss}) for loss in (2.0, 3.0, float("nan"), 1.0)] == [
        *(True, False, False, True)
    ]
    assert not KeptWeights(tmp_path, WhatToKeep()).is_best({"top1": 1.0})
    assert not KeptWeights(tmp_path, WhatToKeep(best=True)).is_best({})
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, figures)) + "\n")
    resumed = KeptWeights.resumed(tmp_path, WhatToKeep(best=True), tmp_path / "evaluations.jsonl")
    assert [resumed.is_best({"top1": top1}) for top1 in (0.55, 0.65)] == [False, True]


class Prefers(torch.nn.Module):
    """A segmenter that gives each pixel the class 0 with a logit."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.stack((self.logit, -self.logit)).view(1, 2, 1, 1).expand(len(codes), 2, *size)


def test_evaluations_of_segmenters_are_compared_by_mean_iou(tmp_path: Path) -> None:
    codes = torch.zeros((1, 2, 2), dtype=torch.long)
    masks = torch.tensor([[[0, 0], [0, 1]]])
    worse, better = (  # the better one is so sure that its loss is the larger one
        evaluate_segmenter(Prefers(logit), [(codes, masks)], classes=2, ignore_index=255)
        for logit in (-0.01, 9.0)
    )
    assert worse["loss"] < better["loss"]
    kept = KeptWeights(tmp_path, WhatToKeep(best=True))
    assert [kept.is_best(worse), kept.is_best(better)] == [True, True]


def test_a_run_keeps_its_weights_and_saves_an_average_that_it_does_not_evaluate(
    store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--keep-best", "--keep-last", 1, "--ema", 0.9, "--augment", "none", "--epochs", 2]
    done = seitpp("finetune", store, "--out", run, *QUICK, *options, "--no-evaluate-ema")
    assert done.exit_code == 0, done.output
    names = {path.name for path in run.glob("*.safetensors")}
    assert names == {WEIGHTS, AVERAGE, BEST, "epoch-2.safetensors"}
    network, average = load_file(run / WEIGHTS), load_file(run / AVERAGE)
    assert same(load_file(run / "epoch-2.safetensors"), network)
    assert not same(network, average)
    evaluations = [line["top1"] for line in lines(run / "evaluations.jsonl")]
    best = load_file(run / BEST)
    assert same(best, network) == (max(evaluations) > evaluations[0])
    averaged = tmp_path / "averaged"
    assert seitpp("finetune", store, "--out", averaged, *QUICK, *options).exit_code == 0
    assert same(load_file(averaged / WEIGHTS), average)
    both = lines(run / "evaluations.jsonl")[-1], lines(averaged / "evaluations.jsonl")[-1]
    for figure in ("loss", "top1"):
        assert both[0][figure] == both[1][f"raw_{figure}"]
        assert both[0][f"average_{figure}"] == both[1][figure]
    assert both[0]["loss"] != both[0]["average_loss"]
    assert not (averaged / AVERAGE).exists()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_attention_alone_is_trained_with_positions_and_head(store: Path, tmp_path: Path) -> None:
    options = [*QUICK, "--augment", "none", "--epochs", 1]
    weights = {}
    for name, rate in (("before", 1e-12), ("after", 2e-3)):
        done = seitpp(
            *("finetune", store, "--out", tmp_path / name, *options, "--attn-only"),
            *("--learning-rate", rate, "--min-lr", 0),
        )
        assert done.exit_code == 0, done.output
        weights[name] = load_file(tmp_path / name / WEIGHTS)
    changed = {
        name for name, tensor in weights["after"].items() if not torch.equal(tensor, weights["before"][name])
    }
    assert {"pos_embed", "head.weight", "blocks.0.attn.qkv.weight"} <= changed
    assert all(".attn." in name or name.split(".")[0] in ("pos_embed", "head") for name in changed)
    text = refused(
        *("finetune", store, "--out", tmp_path / "cnn", "--model", "resnet18", "--adapter", "none"),
        *("--batch-size", 32, "--device", "cpu", "--attn-only"),
    )
    assert "--attn-only: expected a ViT, whose blocks have attention" in " ".join(text.split())


def test_a_run_goes_on_with_the_head_of_its_beginning(store: Path, tmp_path: Path) -> None:
    options = [*QUICK, "--augment", "none", "--epochs", 1]
    assert seitpp("finetune", store, "--out", tmp_path / "first", *options).exit_code == 0
    going_on = ["--from", tmp_path / "first" / WEIGHTS, *options[4:], "--min-lr", 0]
    for name, kept in (("on", ["--keep-head"]), ("anew", [])):
        rate = ["--learning-rate", 1e-12]
        done = seitpp("finetune", store, "--out", tmp_path / name, *going_on, *rate, *kept)
        assert done.exit_code == 0, done.output
    first, on, anew = (load_file(tmp_path / name / WEIGHTS) for name in ("first", "on", "anew"))
    assert torch.allclose(on["head.weight"], first["head.weight"], atol=1e-9)
    assert not torch.allclose(anew["head.weight"], first["head.weight"], atol=1e-3)
    idle = seitpp("finetune", store, "--out", tmp_path / "none", *options, "--keep-head")
    assert (idle.exit_code, idle.output.split("Error: ")[-1]) == (2, "--keep-head goes with --from\n")


def test_the_binary_loss_is_a_mean_over_classes() -> None:
    class Plain(torch.nn.Module):
        def forward(self, codes: Tensor, labels: Tensor, generator: object) -> tuple[Tensor, Tensor]:
            return codes, labels

    class Random:
        own = None

    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    model = torch.nn.Identity()
    targets = soft_targets(labels, 5, 0.1)
    expected = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).mean()
    hard = Classification(Plain(), 0.1, "bce").loss(model, (logits, labels), Random())  # type: ignore[arg-type]
    soft = Classification(Plain(), 0.0, "bce").loss(model, (logits, targets), Random())  # type: ignore[arg-type]
    torch.testing.assert_close(hard.value, expected)
    torch.testing.assert_close(soft.value, expected)
    plain = Classification(Plain(), 0.1).loss(model, (logits, labels), Random())  # type: ignore[arg-type]
    torch.testing.assert_close(plain.value, F.cross_entropy(logits, labels, label_smoothing=0.1))
