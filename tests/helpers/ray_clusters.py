"""Ray clusters of two nodes on this machine, and conversions that kill what encodes them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from helpers.brightness import BrightnessTokenizer
from helpers.paths import ROOT
from helpers.waiting import wait_until

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


class KillsOnce(BrightnessTokenizer):
    """A tokenizer that kills its process at the first batch that has an image of this level."""

    def __init__(self, level: int, marker: Path) -> None:
        super().__init__()
        self.level, self.marker = level, marker

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        codes = super().encode(inputs)
        if (codes == self.level).any():
            with contextlib.suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return codes


class EndsMachines(BrightnessTokenizer):
    """A tokenizer that ends its machine at the first `count` batches that have an image of this level."""

    def __init__(self, level: int, count: int, marker: Path) -> None:
        super().__init__()
        self.level, self.count, self.marker = level, count, marker

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        codes = super().encode(inputs)
        if (codes == self.level).any():
            for number in range(self.count):
                with contextlib.suppress(FileExistsError):
                    self.marker.with_suffix(f".{number}").touch(exist_ok=False)
                    os.kill(os.getppid(), signal.SIGKILL)  # the raylet, which is the machine to Ray
                    os.kill(os.getpid(), signal.SIGKILL)
        return codes


class OtherElsewhere(BrightnessTokenizer):
    """A tokenizer that has another fingerprint in any process but the one that it was made in."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return ("b" if os.getpid() == self.pid else "c") * 64


class OnGPU(BrightnessTokenizer):
    """A tokenizer on a GPU, which notes in a folder what GPUs its process sees as it moves there."""

    def __init__(self, seen: Path) -> None:
        super().__init__()
        self.seen = seen
        self.device = torch.device("cuda")

    def to(self, device: object) -> OnGPU:
        assert str(device) == "cuda"
        self.seen.mkdir(exist_ok=True)
        (self.seen / f"{os.environ['CUDA_VISIBLE_DEVICES']}-{os.getpid()}").touch()
        self.device = torch.device("cpu")  # which has what a GPU would be given
        return self


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """Run a cluster of two nodes of one core each; skip the test where there can be none."""
    with cluster_of(1, **NODE) as cluster:
        yield cluster


@contextlib.contextmanager
def cluster_of(nodes: int, **head: Any) -> Iterator[Any]:
    """Run a cluster of a head and so many nodes of one core each; skip the test where there can be none."""
    _own_address()
    from ray.cluster_utils import Cluster

    with _tests_importable():
        cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        try:
            for _ in range(nodes):
                cluster.add_node(**NODE)
            yield cluster
        finally:
            cluster.shutdown()


@contextlib.contextmanager
def autoscaled(folder: Path, most: int) -> Iterator[str]:
    """Run a cluster whose head has no cores, and whose autoscaler adds up to `most` nodes of one core each.

    Its files are in `folder`. Yields its address; skips the test where there can be no cluster.
    """
    host = _own_address()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address, config = f"{host}:{port}", folder / "autoscaler.json"
    config.write_text(json.dumps(_autoscaling(address, most)))
    options = {
        "--autoscaling-config": config,
        "--port": port,
        "--num-cpus": 0,
        "--object-store-memory": NODE["object_store_memory"],
        "--include-dashboard": "false",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    with _tests_importable(), (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            env={**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: _routes_to(host, int(port)), process=head)
            yield address
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()


def _autoscaling(address: str, most: int) -> dict[str, Any]:
    """Return the configuration of an autoscaler whose nodes are processes on this machine."""
    resources = {"CPU": NODE["num_cpus"], "object_store_memory": NODE["object_store_memory"]}
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most},
    }
    lists = (
        "cluster_synced_files rsync_exclude rsync_filter initialization_commands setup_commands "
        "head_setup_commands worker_setup_commands head_start_ray_commands worker_start_ray_commands"
    )
    return {
        "cluster_name": "tests",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": kinds,
        **{name: [] for name in lists.split()},
    }


def _own_address() -> str:
    """Return the address of this machine; skip the test where no cluster can run by it."""
    pytest.importorskip("ray", reason="ray is not installed; run make test-ray")
    from ray.util import get_node_ip_address

    address: str = get_node_ip_address()
    if not _routes(address):
        pytest.skip(
            "this machine's address does not lead to itself; run make test-ray, in a network of its own"
        )
    return address


@contextlib.contextmanager
def _tests_importable() -> Iterator[None]:
    """Let the processes of a cluster import the project and its tests."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), *([before] if before else [])]
    )
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _routes(address: str) -> bool:
    with socket.socket() as server, contextlib.suppress(OSError):
        server.bind((address, 0))
        server.listen()
        return _routes_to(*server.getsockname())
    return False


def _routes_to(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


class Slow(BrightnessTokenizer):
    """A tokenizer that takes its time."""

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return super().encode(inputs)


def main() -> None:
    """Convert `IMAGES OUT ADDRESS` on a cluster, and send this process a signal when so many are done.

    The arguments are IMAGES OUT ADDRESS SAMPLES SIGNAL. The signal comes while this process waits for actors.
    """
    from helpers.grey_conversions import OPTIONS
    from tokenstore.conversion import Progress, RayExecutor, convert_source
    from tokenstore.sources import open_source

    images, out, address, samples, number = sys.argv[1:]
    later = threading.Timer(0.3, os.kill, (os.getpid(), int(number)))

    def kill(state: Progress) -> None:
        if state.done >= int(samples) and later.ident is None:
            later.start()

    convert_source(
        open_source(images),
        out,
        tokenizer=Slow(),
        options=OPTIONS,
        executor=RayExecutor(address, actors=2, range_samples=6),
        on_progress=kill,
    )


if __name__ == "__main__":
    main()
