"""The devices, processes and threads of a training run, as Accelerate and the launcher choose them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import DistributedType

from seitpp_models.errors import ModelError
from seitpp_models.training.settings import DeviceSettings
from tokenstore.errors import Parameter
from tokenstore.machine import available_cores
from tokenstore.networks.precision import has_bfloat16
from tokenstore.networks.threads import torch_threads

__all__ = ["devices_of", "precision_of"]

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""The names of precisions here, and Accelerate's."""
_runs: dict[int, object] = {}
"""The run of a process, by the process's number: it draws from torch's random state and has set Accelerate's.

A forked process has a copy of its parent's run, which is none of its own.
"""


@contextmanager
def devices_of(settings: DeviceSettings) -> Iterator[Accelerator]:
    """Give the Accelerator of a run, and restore torch's threads and random state when the block ends.

    Raises ModelError for a device or precision that this machine does not have, for another device or
    precision than those of an Accelerator that the program made itself, for processes that torchrun did not
    launch, and while another run of this process is under way.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    with _alone(), torch_threads(settings.threads or max(1, available_cores() // processes)), _own_state():
        devices = _accelerator(settings)
        gpus = [devices.device] if devices.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            yield devices


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second run in this process: both would draw from torch's one random state in turn."""
    process, run = os.getpid(), object()
    if _runs.setdefault(process, run) is not run:
        raise ModelError(
            "another training of this process is under way, and the two would share torch's random state; "
            "train them one after the other, or each in a process of its own"
        )
    try:
        yield
    finally:
        del _runs[process]


@contextmanager
def _own_state() -> Iterator[None]:
    """Forget the device and precision of this run at its end, unless the program had set them before.

    Accelerate keeps those of a process's first Accelerator, and refuses a later one that differs. The device
    alone may have been set before, by a PartialState.
    """
    is_own = not is_initialized()
    has_device = PartialState.__new__(PartialState).initialized  # subtle: to make one would set the device
    try:
        yield
    finally:
        if is_own:
            AcceleratorState._reset_state(reset_partial_state=not has_device)


def precision_of(devices: Accelerator) -> str:
    """Return the precision of a run: fp32, bf16 or fp16."""
    return {theirs: ours for ours, theirs in _PRECISIONS.items()}[devices.mixed_precision]


def _accelerator(settings: DeviceSettings) -> Accelerator:
    on_cpu = settings.device == "cpu"
    device = torch.device("cpu" if on_cpu or not torch.cuda.is_available() else "cuda")
    if settings.device not in (None, "auto", device.type):
        parameter = Parameter("device", settings.device)
        raise ModelError(
            f"{parameter}: expected cpu, or cuda where torch finds a GPU, found {device}; choose among GPUs "
            "by CUDA_VISIBLE_DEVICES",
            parameters=[parameter],
        )
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if has_bfloat16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        parameter = Parameter("precision", precision)
        raise ModelError(f"{parameter}: expected fp32 or bf16 on a CPU", parameters=[parameter])
    had_state = is_initialized()
    try:
        devices = Accelerator(cpu=on_cpu, mixed_precision=_PRECISIONS[precision])
    except ValueError as error:
        if not had_state:
            raise
        asked = Parameter("device", settings.device), Parameter("precision", precision)
        raise ModelError(
            f"{asked[0]}, {asked[1]}: this process has made an Accelerator of another device or precision; "
            "ask for that one's, or train in a process of its own",
            parameters=asked,
        ) from error
    if devices.distributed_type not in _SUPPORTED:
        raise ModelError(
            f"expected one process, or several by DDP, found {devices.distributed_type}; launch them by "
            "torchrun"
        )
    return devices
