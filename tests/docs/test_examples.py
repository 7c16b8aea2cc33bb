"""The scripts of docs/examples: each is short, is shown on a page, and runs on a small store."""

from __future__ import annotations

import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from helpers.paths import ROOT
from PIL import Image

import tokenstore

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
ON_A_CLUSTER = "ray_job"
"""The example that tests/conversion/test_cluster_examples.py runs."""
LONGEST = 40
KINDS, EACH = 4, 10


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 40 images of 64x64 pixels in 4 classes, and a label map for each."""
    folder = tmp_path_factory.mktemp("examples") / "photos"
    draw = np.random.default_rng(0)
    for number in range(KINDS * EACH):
        kind = folder / f"kind {number % KINDS}"
        kind.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(kind / f"{number:02}.png")
        maps = folder.parent / "maps" / kind.name
        maps.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse[..., 0] // 64).resize((64, 64), 0).save(maps / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def store(photos: Path) -> Path:
    """Convert the images, all of them to one split."""
    path = photos.with_name("photos.zarr")
    tokenstore.convert(photos, path, workers=0)
    return path


@pytest.fixture
def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Give a function that runs an example in this process and returns what it printed."""

    def run(name: str, *arguments: object) -> str:
        path = ROOT / "docs" / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        AcceleratorState._reset_state(reset_partial_state=True)
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_example_has_at_most_forty_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_each_example_is_on_a_page() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert [path.name for path in EXAMPLES if f"examples/{path.name}" not in pages] == []


def test_each_example_is_run_by_a_test() -> None:
    here = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES if f'"{path.stem}"' not in here] == []


def test_images_are_converted(printed: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copytree(photos / "kind 0", tmp_path / "photos" / "kind 0")
    (tmp_path / "photos" / "kind 0" / "bad.png").write_bytes(b"no image")
    text = printed("convert_images", tmp_path / "photos", tmp_path / "store")
    assert "bad.png was left out" in text
    assert f"{EACH} samples of (8, 8) codes" in text


def test_a_store_is_read(printed: Callable[..., str], store: Path) -> None:
    text = printed("read_store", store)
    assert f"(3, 8, 8) uint16; {KINDS * EACH} samples" in text
    assert "'kind 3'" in text
    assert text.endswith("True\n")


def test_tokens_from_a_loop_are_written_once(printed: Callable[..., str], tmp_path: Path) -> None:
    for _ in range(2):
        assert printed("tokens_from_a_loop", tmp_path / "store") == "1000 (7, 'sample 17')\n"


def test_label_maps_are_read(printed: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    for name in ("photos", "maps"):
        shutil.copytree(photos.with_name(name) / "kind 0", tmp_path / name)
    text = printed("segmentation", tmp_path / "photos", tmp_path / "maps", tmp_path / "store")
    assert text == "ignored label: 255\n(2, 8, 8) (2, 64, 64) torch.uint8\n"


def test_a_training_loop_goes_on(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    assert printed("training_loop", store, tmp_path / "state", 1).startswith("epoch 0")
    assert printed("training_loop", store, tmp_path / "state", 2).startswith("epoch 1")


def test_accelerate_goes_on(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    for epoch in (1, 2):
        text = printed("accelerate_loop", store, tmp_path / "checkpoint")
        assert text.endswith(f"the next epoch is {epoch}\n")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_lightning_trains(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    printed("lightning_loop", store, 1, tmp_path)
    assert list(tmp_path.rglob("*.ckpt"))


def test_a_state_goes_on_with_other_batches(printed: Callable[..., str], store: Path) -> None:
    assert printed("resume", store).startswith(f"{KINDS * EACH} samples, each once")


def test_codes_are_augmented(printed: Callable[..., str], store: Path) -> None:
    assert "(8, 8, 8) -> (8, 8, 8); soft targets (8, 10)" in printed("augment", store)


def test_a_tokenizer_of_ones_own(printed: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    printed("own_tokenizer", photos, tmp_path / "store")
    with Image.open(f"{tmp_path / 'store'}.png") as sheet:
        assert sheet.width > 100


def test_a_source_of_ones_own(printed: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in (photos / "kind 1").iterdir():
            archive.write(path, path.name)
    printed("own_source", tmp_path / "photos.zip", tmp_path / "store")
    table = tokenstore.TokenDataset(tmp_path / "store").samples_table()
    assert table["source"].to_pylist() == sorted(path.name for path in (photos / "kind 1").iterdir())


def test_stores_are_edited(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    text = printed("edit_stores", store, tmp_path)
    assert f"train: {KINDS * EACH - 8}, val: 8" in text
    assert "samples only" not in text
    assert ".parquet" in text


def test_a_remote_store_is_read(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(store), "/examples/photos.zarr", recursive=True)
    assert printed("remote_store", "memory://examples/photos.zarr", tmp_path) == f"{KINDS * EACH} samples\n"


def test_networks_are_trained_and_evaluated(printed: Callable[..., str], store: Path, tmp_path: Path) -> None:
    assert "top1" in printed("train_and_evaluate", store, tmp_path)


def test_the_ray_job_is_run_elsewhere() -> None:
    assert ON_A_CLUSTER == "ray_job"
