"""The examples of docs/cluster.md: the scripts run, and each is named on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.brightness import write_grey_folder
from helpers.paths import ROOT
from helpers.ray_clusters import two_nodes
from helpers.stores import contents
from helpers.waiting import HANG

import tokenstore

EXAMPLES = ROOT / "docs" / "examples"


def run(command: list[object], **environment: str) -> None:
    """Run an example in which `tokenstore` is this one."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PYTHONPATH": path, "PATH": programs, **environment},
        timeout=HANG,
        check=True,
    )


def test_the_page_names_every_example() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    files = ["slurm_parts.sh", "slurm_merge.sh", "ray_job.py", "kuberay_job.yaml"]
    assert all(f"(examples/{name})" in page and (EXAMPLES / name).exists() for name in files)


def test_the_kubernetes_job_is_yaml_that_starts_the_ray_job() -> None:
    job = yaml.safe_load((EXAMPLES / "kuberay_job.yaml").read_text())
    assert job["kind"] == "RayJob"
    assert "ray_job.py" in job["spec"]["entrypoint"]


@pytest.mark.thorough
def test_the_slurm_scripts_make_the_store_of_one_conversion(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    tokenstore.convert(tmp_path / "images", tmp_path / "whole", image_size=32, workers=0)
    for number in (2, 1, 2):  # the second is requeued, though it has ended
        run(
            [
                *("bash", EXAMPLES / "slurm_parts.sh", tmp_path / "images", tmp_path / "parts"),
                *("--image-size", "32", "--workers", "0"),
            ],
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_TASK_COUNT="2",
        )
    run(["bash", EXAMPLES / "slurm_merge.sh", tmp_path / "parts", 2, tmp_path / "out"])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.ray
def test_the_ray_job_converts_and_goes_on(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    tokenstore.convert(tmp_path / "images", tmp_path / "whole", workers=0)
    with two_nodes() as cluster:
        for _ in range(2):
            run(
                [
                    *(sys.executable, EXAMPLES / "ray_job.py", tmp_path / "images", tmp_path / "out"),
                    *(2, "cpu", cluster.address),
                ]
            )
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
