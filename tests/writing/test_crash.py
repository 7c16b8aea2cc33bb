"""kill -9 at any moment, then --resume: the store is the one an undisturbed conversion writes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.crash_runs import conversions as conversions
from helpers.crash_runs import run
from helpers.grey_conversions import OPTIONS
from PIL import Image

import tokenstore
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import IncompleteStoreError, NotAStoreError
from tokenstore.sources import open_source

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

KILLS = 50


def contents(out: Path) -> dict[str, bytes]:
    if out.is_file():
        return {out.name: out.read_bytes()}
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def opens(out: Path) -> bool:
    try:
        store = tokenstore.open(out)
    except (IncompleteStoreError, NotAStoreError):
        return False
    for split in store.splits:
        store[split][:]
    return True


def check_every_kill(
    conversions: subprocess.Popen[str], source: Path, out: Path, step: int, action: str = "convert"
) -> dict[str, bytes]:
    """Kill at each `step`th file operation, resume, and compare; return the files of the whole store."""
    whole = out.parent.parent / "whole" / out.name
    whole.parent.mkdir()
    assert run(conversions, source, whole, 0, action)
    expected = contents(whole.parent)
    for operation in range(1, 1000, step):
        out.parent.mkdir()
        finished = run(conversions, source, out, operation, action)
        if opens(out):
            found = contents(out)
            assert {path: found.get(path) for path in contents(whole)} == contents(whole)
        assert run(conversions, source, out, 0, action)
        assert contents(out.parent) == expected, f"killed at file operation {operation}"
        shutil.rmtree(out.parent)
        if finished:
            break
    assert finished
    assert operation > 50
    return contents(whole)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("out.zarr", 23),
        ("out.zip", 43),
        pytest.param("out.zarr", 1, marks=pytest.mark.thorough),
        pytest.param("out.zip", 2, marks=pytest.mark.thorough),
    ],
)
def test_killed_at_any_file_operation_a_store_resumes_to_the_same_bytes(
    tmp_path: Path, name: str, step: int, conversions: subprocess.Popen[str]
) -> None:
    images = tmp_path / "images"
    write_grey_folder(images / "train", 4)
    write_grey_folder(images / "val", 1)
    (images / "train" / "class-1" / "002.png").write_bytes(b"")
    (images / "val" / "class-2" / "zzz.png").write_bytes(b"")
    check_every_kill(conversions, images, tmp_path / "killed" / name, step)


@pytest.mark.parametrize(
    ("name", "pruned", "step"),
    [
        ("out.zip", True, 37),
        pytest.param("out.zarr", False, 1, marks=pytest.mark.thorough),
        pytest.param("out.zip", True, 2, marks=pytest.mark.thorough),
    ],
)
def test_a_merge_that_is_killed_at_any_file_operation_resumes_to_the_bytes_of_one_conversion(
    tmp_path: Path, name: str, pruned: bool, step: int, conversions: subprocess.Popen[str]
) -> None:
    images, parts = tmp_path / "images", tmp_path / "parts"
    write_grey_folder(images / "train", 4)
    write_grey_folder(images / "val", 1)
    (images / "train" / "class-1" / "002.png").write_bytes(b"")
    options = replace(OPTIONS, on_error="skip", prune_codebook=pruned)
    for number, out in ((1, parts / "1"), (2, parts / "2"), (3, parts / "3"), (0, tmp_path / "one" / name)):
        part = replace(options, part=(number, 3) if number else None)
        convert_source(open_source(images), out, tokenizer=BrightnessTokenizer(), options=part)
    merged = check_every_kill(conversions, parts, tmp_path / "killed" / name, step, "merge")
    assert merged == contents(tmp_path / "one" / name)


@pytest.mark.parametrize(
    ("name", "codec", "step"),
    [
        ("out.zarr", "bitpack", 37),
        pytest.param("out.zarr", "bitpack", 1, marks=pytest.mark.thorough),
        pytest.param("out.zip", "context", 5, marks=pytest.mark.thorough),
    ],
)
def test_a_writer_of_batches_that_is_killed_at_any_file_operation_resumes_to_the_same_bytes(
    tmp_path: Path, name: str, codec: str, step: int, conversions: subprocess.Popen[str]
) -> None:
    check_every_kill(conversions, Path(codec), tmp_path / "killed" / name, step, "write")


@pytest.mark.parametrize(
    ("layout", "step"),
    [
        ("jsonl", 83),
        pytest.param("parquet", 1, marks=pytest.mark.thorough),
        pytest.param("llamagen", 3, marks=pytest.mark.thorough),
    ],
)
def test_an_export_that_is_killed_at_any_file_operation_resumes_to_the_same_files(
    tmp_path: Path, layout: str, step: int, conversions: subprocess.Popen[str]
) -> None:
    codes = np.arange(25 * 4, dtype=np.uint8).reshape(25, 2, 2)
    tokenstore.write(tmp_path / "store", codes, labels=np.arange(25), codebook_size=256)
    source = Path(f"{tmp_path / 'store'}@{layout}")
    files = check_every_kill(conversions, source, tmp_path / "killed" / "out", step, "export")
    assert "tokenstore-export.json" in files


@pytest.mark.thorough
def test_killed_again_and_again_a_store_still_gets_there(
    tmp_path: Path, conversions: subprocess.Popen[str]
) -> None:
    write_grey_folder(tmp_path / "images", 9)
    assert run(conversions, tmp_path / "images", tmp_path / "whole", 0)
    rng = random.Random(0)
    for _ in range(200):
        if run(conversions, tmp_path / "images", tmp_path / "out", rng.randint(8, 150)):
            break
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_command_killed_at_50_random_moments_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(600):
        path = tmp_path / "images" / f"class-{number % 3}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "class-0" / "0000.jpg").write_bytes(b"not an image")
    command = [sys.executable, "-m", "tokenstore_cli.main", "convert", str(tmp_path / "images")]
    options = ["--image-size", "64", "--shard-samples", "128", "--resume"]
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole"), *options], check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - started
    expected = contents(tmp_path / "whole")
    moments = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        out = tmp_path / "out"
        process = subprocess.Popen(
            [*command, str(out), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        if opens(out):
            found = contents(out)
            assert {path: found.get(path) for path in expected} == expected
        subprocess.run([*command, str(out), *options], check=True, stdout=subprocess.DEVNULL)
        assert contents(out) == expected
        shutil.rmtree(out)
    assert killed > KILLS // 2
