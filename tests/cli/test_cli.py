"""The command line: help, exit codes, one-line errors, and the main job from end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.brightness import write_grey_folder
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG
from tokenstore_cli.demo import demo
from tokenstore_cli.demo import main as run_demo
from tokenstore_cli.main import _COMMANDS, cli
from tokenstore_cli.store.convert import _resuming_command

import tokenstore

COMMANDS = sorted(_COMMANDS)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_grey_folder(folder, 40)
    (folder / "class-1" / "bad.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "out.zarr"
    result = run("convert", images, out, "--image-size", 32, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "train: 120 samples stored, 1 skipped" in result.output
    assert "skipped class-1/bad.png: the file is empty" in result.output
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"tokenstore {command} " in result.output
    assert "Examples:" in result.output
    assert "130  interrupted" in result.output
    assert _COMMANDS[command][1].rstrip(".").split(":")[0].split()[0] in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_has_a_help_text(command: str) -> None:
    found = cli.get_command(None, command)  # type: ignore[arg-type]
    assert found is not None
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command} {parameter.name}"


def test_a_wrong_command_line_exits_with_2(images: Path, tmp_path: Path) -> None:
    assert run("convert", images).exit_code == 2
    assert run("convert", images, tmp_path / "x", "--codec", "lzma").exit_code == 2
    assert run("nothing").exit_code == 2
    result = run("info", tmp_path, "--storage-options", "[1]")
    assert result.exit_code == 2
    assert "expected a JSON object" in result.output


@pytest.mark.parametrize("command", ["info", "stats", "verify"])
def test_an_error_is_one_line_and_exits_with_1(command: str, tmp_path: Path) -> None:
    result = run(command, tmp_path / "nothing")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert result.output.startswith("Error: ")
    assert "no such file or folder" in result.output


def test_an_unexpected_error_is_one_line_too_unless_debugging(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("tokenstore.info", fail)
    result = run("info", store)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "ZeroDivisionError" in result.output
    assert isinstance(run("--debug", "info", store).exception, ZeroDivisionError)


def test_info_tells_what_the_manifest_says(store: Path) -> None:
    text = run("info", store).output
    assert "120 samples, 1 skipped" in text
    assert "class-0, class-1, class-2" in text
    values = json.loads(run("info", store, "--json").output)
    assert values["manifest"]["splits"]["train"]["samples"] == 120
    assert values["arrays"]["train/tokens"]["shape"] == [120, 4, 4]


def test_stats_agree_with_what_numpy_counts(store: Path) -> None:
    values = json.loads(run("stats", store, "--json").output)
    tokens = tokenstore.open(store)["train"][:]
    counts = np.bincount(tokens.ravel())
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    (use,) = values["splits"]["train"]["codebooks"]
    assert use["used"] == len(share)
    assert use["used"] + use["dead"] == use["size"]
    assert use["entropy_bits"] == pytest.approx(entropy)
    assert use["perplexity"] == pytest.approx(2**entropy)
    assert values["splits"]["train"]["class_counts"] == [40, 40, 40]
    on_disk = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert values["nbytes"] == on_disk == sum(values["nbytes_by_part"].values())
    text = run("stats", store).output
    assert "perplexity" in text
    assert "bytes a sample" in text


@pytest.fixture(scope="module")
def mixed_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three splits: one in 10 runs of a class each; two without labels, in 2 runs and in 1."""
    path = tmp_path_factory.mktemp("splits") / "store"
    codes, labels = random_codes(500, (4, 6), 391), np.arange(500, dtype=np.int32) // 50
    splits = {"train": (codes, labels), "plain": (codes[:100],), "val": (codes[:10],)}
    write_store(path, splits, chunk_samples=50, shard_samples=50)
    return path


def test_stats_say_how_well_each_order_mixes_each_split(mixed_splits: Path) -> None:
    words = "stats", mixed_splits, "--shuffle", "--batch-size", 20, "--shuffle-window", 100
    splits = json.loads(run(*words, "--json").output)["splits"]
    assert splits["val"]["shuffle"] is None
    found = splits["train"]["shuffle"]
    assert (found["runs"], found["window"]) == (10, 100)
    orders = found["orders"]
    assert orders["none"]["figure"] < 0.2 < orders["block"]["figure"] < 0.8 < orders["full"]["figure"]
    assert splits["plain"]["shuffle"]["orders"]["none"]["classes"] is None
    assert {order["batch_size"] for order in orders.values()} == {20}
    text = run(*words).output
    for name, title in (("none", "none"), ("full", "full"), ("block", "block (window 100 samples)")):
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith(title)]
        order = orders[name]
        numbers = [order[key] for key in ("runs", "runs_expected", "classes", "classes_expected")]
        shown = [f"{number:,.1f}" for number in numbers] + [f"{order['figure']:.2f}"]
        assert lines[0].removeprefix(title).split() == shown
        assert lines[1].removeprefix(title).split()[2:4] == ["-", "-"]
        assert len(lines) == 2
    assert text.count("orders: not measured") == 1
    assert text.count("1 is as good as a full shuffle") == 1
    assert "shuffle" not in json.loads(run("stats", mixed_splits, "--json").output)["splits"]["train"]
    assert "full shuffle" not in run("stats", mixed_splits).output


@pytest.mark.parametrize("option", ["--batch-size", "--shuffle-window"])
def test_options_of_orders_are_refused_without_shuffle(option: str, store: Path) -> None:
    result = run("stats", store, option, 10)
    assert result.exit_code == 2
    assert f"{option} goes with --shuffle" in result.output


def test_verify_says_ok_and_then_names_the_damaged_chunk(store: Path, tmp_path: Path) -> None:
    result = run("verify", store)
    assert result.exit_code == 0
    assert "ok; checked" in result.output
    import shutil

    shutil.copytree(store, tmp_path / "copy")
    shard = tmp_path / "copy" / "train" / "tokens" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 16
    shard.write_bytes(data)
    result = run("verify", tmp_path / "copy")
    assert result.exit_code == 1
    assert "train/tokens shard 0 chunk 0 (samples 0 to 63)" in result.output
    found = json.loads(run("verify", tmp_path / "copy", "--json").output)
    assert found["ok"] is False
    assert len(found["problems"]) == 2


def test_the_log_as_json_is_one_object_a_line(images: Path, tmp_path: Path) -> None:
    result = run("convert", images, tmp_path / "x", "--image-size", 16, "--workers", 0, "--log-json")
    events = [json.loads(line) for line in result.output.splitlines()]
    assert events[0]["event"] == "begin"
    assert events[-1]["event"] == "end"
    assert events[-1]["splits"]["train"]["samples"] == 120
    assert [event["source"] for event in events if event["event"] == "skipped"] == ["class-1/bad.png"]
    progress = [event["done"] for event in events if event["event"] == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 121


def test_every_source_kind_can_be_forced(images: Path, tmp_path: Path) -> None:
    result = run("convert", images, tmp_path / "x", "--source", "parquet")
    assert result.exit_code == 1
    assert "Error: " in result.output


def test_a_conversion_that_fails_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    result = run("convert", images, tmp_path / "x", "--image-size", 16, "--workers", 0, "--on-error", "fail")
    assert result.exit_code == 1
    assert "--resume" in result.output
    assert "class-1/bad.png" in result.output
    (bad := images / "class-1" / "bad.png").unlink()
    bad.write_bytes(b"")


def test_options_that_the_source_has_no_use_for_are_refused(images: Path, tmp_path: Path) -> None:
    result = run("convert", images, tmp_path / "x", "--codebook-size", 7)
    assert result.exit_code == 2
    assert "--codebook-size is for ready codes" in result.output
    np.save(tmp_path / "codes.npy", np.zeros((3, 4), np.uint8))
    result = run("convert", tmp_path / "codes.npy", tmp_path / "x", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device is for images" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--actors", "2"], "--actors goes with --ray ADDRESS"),
        (["--gpus-per-actor", "1"], "--gpus-per-actor goes with --ray ADDRESS"),
        (["--ray", "auto", "--workers", "2"], "--workers goes with work without --ray ADDRESS"),
        (["--ray", "auto", "--actors", "0"], "--actors"),
    ],
)
def test_options_of_actors_go_with_a_cluster(tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["convert", str(tmp_path), str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert message in result.output


def test_a_device_that_is_not_there_is_one_clear_error(images: Path, tmp_path: Path) -> None:
    result = run("convert", images, tmp_path / "x", "--device", "abacus")
    assert result.exit_code == 1
    assert "Error: device 'abacus' cannot be used here" in result.output


def test_a_store_inside_its_source_is_refused(images: Path) -> None:
    result = run("convert", images, images / "out.zarr")
    assert result.exit_code == 2
    assert "is inside the source" in result.output


@pytest.mark.parametrize("command", ["info", "stats", "verify"])
def test_an_interrupt_exits_with_130(command: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tokenstore.{command}", interrupted)
    result = run(command, store)
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_names_with_brackets_are_printed_as_they_are(store: Path, tmp_path: Path) -> None:
    (tmp_path / "ph[old].zarr").symlink_to(store)
    assert "ph[old].zarr" in run("stats", tmp_path / "ph[old].zarr").output


@pytest.mark.thorough
def test_the_demo_touches_only_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_grey_folder(tmp_path / "demo" / "mine", 3)
    (tmp_path / "demo" / "thesis.tex").write_text("important")
    demo(Path("demo/mine"))
    demo(Path("demo/mine"))
    assert (tmp_path / "demo" / "thesis.tex").read_text() == "important"
    assert len(list((tmp_path / "demo" / "mine").rglob("*.png"))) == 9
    assert "read 9 samples in 1 batch" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["demo", "nothing"])
    with pytest.raises(SystemExit) as left:
        run_demo()
    assert left.value.code == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_the_command_that_resumes_a_conversion_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["s3://user:secret@host/a?sig=secret", "out", '--storage-options={"key": "secret"}']
    more = ["--source-storage-options", '{"key": "secret"}', "--codec", "context"]
    monkeypatch.setattr("sys.argv", ["tokenstore", "convert", *words, *more])
    command = _resuming_command()
    assert "secret" not in command
    assert command.startswith("tokenstore convert --resume 's3://***@host/a?sig=***' out ")
    assert command.endswith("--codec context")


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_an_interrupted_conversion_says_how_to_go_on_and_does(tmp_path: Path, sent: signal.Signals) -> None:
    write_grey_folder(tmp_path / "images", 40, classes=1)
    for name in list((tmp_path / "images" / "class-0").iterdir()):
        for number in range(4):  # many, so that the signal comes before the last
            os.link(name, name.with_name(f"again-{number}-{name.name}"))
    command = [sys.executable, "-m", "tokenstore_cli.main", "convert", str(tmp_path / "images")]
    options = ["--image-size", "32", "--shard-samples", "64", "--batch-size", "4"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "out"), *options, "--log-json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "progress":
        time.sleep(0)
    process.send_signal(sent)
    out, errors = process.communicate(timeout=HANG)
    assert process.returncode == 130, errors
    assert errors == ""
    assert json.loads(out.splitlines()[-1])["event"] == "interrupted"
    again = run("convert", tmp_path / "images", tmp_path / "out", *options, "--resume", "--workers", 0)
    assert again.exit_code == 0, again.output
    undisturbed = run("convert", tmp_path / "images", tmp_path / "whole", *options, "--workers", 0)
    assert undisturbed.exit_code == 0
    assert (tmp_path / "out" / "zarr.json").read_bytes() == (tmp_path / "whole" / "zarr.json").read_bytes()
