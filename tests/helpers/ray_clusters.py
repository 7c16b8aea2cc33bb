"""Ray clusters of two nodes on this machine, and conversions that kill what encodes them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.brightness import BrightnessTokenizer
from helpers.paths import ROOT

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


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """Run a cluster of two nodes of one core each; skip the test where there can be none."""
    with cluster_of(1, **NODE) as cluster:
        yield cluster


@contextlib.contextmanager
def cluster_of(nodes: int, **head: Any) -> Iterator[Any]:
    """Run a cluster of a head and so many nodes of one core each; skip the test where there can be none."""
    pytest.importorskip("ray", reason="ray is not installed; run make test-ray")
    from ray.cluster_utils import Cluster
    from ray.util import get_node_ip_address

    if not _routes(get_node_ip_address()):
        pytest.skip(
            "this machine's address does not lead to itself; run make test-ray, in a network of its own"
        )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), *([before] if before else [])]
    )
    try:
        cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        try:
            for _ in range(nodes):
                cluster.add_node(**NODE)
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _routes(address: str) -> bool:
    with socket.socket() as server, contextlib.suppress(OSError):
        server.bind((address, 0))
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=2):
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
