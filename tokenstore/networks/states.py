"""The states of training runs in files: read without running anything in them, and checked before use."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenstore.networks.checkpoints import read_pytorch

__all__ = ["check_like", "load_optimizer", "read_state"]

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""The names of what AdamW keeps of a parameter."""


def read_state(path: Path) -> dict[str, Any]:
    """Return the values by name in a file of `torch.save`.

    Raises FileNotFoundError if there is none, and nearly any exception for a damaged file.
    """
    with path.open("rb"):  # whoever asks for a file that is not there gets that error
        pass
    if not zipfile.is_zipfile(path):
        raise ValueError("expected a zip file as torch.save writes it")
    state = read_pytorch(path, mapped=False)
    if not isinstance(state, dict):
        raise ValueError(f"expected values by name, found a {type(state).__name__}")
    return state


def check_like(actual: object, expected: object, where: str) -> None:
    """Raise ValueError, with `where`, unless two values agree in names, lengths, types and shapes.

    Mappings and sequences are compared with all that they hold; tensors by shape and dtype. None agrees with
    every number and text.
    """
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or actual.keys() != expected.keys():
            raise ValueError(f"{where}: expected values by other names")
        for name, value in expected.items():
            check_like(actual[name], value, f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        if type(actual) is not type(expected) or len(actual) != len(expected):
            raise ValueError(f"{where}: expected {len(expected)} values in a {type(expected).__name__}")
        for number, value in enumerate(expected):
            check_like(actual[number], value, f"{where}[{number}]")
    elif isinstance(expected, Tensor):
        _check_tensor(actual, expected.shape, expected.dtype, where)
    else:
        kinds: tuple[type, ...] = (int, float, str) if expected is None else (type(expected),)
        kinds = (int, float) if isinstance(expected, int | float) else kinds
        if actual is not None and not isinstance(actual, kinds):
            raise ValueError(
                f"{where}: expected a {type(expected).__name__}, found a {type(actual).__name__}"
            )


def _check_tensor(actual: object, shape: Sequence[int], dtype: torch.dtype | None, where: str) -> None:
    if not isinstance(actual, Tensor) or actual.layout != torch.strided:
        kind = f"{actual.layout} tensor" if isinstance(actual, Tensor) else type(actual).__name__
        raise ValueError(f"{where}: expected a dense tensor, found a {kind}")
    if tuple(actual.shape) != tuple(shape) or (dtype is not None and actual.dtype != dtype):
        raise ValueError(
            f"{where}: expected shape {tuple(shape)}{'' if dtype is None else f' of {dtype}'}, found "
            f"{tuple(actual.shape)} of {actual.dtype}"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Resume AdamW from a result of its `state_dict`; raise ValueError for one of other parameters.

    Its settings stay: a run's config decides them, and its schedule the learning rate of every step.
    """
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in own]:
        raise ValueError("optimizer: expected as many parameters as the networks have")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in state["state"].items():
        where = f"optimizer.state[{number!r:.20}]"
        if number not in range(len(parameters)) or set(moments) != _MOMENTS:
            raise ValueError(f"{where}: expected the moments of one of {len(parameters)} parameters")
        for name, value in moments.items():
            shape = () if name == "step" else parameters[number].shape
            _check_tensor(value, shape, None, f"{where}.{name}")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
