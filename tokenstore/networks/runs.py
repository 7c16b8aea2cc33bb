"""Training runs that are kept in a folder: steps, checkpoints and a log, to go on from where they stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from tokenstore.errors import Parameter, TokenstoreError
from tokenstore.files import whole_file, write_file

__all__ = ["LOG", "STATE", "ResumableRun", "StepResult", "cut_log", "run_steps"]

STATE = "state.pt"
LOG = "log.jsonl"


class RunConfig(Protocol):
    """What decides a run: a dataclass of JSON values, of which these are read here."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...


class StepResult(Protocol):
    """What a step of training gave: a dataclass of JSON values."""

    @property
    def step(self) -> int:
        """Steps done."""


_Result = TypeVar("_Result", bound=StepResult)
_Batch = TypeVar("_Batch")
_Quality = TypeVar("_Quality")


class ResumableRun(ABC, Generic[_Batch, _Result]):
    """A training run and its state in a folder. Errors are of the class `error`."""

    error: ClassVar[type[TokenstoreError]]
    logged_steps: ClassVar[int] = 10
    """Steps from each line of the log to the next."""

    def __init__(self, config: Any, out: Path, inputs: Mapping[str, tuple[str, str]]) -> None:
        """`inputs` are, by the name they have in the state, what messages call them and a digest of them."""
        self.config = config
        self.out = out
        self._inputs = inputs
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def batches(self) -> Iterable[_Batch]:
        """What is learnt from, beginning at the present step."""

    @abstractmethod
    def trained(self, batch: _Batch) -> Callable[[int, float], _Result]:
        """Do one step; what it gave, once the steps done and the seconds of training so far are known."""

    @abstractmethod
    def save_weights(self) -> None:
        """Write to the folder what is trained for."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to go on: tensors, numbers and texts."""

    @abstractmethod
    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""

    @property
    def writes(self) -> bool:
        """Whether this process writes to the folder; of several that train together, one does."""
        return True

    def agreed(self, *wishes: bool) -> tuple[bool, ...]:
        """What all processes that train together do, where each has wishes of its own."""
        return wishes

    def run(self) -> Iterator[_Result]:
        """Train on to the last step, yielding what each step gave; save() keeps a run to go on with."""
        start = time.monotonic()
        for batch in self.batches():
            result = self.trained(batch)
            self.step += 1
            self.seconds += time.monotonic() - start
            start = time.monotonic()
            yield result(self.step, self.seconds)

    def save(self) -> None:
        """Write the weights, and all that is needed to go on."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.save_weights()
        digests = {name: digest for name, (_, digest) in self._inputs.items()}
        state = {"config": self._config_json(), **digests, **self.state()}
        with whole_file(self.out / STATE) as file:
            torch.save(state | {"progress": (self.step, self.seconds)}, file)

    def restore(self) -> None:
        """Take up the run in the folder; raises `error` where it is none, or of other inputs."""
        path = self.out / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            config, digests = state["config"], {name: state[name] for name in self._inputs}
        except FileNotFoundError as error:
            raise self.error(f"{path}: expected the state of a run, found nothing there") from error
        except Exception as error:  # torch.load answers a damaged file with nearly any exception
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise self.error(f"{path}: expected the state of a run, found damage ({reason})") from error
        self._refuse_another_run(path, config, digests)
        self.take(state)
        self.step, self.seconds = state["progress"]

    def set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """That of the present step: a warm-up, then half a cosine to 0.5 %."""
        warmup = min(1.0, (self.step + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        rate = float(self.config.learning_rate * warmup * (0.005 + 0.995 * cosine))
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def refuse_unless_finite(self, name: str, value: float) -> None:
        """Raises `error` where the present step's loss or error is no number."""
        if not math.isfinite(value):
            raise self.error(
                f"training: the {name} of step {self.step} is {value}. The last checkpoint in {self.out} is "
                "from before; begin anew with a lower learning rate"
            )

    def _config_json(self) -> str:
        return json.dumps(asdict(self.config), sort_keys=True)

    def _refuse_another_run(self, path: Path, config: str, digests: Mapping[str, str]) -> None:
        ours, theirs = json.loads(self._config_json()), json.loads(config)
        changed = [
            f"{name} {theirs.get(name)} -> {ours[name]}" for name in ours if ours[name] != theirs.get(name)
        ]
        changed += [called for name, (called, digest) in self._inputs.items() if digests[name] != digest]
        if changed:
            raise self.error(
                f"{path}: the run was begun with other inputs ({'; '.join(changed)}). Give those it was "
                "begun with, or train into another folder"
            )


def run_steps(
    run: ResumableRun[Any, _Result],
    *,
    resume: bool,
    checkpoint_seconds: float,
    evaluate_steps: int,
    on_step: Callable[[_Result], None],
    evaluate: Callable[[], _Quality],
    on_evaluation: Callable[[int, _Quality], None],
) -> _Quality:
    """Train to the last step and evaluate, also every `evaluate_steps` before (0: never); the last quality.

    Ctrl-C and SIGTERM stop it after a step, which is kept; a crash loses what came after the last
    checkpoint. Raises the run's error where its folder holds a run and `resume` is false.
    """
    out = run.out
    if resume:
        run.restore()
    elif (out / STATE).exists():
        parameter = Parameter("resume", True)
        raise run.error(
            f"{out}: a run is there. Go on with it by {parameter}, or train into another folder",
            parameters=[parameter],
        )
    out.mkdir(parents=True, exist_ok=True)
    if run.writes:
        cut_log(out / LOG, run.step)
    saved = time.monotonic()
    evaluated = range(evaluate_steps, run.config.steps, evaluate_steps) if evaluate_steps else ()
    log_path = out / LOG if run.writes else Path(os.devnull)
    with log_path.open("a") as log, _deferred_interrupts() as interrupted:
        if run.step in evaluated:  # it may have stopped before it was
            on_evaluation(run.step, evaluate())
        for result in run.run():
            on_step(result)
            if result.step % run.logged_steps == 0:
                log.write(json.dumps(asdict(result)) + "\n")  # type: ignore[call-overload]
                log.flush()
            due, stopped = run.agreed(time.monotonic() - saved > checkpoint_seconds, interrupted.is_set())
            if due or stopped:
                run.save()
                saved = time.monotonic()
            if stopped:
                raise KeyboardInterrupt
            if result.step in evaluated:
                on_evaluation(run.step, evaluate())
    run.save()
    quality = evaluate()
    on_evaluation(run.step, quality)
    return quality


@contextmanager
def _deferred_interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, to stop a run between two steps; a second stops it at once."""
    interrupted = threading.Event()

    def note(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cut_log(path: Path, step: int) -> None:
    """Drop what the log says of steps that will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        write_file(path, "".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a crash cut off
        return float("inf")
