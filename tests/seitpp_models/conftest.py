"""A labelled store and a pre-trained network, for all tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.network_commands import PRETRAIN, seitpp
from helpers.network_stores import PREPARED, write_labelled


@pytest.fixture(autouse=True)
def _no_accelerator_stays() -> Iterator[None]:
    """Forget the Accelerator that a test made itself."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curve after each evaluation, which takes as long as a small run; `pretrained` has one."""
    monkeypatch.setattr("seitpp_models.training.reports.draw_curve", lambda *_: None)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("training") / "store", preprocessing=PREPARED)


@pytest.fixture(scope="session")
def pretrained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    result = seitpp("pretrain", labelled, "--out", out, *PRETRAIN, "--epochs", 2)
    assert result.exit_code == 0, result.output
    return out
