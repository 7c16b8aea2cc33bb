"""Networks learn from every kind of tokens: several codes a position, digits, lists, DCT coefficients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.network_commands import PRETRAIN, QUICK, lines, losses, refused, seitpp
from helpers.network_stores import CLASSES, write_labelled
from helpers.stores import write_store
from helpers.token_kinds import (
    DCT,
    DEMO,
    KINDS,
    LEVELS,
    RESIDUAL,
    SIDE,
    write_lists,
    write_residual,
)

import tokenstore
from seitpp_models import ModelError, load_model
from seitpp_models.evaluation import evaluate
from seitpp_models.networks import form_of
from seitpp_models.training import finetune, planned, pretrain
from seitpp_models.training.network_run import WEIGHTS
from tokenstore.tokenizers import load_tokenizer

TRAINED = ["--epochs", 12, "--evaluate-every", 0, "--drop-path", 0, "--learning-rate", 0.003]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    home = tmp_path_factory.mktemp("kinds")

    def written(kind: str) -> Path:
        path = home / f"{kind}.zarr"
        return path if path.exists() else KINDS[kind](path)

    return written


def ran(*arguments: object) -> str:
    result = seitpp(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def top1(run: Path) -> float:
    return float(lines(run / "evaluations.jsonl")[-1]["top1"])


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_classifier_learns_from_vectors_of_any_kind(
    kind: str, store: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ran("finetune", store(kind), "--out", run, *QUICK, *TRAINED, "--input", "vectors", "--augment", "none")
    assert top1(run) > 0.45, kind  # chance is 0.25
    assert evaluate(run / WEIGHTS, store=store(kind), workers=0, threads=1).figures["top1"] == top1(run)


@pytest.mark.parametrize("kind", list(KINDS))
def test_pretraining_and_finetuning_from_it_run_on_any_kind(
    kind: str, store: Callable[[str], Path], tmp_path: Path
) -> None:
    ran(
        "pretrain", store(kind), "--out", tmp_path / "mtm", *PRETRAIN, "--epochs", 4, "--learning-rate", 0.004
    )
    first, *_, last = [loss for _, loss in losses(tmp_path / "mtm")]
    assert last < first
    run = tmp_path / "tuned"
    ran("finetune", store(kind), "--out", run, "--from", tmp_path / "mtm" / WEIGHTS, *QUICK[4:], *TRAINED)
    assert top1(run) > 0.4, kind
    trained, masked = load_model(run / WEIGHTS), load_model(tmp_path / "mtm" / WEIGHTS)
    assert trained.shape.codebook_size == masked.shape.codebook_size
    assert trained.shape.scales == masked.shape.scales
    assert len(trained.shape.scales) == (14 if kind == "dct" else 0)


@pytest.mark.parametrize("kind", ["residual", "digits", "lists"])
def test_a_classifier_learns_from_codes_with_every_augmentation(
    kind: str, store: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for recipe, epochs in (("finetune", 12), ("seit", 1)):
        out = run if recipe == "finetune" else tmp_path / recipe
        ran("finetune", store(kind), "--out", out, *QUICK, *TRAINED, "--epochs", epochs, "--augment", recipe)
    assert top1(run) > 0.3, kind


def test_dct_coefficients_are_augmented_as_numbers_by_default(
    store: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    output = ran("finetune", store("dct"), "--out", run, *QUICK, *TRAINED)
    assert "Emb-Noise of strength 1" in output
    assert load_model(run / WEIGHTS).shape.codebook_size is None
    assert top1(run) > 0.4


def test_vectors_of_several_codebooks_are_added_or_concatenated(
    store: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = store("residual")
    for combination, channels in (("sum", 8), ("concatenate", 24)):
        run = tmp_path / combination
        options = [*QUICK, "--epochs", 1, "--input", "vectors", "--combination", combination]
        ran("finetune", opened, "--out", run, *options, "--augment", "seit")
        assert load_model(run / WEIGHTS).shape.channels == channels
        figures = evaluate(run / WEIGHTS, store=opened, workers=0, threads=1).figures
        assert figures["loss"] == pytest.approx(lines(run / "evaluations.jsonl")[-1]["loss"], abs=0.02)
    going_on = ["--from", tmp_path / "sum" / WEIGHTS, *QUICK[4:], "--combination", "concatenate"]
    done = seitpp("finetune", opened, "--out", tmp_path / "on", *going_on)
    assert done.exit_code == 2, done.output
    assert "--combination goes with networks from scratch or of codes" in " ".join(done.output.split())


@pytest.mark.parametrize("kind", ["residual", "digits", "lists", "dct"])
def test_digits_of_the_demo_are_told_apart_by_tokens_of_every_kind(kind: str, tmp_path: Path) -> None:
    store = DEMO[kind](tmp_path / "store.zarr")
    split = ["--evaluate-split", "val", "--patch", 1, "--augment", "none"]
    options = [*split, "--input", "vectors", "--epochs", 6]
    ran("finetune", store, "--out", tmp_path / "run", *QUICK, *TRAINED, *options)
    assert top1(tmp_path / "run") > 0.3, kind  # chance is 0.1


def test_a_timm_network_takes_several_codes_a_position(store: Callable[[str], Path], tmp_path: Path) -> None:
    cnn = ["--model", "test_resnet", *QUICK[4:], "--epochs", 1, "--drop-path", 0]
    for kind in ("residual", "dct"):
        ran("finetune", store(kind), "--out", tmp_path / kind, *cnn)
        evaluate(tmp_path / kind / WEIGHTS, store=store(kind), workers=0, threads=1)


def test_segmentation_takes_several_codes_a_position_and_no_lists(
    store: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ["--classes", CLASSES, "--head", "linear", *QUICK, "--epochs", 6]
    ran("segment", store("residual"), "--out", tmp_path / "run", *options)
    assert lines(tmp_path / "run" / "evaluations.jsonl")[-1]["miou"] > 0.15
    told = refused("segment", store("lists"), "--out", tmp_path / "lists", *options)
    assert "expected grids (H, W) of tokens, found lists of 10" in told or "expected masks" in told


def test_classifiers_of_dct_coefficients_are_measured_on_images(
    store: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ran("finetune", store("dct"), "--out", run, *QUICK, *TRAINED, "--augment", "none", "--epochs", 2)
    pictures = store("dct").with_suffix(".pictures") / "val"
    on_images = evaluate(run / WEIGHTS, images=pictures, workers=0, threads=1)
    assert on_images.figures["loss"] == pytest.approx(lines(run / "evaluations.jsonl")[-1]["loss"], abs=0.02)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("lists", "have no places in the image"), ("residual", "none is packaged for the codes of")],
)
def test_a_run_without_options_has_no_adapter_where_the_package_has_none(
    kind: str, reason: str, store: Callable[[str], Path], tmp_path: Path
) -> None:
    place = QUICK.index("--adapter")
    options = [*QUICK[:place], *QUICK[place + 2 :], "--epochs", 1]
    output = " ".join(ran("finetune", store(kind), "--out", tmp_path / "run", *options).split())
    assert "no TokenAdapt, as" in output
    assert reason in output
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (record["adapter"], record["run"]["augmentation"]["adapter"]) == ("none", "none")
    plan = planned("finetune", store(kind), epochs=1, batch_size=32, warmup_epochs=0, device="cpu")
    assert plan.settings["adapter"] == "none"
    told = refused("finetune", store(kind), "--out", tmp_path / "asked", *options, "--adapter", "default")
    assert "adapter" in told
    idle = seitpp("finetune", store(kind), "--out", tmp_path / "idle", *options, "--mixup", 0.8)
    assert (idle.exit_code, idle.output.split("Error: ")[-1]) == (2, "--mixup goes with --adapter\n")
    assert not (tmp_path / "idle").exists()


def test_codes_without_vectors_are_learned_from_alone(tmp_path: Path) -> None:
    bare = write_lists(tmp_path / "bare", codebook=None)
    told = refused("finetune", bare, "--out", tmp_path / "a", *QUICK)
    assert "expected the vectors of the codes" in told
    assert "--augment none" in told
    told = refused(
        "finetune", bare, "--out", tmp_path / "a", *QUICK, "--input", "vectors", "--augment", "none"
    )
    assert "expected the vectors of the codes" in told
    ran("finetune", bare, "--out", tmp_path / "run", *QUICK, *TRAINED, "--augment", "none")
    assert top1(tmp_path / "run") > 0.6
    ran("pretrain", bare, "--out", tmp_path / "mtm", *PRETRAIN, "--epochs", 1, "--augment", "none")
    several = write_residual(tmp_path / "several", codebook=None)
    ran("finetune", several, "--out", tmp_path / "three", *QUICK, "--epochs", 1, "--augment", "none")


def test_numbers_as_codes_go_with_no_augmentation(store: Callable[[str], Path], tmp_path: Path) -> None:
    codes = ["--input", "codes", *QUICK, "--epochs", 1]
    told = refused("finetune", store("dct"), "--out", tmp_path / "a", *codes)
    assert "--input codes goes with --augment none where codes are numbers" in told
    ran("finetune", store("dct"), "--out", tmp_path / "b", *codes, "--augment", "none")
    assert load_model(tmp_path / "b" / WEIGHTS).shape.codebook_size == (2048,) * 14


def test_grids_of_more_axes_are_refused(tmp_path: Path) -> None:
    codes = np.zeros((8, 2, 4, 4), np.uint8)
    store = tmp_path / "video"
    write_store(store, {"train": (codes, np.zeros(8, np.int32))}, 4, codebook=np.eye(4, dtype=np.float32))
    told = refused("finetune", store, "--out", tmp_path / "a", *QUICK)
    assert "expected grids (H, W) or lists (L,) of tokens, found (2, 4, 4)" in told


def test_a_resumed_run_of_numbers_gives_the_same_losses(store: Callable[[str], Path], tmp_path: Path) -> None:
    options = [*QUICK, "--augment", "seit", "--checkpoint-minutes", 0]
    ran("finetune", store("dct"), "--out", tmp_path / "whole", *options, "--epochs", 2)

    def stop(step: object) -> None:
        if getattr(step, "step", 0) == 4:
            raise InterruptedError

    settings = {
        "model": "tiny", "depth": 1, "threads": 1, "loader_threads": 0, "adapter": "none", "batch_size": 32,
        "warmup_epochs": 0.5, "learning_rate": 0.002, "device": "cpu", "augment": "seit", "epochs": 2,
        "checkpoint_minutes": 0.0,
    }  # fmt: skip
    with pytest.raises(InterruptedError):
        finetune(store("dct"), tmp_path / "parts", on_step=stop, **settings)  # type: ignore[arg-type]
    finetune(store("dct"), tmp_path / "parts", resume=True, **settings)  # type: ignore[arg-type]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_digits_are_those_of_the_codes_and_have_their_vectors(store: Callable[[str], Path]) -> None:
    opened = tokenstore.open(store("digits"))
    form = form_of(opened)
    assert form.codebook_sizes == LEVELS
    codes = torch.from_numpy(opened["val"].read("tokens", range(5)).astype(np.int64))
    digits = form.arranged(as_codes=True)(codes)
    assert torch.equal(digits[:, 0] + 5 * digits[:, 1] + 20 * digits[:, 2], codes)
    table = opened.codebook
    assert table is not None
    assert torch.allclose(form.vectors()(digits), torch.from_numpy(table)[codes].movedim(-1, 1))
    vectors = form.vectors()
    requantiser = vectors.requantiser()
    assert requantiser is not None
    assert torch.equal(requantiser(vectors(digits)), digits)
    whole = form.of_whole_codes()
    assert torch.equal(whole.vectors()(whole.arranged(as_codes=True)(codes)), vectors(digits))


def test_numbers_are_dequantised_by_the_tables_of_each_sample(store: Callable[[str], Path]) -> None:
    opened = tokenstore.open(store("dct"))
    form = form_of(opened)
    rows = opened["train"]
    codes, tables = (rows.read(name, range(4)).astype(np.int64) for name in ("tokens", "quantization"))
    assert len({table.tobytes() for table in tables}) == 2
    numbers = form.arranged(as_codes=False)(torch.from_numpy(codes), torch.from_numpy(tables))
    tokenizer = load_tokenizer(DCT)
    assert form.grid == (SIDE, SIDE)
    luma = [tables[:, 0, plane % 3] for plane in range(12)]
    factors = np.stack([*luma, tables[:, 1, 0], tables[:, 2, 0]], 1)
    assert np.array_equal(numbers.numpy(), (codes - 1024) * factors[:, :, None, None])
    again = tokenizer.numbers(torch.from_numpy(codes), quantization=torch.from_numpy(tables))  # type: ignore[attr-defined]
    assert torch.equal(numbers, again)


def test_files_of_such_networks_say_what_they_take(tmp_path: Path) -> None:
    store = write_residual(tmp_path / "store")
    quick = {"model": "tiny", "depth": 1, "threads": 1, "loader_threads": 0, "adapter": "none"}
    quick["precision"] = "fp32"
    result = finetune(store, tmp_path / "run", epochs=1, batch_size=32, warmup_epochs=0, **quick)  # type: ignore[arg-type]
    assert result.network.shape.codebook_size == (12, 12, 12)
    assert json.loads(json.dumps(result.network.arguments))["codebook_size"] == [12, 12, 12]
    loaded = load_model(result.weights)
    codes = torch.from_numpy(tokenstore.open(store)["val"].read("tokens", range(3)).astype(np.int64))
    assert torch.equal(loaded.model(codes), result.network.model(codes))
    assert RESIDUAL.shape == (3, 12, 8)
    with pytest.raises(ModelError, match="expected 3 codes a position, which the network takes, found 1"):
        evaluate(result.weights, store=write_labelled(tmp_path / "single"), workers=0, threads=1)
    masked = pretrain(
        store, tmp_path / "mtm", epochs=1, batch_size=32, warmup_epochs=0, decoder_width=32, **quick
    )  # type: ignore[arg-type]
    assert masked.network.shape.classes == 36
