"""Runs of several precisions in one process, beside an Accelerator of the program's own or without one."""

from __future__ import annotations

import os
import threading

import pytest
from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized

from seitpp_models.errors import ModelError
from seitpp_models.training.devices import devices_of, precision_of
from seitpp_models.training.settings import DeviceSettings


def on_cpu(precision: str) -> DeviceSettings:
    return DeviceSettings(device="cpu", precision=precision, threads=1)


@pytest.fixture
def own_accelerator() -> Accelerator:
    """Make the Accelerator of a program that trains by itself, too."""
    return Accelerator(cpu=True, mixed_precision="bf16")


def test_runs_of_one_process_may_differ_in_precision() -> None:
    for precision in ("bf16", "fp32", "bf16"):
        with devices_of(on_cpu(precision)) as devices:
            assert precision_of(devices) == precision
    assert not is_initialized()


def test_a_run_that_fails_leaves_no_precision_to_the_next() -> None:
    with pytest.raises(KeyError), devices_of(on_cpu("bf16")):
        raise KeyError
    assert not is_initialized()


def test_an_accelerator_of_the_program_stays_as_it_is(own_accelerator: Accelerator) -> None:
    with devices_of(on_cpu("bf16")) as devices:
        assert precision_of(devices) == "bf16"
    with (
        pytest.raises(ModelError, match=r"made an Accelerator of another device or precision"),
        devices_of(on_cpu("fp32")),
    ):
        pass
    assert own_accelerator.mixed_precision == "bf16"


def test_a_device_that_the_program_has_set_stays() -> None:
    own = PartialState(cpu=True)
    for precision in ("bf16", "fp32"):
        with devices_of(on_cpu(precision)) as devices:
            assert precision_of(devices) == precision
        assert (own.device.type, own.is_main_process) == ("cpu", True)
    assert not is_initialized()


def test_a_second_run_of_a_process_is_refused_while_the_first_goes_on() -> None:
    refused: list[BaseException] = []

    def second(precision: str = "fp32") -> None:
        try:
            with devices_of(on_cpu(precision)):
                pass
        except ModelError as error:
            refused.append(error)

    with devices_of(on_cpu("bf16")) as devices:
        other = threading.Thread(target=second)
        other.start()
        other.join()
        assert precision_of(devices) == "bf16"
        assert is_initialized()
        process = os.fork()
        if not process:  # a forked process has no run, but its parent's in its memory
            second("bf16")
            os._exit(len(refused) - 1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    (error,) = refused
    assert str(error).startswith("another training of this process is under way")
    second()
    assert len(refused) == 1
