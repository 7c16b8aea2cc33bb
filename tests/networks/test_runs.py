"""Runs in folders: one at a time, and states that are damaged, of other shapes, or too large for the disk."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.network_runs import SmallRun, Step, train

from tokenstore.errors import TokenizerError
from tokenstore.networks.records import RECORD
from tokenstore.networks.runs import LOG, STATE


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_has_one_run_at_a_time(tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "run"
    refused = []

    def begin_another(_: Step) -> None:
        with pytest.raises(TokenizerError, match=r"another process is writing this run\. Wait for") as error:
            train(SmallRun(out), resume=resume)
        refused.append(error)

    train(SmallRun(out), on_step=begin_another)
    assert len(refused) == 4
    assert [json.loads(line)["step"] for line in (out / LOG).read_text().splitlines()] == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    train(SmallRun(out), resume=True)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(SmallRun(out))
    loaded: dict[str, Any] = torch.load(out / STATE, weights_only=True)
    return loaded


def alias_bomb() -> list[Any]:
    bomb: list[Any] = []
    for _ in range(40):
        bomb = [bomb, bomb]
    return bomb


def moments(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    first = state["optimizer"]["state"][0] | changes
    return state["optimizer"] | {"state": state["optimizer"]["state"] | {0: first}}


def groups(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return state["optimizer"] | {"param_groups": [state["optimizer"]["param_groups"][0] | changes]}


OTHERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a missing part": lambda state: {name: part for name, part in state.items() if name != "model"},
    "a list for the weights": lambda state: state | {"model": [1, 2]},
    "other names of weights": lambda state: state | {"model": {"weight": torch.zeros(2, 3)}},
    "other shapes of weights": lambda state: state | {"model": state["model"] | {"bias": torch.zeros(7)}},
    "integer weights": lambda state: state | {"model": state["model"] | {"bias": torch.zeros(2).long()}},
    "other shapes of counts": lambda state: state | {"counts": (torch.zeros(3), 0)},
    "fewer counts": lambda state: state | {"counts": (torch.zeros(2),)},
    "text for a count": lambda state: state | {"counts": (torch.zeros(2), "many")},
    "no optimizer": lambda state: state | {"optimizer": None},
    "other shapes of moments": lambda state: state | {"optimizer": moments(state, exp_avg=torch.zeros(5))},
    "sparse moments": lambda state: (
        state | {"optimizer": moments(state, exp_avg=torch.zeros(2, 3).to_sparse())}
    ),
    "numbers for moments": lambda state: state | {"optimizer": moments(state, exp_avg=1.0)},
    "an unknown moment": lambda state: state | {"optimizer": moments(state, other=torch.zeros(2, 3))},
    "fewer parameters": lambda state: state | {"optimizer": groups(state, params=[0])},
    "a step past the end": lambda state: state | {"progress": (9, 1.0)},
    "a step that is text": lambda state: state | {"progress": ("two", 1.0)},
    "seconds without end": lambda state: state | {"progress": (2, float("inf"))},
    "a list for the config": lambda state: state | {"config": "[]"},
    "a deep config": lambda state: state | {"config": "[" * 100_000},
    "a number for the config": lambda state: state | {"config": 3},
    "lists of lists": lambda state: state | {"counts": alias_bomb(), "images": alias_bomb()},
    "lists of lists as weights": lambda state: state | {"model": alias_bomb()},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_other_shapes_or_types_is_one_error_that_names_the_file(
    tmp_path: Path, state: dict[str, Any], name: str
) -> None:
    torch.save(OTHERS[name](state), tmp_path / STATE)
    pattern = r"state\.pt: (expected the state|the run was begun)"
    with pytest.raises(TokenizerError, match=pattern) as refused:
        train(SmallRun(tmp_path), resume=True)
    assert len(str(refused.value)) < 1000


def test_settings_of_an_optimizer_are_those_of_the_config(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state | {"optimizer": groups(state, weight_decay="much", lr=None)}, tmp_path / STATE)
    run = SmallRun(tmp_path)
    run.restore()
    assert run.optimizer.param_groups[0]["weight_decay"] == 0.01
    run.train_on(4)


def test_a_compressed_state_is_refused_before_it_grows(tmp_path: Path, state: dict[str, Any]) -> None:
    large = tmp_path / "large.pt"
    torch.save(state | {"counts": (torch.zeros(1_000_000), 0)}, large)
    with zipfile.ZipFile(large) as whole, zipfile.ZipFile(tmp_path / STATE, "w", zipfile.ZIP_DEFLATED) as few:
        for entry in whole.infolist():
            few.writestr(entry.filename, whole.read(entry))
    with pytest.raises(TokenizerError, match=r"state\.pt.*found a compressed archive"):
        SmallRun(tmp_path).restore()


def test_a_state_of_an_older_version_has_the_defaults_of_settings_it_does_not_know(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    config = json.loads(state["config"])
    del config["warmup_steps"]
    torch.save(state | {"config": json.dumps(config)}, tmp_path / STATE)
    SmallRun(tmp_path).restore()


class FullDisk:
    """A file that takes some bytes, then no more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FullDisk:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)


@pytest.mark.parametrize("room", [0, 1000])
def test_a_full_disk_is_one_error_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    plain = Path.open
    with monkeypatch.context() as patched:

        def fill_up(step: Step) -> None:
            def opened(path: Path, mode: str = "r", *others: Any, **settings: Any) -> Any:
                file = plain(path, mode, *others, **settings)
                return FullDisk(file, room) if path.name == f"{STATE}.partial" and step.step > 2 else file

            patched.setattr(Path, "open", opened)

        pattern = r"state\.pt: step 3 cannot be written .*No space.*resume=True"
        with pytest.raises(TokenizerError, match=pattern):
            train(SmallRun(tmp_path), on_step=fill_up)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, LOG, STATE]
    run = SmallRun(tmp_path)
    run.restore()
    assert run.step == 2


def test_a_log_that_does_not_fit_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.open

    def opened(path: Path, mode: str = "r", *others: Any, **settings: Any) -> Any:
        file = plain(path, mode, *others, **settings)
        return FullDisk(file, 0) if path.name == LOG and mode == "a" else file

    monkeypatch.setattr(Path, "open", opened)
    text = r"state\.pt: step 1 cannot be written .*log\.jsonl: No space.*bytes are free.*resume=True"
    with pytest.raises(TokenizerError, match=text):
        train(SmallRun(tmp_path))


def test_a_folder_that_takes_no_lock_is_one_error_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed: list[tuple[bool, ...]] = []

    class Agreeing(SmallRun):
        def agree(self, *wishes: bool) -> tuple[bool, ...]:
            agreed.append(wishes)
            return wishes

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tokenstore.networks.runs.PlaceLock", refuse)
    with pytest.raises(TokenizerError, match=r"the folder cannot be locked \(Permission denied\)"):
        train(Agreeing(tmp_path / "run"))
    assert agreed[0] == (True,)
