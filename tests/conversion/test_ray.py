"""Conversions on a Ray cluster of two nodes: whatever dies, the bytes are those of one process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from helpers import ray_clusters
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.deadly_sources import DeadlySplit
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.object_storage import S3Server
from helpers.ray_clusters import (
    EndsMachines,
    KillsOnce,
    OnGPU,
    OtherElsewhere,
    autoscaled,
    cluster_of,
    two_nodes,
)
from helpers.stores import contents
from helpers.waiting import HANG
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.conversion import Progress, RayExecutor, convert_source, work
from tokenstore.conversion.ranges import DEADLY, MOST_DEATHS
from tokenstore.errors import ArgumentError, IncompleteStoreError, TokenizerError, WorkerError
from tokenstore.sources import open_source
from tokenstore.writing import encoded

pytestmark = pytest.mark.ray
SKIPPING = replace(OPTIONS, on_error="skip")
BAD = ("train/class-0/003.png", "train/class-1/000.png", "val/class-2/001.png")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_grey_folder(folder / "train", 20)
    write_grey_folder(folder / "val", 2)
    for name in BAD:
        (folder / name).write_bytes(b"")
    return folder


def executor(cluster: Any, **settings: Any) -> RayExecutor:
    return RayExecutor(cluster.address, **{"actors": 2, "range_samples": 6, **settings})


def converted(images: Path, out: Path, **settings: Any) -> dict[str, bytes]:
    """Convert images by a tokenizer of grey patches, and return the files of the store."""
    arguments = {"tokenizer": BrightnessTokenizer(), "options": SKIPPING, **settings}
    convert_source(open_source(images), out, **arguments)
    return contents(out)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the store that one process writes."""
    return converted(images, tmp_path_factory.mktemp("whole") / "out")


def test_bad_images_and_a_codec_for_all_codes_give_the_bytes_of_one_process(
    tmp_path: Path, images: Path, cluster: Any
) -> None:
    options = replace(SKIPPING, codec="auto", min_decode_rate=0)
    alone = converted(images, tmp_path / "alone", options=options)
    assert converted(images, tmp_path / "out", options=options, executor=executor(cluster)) == alone


@pytest.mark.parametrize("views", ["flip", "random:3"])
def test_views_are_cut_on_a_cluster_as_by_one_process(
    tmp_path: Path, images: Path, cluster: Any, views: str
) -> None:
    options = replace(SKIPPING, views=views)
    alone = converted(images, tmp_path / "alone", options=options)
    assert converted(images, tmp_path / "out", options=options, executor=executor(cluster)) == alone


def test_an_actor_that_is_killed_is_replaced_and_its_ranges_are_encoded_again(
    tmp_path: Path, images: Path, cluster: Any, whole: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = KillsOnce(25, tmp_path / "marker")
    done = converted(images, tmp_path / "out", tokenizer=tokenizer, executor=executor(cluster))
    assert done == whole
    assert (tmp_path / "marker").exists()
    assert "an actor died and is replaced" in caplog.text


def test_a_sample_that_kills_decode_processes_is_bad_and_alone(
    tmp_path: Path, images: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "NODE_SECONDS", 1.0)
    results = []
    for name, where in (("alone", None), ("out", executor(cluster, range_samples=12))):
        source = open_source(images)
        splits = {**source.splits, "train": DeadlySplit(source.splits["train"], 31)}
        conversion = convert_source(
            replace(source, splits=splits),
            tmp_path / name,
            tokenizer=BrightnessTokenizer(),
            options=replace(SKIPPING, workers=1),
            executor=where,
        )
        results.append(contents(tmp_path / name))
        assert [skip.reason for skip in conversion.skipped["train"] if skip.source_index == 31] == [DEADLY]
    assert results[0] == results[1]


def test_a_node_that_is_killed_costs_only_what_it_had(
    tmp_path: Path, images: Path, cluster: Any, whole: dict[str, bytes]
) -> None:
    killed = []

    def kill_a_node(state: Progress) -> None:
        if not killed:
            killed.append(cluster.worker_nodes.copy().pop())
            cluster.remove_node(killed[0], allow_graceful=False)
        elif len(killed) == 1 and state.done > 40:
            killed.append(cluster.add_node(**ray_clusters.NODE))

    done = converted(images, tmp_path / "out", executor=executor(cluster), on_progress=kill_a_node)
    assert done == whole
    assert len(killed) == 2


def test_a_sample_on_machines_that_are_taken_away_is_good(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(SKIPPING, batch_size=1, splits=("val",))
    alone = converted(images, tmp_path / "alone", options=options)
    level = int(tokenstore.open(tmp_path / "alone")["val"][2].max())
    tokenizer = EndsMachines(level, MOST_DEATHS, tmp_path / "marker")
    with cluster_of(MOST_DEATHS + 1, **{**ray_clusters.NODE, "num_cpus": 0}) as spot:
        where = executor(spot, actors=1, range_samples=1)
        assert (
            converted(images, tmp_path / "out", tokenizer=tokenizer, options=options, executor=where) == alone
        )
    assert len(list(tmp_path.glob("marker.*"))) == MOST_DEATHS
    assert caplog.text.count("an actor died and is replaced") >= MOST_DEATHS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_conversion_whose_driver_was_killed_or_interrupted_goes_on_with_and_without_ray(
    tmp_path: Path, cluster: Any, number: signal.Signals
) -> None:
    write_grey_folder(tmp_path / "images", 20)
    alone = converted(tmp_path / "images", tmp_path / "alone", options=OPTIONS)
    words = (tmp_path / "images", tmp_path / "out", cluster.address, 24, number.value)
    driver = subprocess.run(
        [sys.executable, ray_clusters.__file__, *map(str, words)],
        timeout=HANG,
        check=False,
        capture_output=True,
        text=True,
    )
    assert driver.returncode == -number, driver.stderr
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for out, where in (("out", executor(cluster)), ("copy", None)):
        resumed_at = convert_source(
            open_source(tmp_path / "images"),
            tmp_path / out,
            tokenizer=BrightnessTokenizer(),
            options=OPTIONS,
            resume=True,
            executor=where,
        ).resumed_at
        assert resumed_at["train"] >= 16
        assert contents(tmp_path / out) == alone


def kill_an_actor() -> None:
    """Kill a process that is an actor."""
    actors = [
        each for each in psutil.process_iter(["cmdline"]) if "ray::_Worker" in str(each.info["cmdline"])
    ]
    actors[0].kill()


def test_a_cluster_without_room_grows_and_converts(
    tmp_path: Path, images: Path, whole: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    with autoscaled(tmp_path, 2) as address, ray.init(address, log_to_driver=False, logging_level="error"):
        assert "CPU" not in ray.cluster_resources()
        where = RayExecutor("auto", actors=2, range_samples=6)
        assert converted(images, tmp_path / "out", executor=where) == whole
        assert ray.cluster_resources()["CPU"] >= 1
    assert "an actor died" not in caplog.text


@pytest.mark.parametrize(("share", "expected"), [(None, ["0", "1"]), (0.5, ["0", "0"])])
def test_each_actor_has_its_own_gpu_or_its_share_of_one(
    tmp_path: Path, images: Path, whole: dict[str, bytes], share: float | None, expected: list[str]
) -> None:
    gpus = 2 if share is None else 1
    with cluster_of(0, **{**ray_clusters.NODE, "num_cpus": 2, "num_gpus": gpus}) as machine:
        where = executor(machine, gpus_per_actor=share)
        tokenizer = OnGPU(tmp_path / "seen")
        done = converted(images, tmp_path / "out", tokenizer=tokenizer, executor=where)
    assert sorted(path.name.partition("-")[0] for path in tokenizer.seen.iterdir()) == expected
    assert done == whole


def test_a_store_is_recoded_on_a_cluster_whether_actors_find_it_or_not_and_when_one_is_killed(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoded, "_PIECE_NBYTES", 100)
    rng = np.random.default_rng(0)
    captions = np.array([f"caption {row}" * (row % 3) for row in range(300)])
    codes = rng.integers(0, 90, (300, 4, 4))
    np.savez(tmp_path / "codes.npz", codes=codes, labels=np.arange(300) % 4, caption=captions)
    settings: dict[str, Any] = {
        "codebook_size": 100,
        "chunk_samples": 4,
        "prune_codebook": True,
        "columns": ("caption",),
    }
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "alone", **settings)
    where = executor(cluster, range_samples=50)
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "out", executor=where, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")

    tokenstore.recode(tmp_path / "alone", tmp_path / "zstd", codec="zstd", shard_samples=64)
    hidden = f"memory://{tmp_path.name}"  # which no other process finds
    tokenstore.copy(tmp_path / "alone", hidden)
    killed: list[int] = []

    def kill(step: str, done: int, total: int) -> None:
        if not killed:
            killed.append(done)
            kill_an_actor()

    for name, store, on_progress in (("a", tmp_path / "alone", kill), ("b", hidden, None)):
        tokenstore.recode(
            store,
            tmp_path / name,
            codec="zstd",
            shard_samples=64,
            executor=where,
            on_progress=on_progress,
        )
        assert contents(tmp_path / name) == contents(tmp_path / "zstd")
    written = tokenstore.open(tmp_path / "b")["train"].read("caption", range(300))
    assert written.tolist() == captions.tolist()
    assert killed
    assert "an actor died and is replaced" in caplog.text


def test_a_target_on_object_storage_gets_the_bytes_of_a_local_one(
    tmp_path: Path, images: Path, cluster: Any, whole: dict[str, bytes], s3_server: S3Server
) -> None:
    url = f"s3://{s3_server.new_bucket()}/out"
    arguments: dict[str, Any] = {
        "tokenizer": BrightnessTokenizer(),
        "executor": executor(cluster),
        "storage_options": s3_server.storage_options(),
        **{name: value for name, value in vars(SKIPPING).items() if name != "workers"},
    }

    def stop(state: Progress) -> None:
        if state.done >= 24:
            raise StoppedError

    with pytest.raises(StoppedError):
        tokenstore.convert(images, url, on_progress=stop, **arguments)
    assert tokenstore.convert(images, url, resume=True, **arguments).resumed_at["train"] >= 16
    tokenstore.copy(url, tmp_path / "back", storage_options=s3_server.storage_options())
    assert contents(tmp_path / "back") == whole


def test_the_command_converts_on_a_cluster(tmp_path: Path, cluster: Any) -> None:
    write_grey_folder(tmp_path / "images", 2)
    words = ["--image-size", "32", "--batch-size", "2"]
    for out, more in (("a", ["--workers", "1"]), ("b", ["--ray", cluster.address, "--actors", "2"])):
        result = CliRunner().invoke(
            cli, ["convert", str(tmp_path / "images"), str(tmp_path / out), *words, *more]
        )
        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    tokenstore.recode(tmp_path / "a", tmp_path / "c", codec="zstd")
    words = ["recode", str(tmp_path / "a"), str(tmp_path / "d"), "--codec", "zstd", "--ray", cluster.address]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    write_grey_folder(tmp_path / "images", 3)
    result = CliRunner().invoke(
        cli,
        ["convert", str(tmp_path / "images"), str(tmp_path / "e"), "--image-size", "32", "--workers", "1"],
    )
    assert result.exit_code == 0, result.output
    tokenstore.merge(tmp_path / "f", [tmp_path / "a", tmp_path / "e"])
    words = ["merge", *(str(tmp_path / name) for name in ("g", "a", "e")), "--ray", cluster.address]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "f") == contents(tmp_path / "g")


def test_a_tokenizer_that_an_actor_cannot_load_ends_the_conversion(
    tmp_path: Path, images: Path, cluster: Any
) -> None:
    with pytest.raises(TokenizerError, match="expected the tokenizer of fingerprint"):
        converted(images, tmp_path / "out", tokenizer=OtherElsewhere(), executor=executor(cluster))


def test_a_process_that_is_connected_already_converts_on_that_cluster_or_not_at_all(
    tmp_path: Path, images: Path, cluster: Any, whole: dict[str, bytes]
) -> None:
    import ray

    port = cluster.address.rpartition(":")[2]
    with ray.init(cluster.address, log_to_driver=False, logging_level="error"):
        for number, address in enumerate(("auto", cluster.address, f"localhost:{port}")):
            where = RayExecutor(address, actors=1, range_samples=300)
            assert converted(images, tmp_path / str(number), executor=where) == whole
            assert ray.is_initialized()
        for address in ("local", "127.0.0.1:9", f"no-such-host:{port}", f"ray://{cluster.address}"):
            message = rf"address: expected '.*:{port}', the cluster that .* found '{address}'.*address='auto'"
            with pytest.raises(ArgumentError, match=message):
                converted(images, tmp_path / "other", executor=RayExecutor(address))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999999"])
def test_a_cluster_that_does_not_answer_is_one_error(tmp_path: Path, images: Path, address: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed; run make test-ray")
    with pytest.raises(WorkerError, match=rf"{address}: no Ray cluster answers.*address='local'"):
        converted(images, tmp_path / "out", executor=RayExecutor(address))
