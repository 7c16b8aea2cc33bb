"""A small training run in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.networks.runs import ResumableRun, RunOptions, run_steps
from tokenstore.networks.states import load_optimizer


@dataclass(frozen=True)
class Config:
    steps: int = 4
    learning_rate: float = 0.1
    warmup_steps: int = 1


@dataclass(frozen=True)
class Step:
    step: int


class SmallRun(ResumableRun[int, Step]):
    """A run that fits a line."""

    error = TokenizerError
    logged_steps: ClassVar[int] = 1

    def __init__(self, out: Path) -> None:
        super().__init__(Config(), out, {"images": ("the images", "a")})
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1)
        self.counts = (torch.zeros(2), 0)

    @override
    def batches(self) -> Iterable[int]:
        return range(self.step, self.config.steps)

    @override
    def train_on(self, batch: int) -> Callable[[int, float], Step]:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.model(torch.ones(1, 3)).sum())
        self.optimizer.step()
        return lambda step, seconds: Step(step)

    @override
    def save_weights(self) -> None: ...

    @override
    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": self.counts,
        }

    @override
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.counts = state["counts"]


def train(run: SmallRun, *, resume: bool = False, on_step: Callable[[Step], None] = lambda _: None) -> None:
    run_steps(
        run,
        RunOptions(resume, checkpoint_seconds=0),
        on_step=on_step,
        evaluate=lambda: None,
        on_evaluation=lambda *_: None,
    )
