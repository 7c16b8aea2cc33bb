"""The training runs in folders: steps, checkpoints and a log, to resume from after a stop or a crash."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from tokenstore.errors import Parameter, TokenstoreError
from tokenstore.files import full_disk_named, resumable, system_error, whole_file, write_file
from tokenstore.locks import PlaceLock
from tokenstore.networks.records import RECORD, versions, write_record
from tokenstore.networks.states import check_like, read_state

__all__ = ["LOG", "STATE", "ResumableRun", "RunOptions", "StepResult", "cut_log", "run_steps"]

STATE = "state.pt"
"""The file of a run's checkpoint."""
LOG = "log.jsonl"
"""The file with a line of JSON for each logged step."""


class RunConfig(Protocol):
    """The config that decides a run: a dataclass of JSON values, of which three are read here."""

    @property
    def steps(self) -> int:
        """The steps of the run."""

    @property
    def learning_rate(self) -> float:
        """The peak of the learning rate."""

    @property
    def warmup_steps(self) -> int:
        """The steps in which the learning rate rises."""


class StepResult(Protocol):
    """The result of a step of training: a dataclass of JSON values."""

    @property
    def step(self) -> int:
        """The number of steps done."""


_Result = TypeVar("_Result", bound=StepResult)
_Batch = TypeVar("_Batch")
_Quality = TypeVar("_Quality")


class ResumableRun(ABC, Generic[_Batch, _Result]):
    """A training run and its state in a folder."""

    error: ClassVar[type[TokenstoreError]]
    """The class of the errors that a run raises."""
    logged_steps: ClassVar[int] = 10
    """The number of steps from one line of the log to the next."""

    def __init__(self, config: RunConfig, out: Path, inputs: Mapping[str, tuple[str, str]]) -> None:
        """Prepare a run in the folder `out` that `config` and `inputs` decide.

        `inputs` maps a name in the checkpoint to a description, for messages, and a digest of the input.
        """
        self.config = config
        self.out = out
        self._inputs = inputs
        self.step, self.seconds = 0, 0.0
        self._is_locked = False

    @abstractmethod
    def batches(self) -> Iterable[_Batch]:
        """Return the batches to train on, from the present step on."""

    @abstractmethod
    def train_on(self, batch: _Batch) -> Callable[[int, float], _Result]:
        """Do one step, and return a function from (steps done, seconds of training) to its result."""

    @abstractmethod
    def save_weights(self) -> None:
        """Write the trained weights to the folder."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs: tensors, numbers and texts."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a result of `state`."""

    def check_begun(self) -> None:
        """Raise the run's `error` if the folder has a run that was begun otherwise, before it is restored."""
        return

    def note_beginning(self) -> None:
        """Write down how a new run is begun, in the process that writes; raises OSError."""
        inputs = {name: digest for name, (_, digest) in self._inputs.items()}
        facts = {**self.facts, "inputs": inputs, "versions": versions(("torch", "numpy"))}
        write_record(
            self.out / RECORD, "How this training was begun.", json.loads(self._config_json()), facts
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts about a run, as JSON values, that its record has beside the settings."""
        return {}

    @property
    def writes(self) -> bool:
        """True if this process writes to the folder; of several that train together, one does."""
        return True

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Return which of some actions all processes do: those that any of them wishes to do."""
        return wishes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder until the block ends; blocks of one run may be nested.

        Raises the run's `error`, in all processes that train together, if another run holds the lock.
        """
        if self._is_locked:
            yield
            return
        with ExitStack() as stack:
            reason = ""
            try:
                if self.writes:
                    stack.enter_context(PlaceLock(self.out, "run"))
            except BlockingIOError as error:
                reason = str(error)
            except OSError as error:  # a refusal that all processes learn of, as the one above
                reason = f"the folder cannot be locked ({error.strerror or error})"
            if self.agree(bool(reason))[0]:
                raise self.error(
                    f"{self.out}: {reason or 'another process is writing this run'}. Wait for its end, or "
                    "train into another folder"
                )
            self._is_locked = True
            stack.callback(setattr, self, "_is_locked", False)
            yield

    def run(self) -> Iterator[_Result]:
        """Train to the last step and yield each step's result; `save` writes a checkpoint in between."""
        start = time.monotonic()
        for batch in self.batches():
            result = self.train_on(batch)
            self.step += 1
            self.seconds += time.monotonic() - start
            start = time.monotonic()
            yield result(self.step, self.seconds)

    def save(self) -> None:
        """Write the weights and a checkpoint to resume from.

        Raises the run's `error` if they cannot be written; the checkpoint before stays.
        """
        digests = {name: digest for name, (_, digest) in self._inputs.items()}
        state = {"config": self._config_json(), **digests, **self.state()}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.save_weights()
            with whole_file(self.out / STATE) as file:
                torch.save(state | {"progress": (self.step, self.seconds)}, file)
        except (OSError, RuntimeError) as error:
            raise self.unwritten(system_error(error) or error) from error

    def unwritten(self, error: BaseException) -> TokenstoreError:
        """Return the error that files of the run cannot be written."""
        resume = Parameter("resume", True)
        return self.error(
            f"{self.out / STATE}: step {self.step} cannot be written ({_reason(error)}). The checkpoint "
            f"before, if any, stays; make room, then go on with {resume}",
            parameters=[resume],
        )

    def restore(self) -> None:
        """Resume from the folder's checkpoint.

        Raises the run's `error` if there is no checkpoint, if it is damaged, or if the run had another config
        or other inputs.
        """
        path = self.out / STATE
        try:
            state = read_state(path)
            changed = self._changes(json.loads(state["config"]), {name: state[name] for name in self._inputs})
        except FileNotFoundError as error:
            raise self.error(f"{path}: expected the state of a run, found nothing there") from error
        except Exception as error:  # torch.load answers a damaged file with nearly any exception
            raise self.error(
                f"{path}: expected the state of a run, found damage ({_reason(error)})"
            ) from error
        if changed:
            raise self.error(
                f"{path}: the run was begun with other inputs ({'; '.join(changed)}). Give those it was "
                "begun with, or train into another folder"
            )
        try:
            self._load(state)
        except Exception as error:  # a state of other shapes or types; none of it is used further
            raise self.error(
                f"{path}: expected the state of this run, found another or damage ({_reason(error)}). Train "
                "into another folder"
            ) from error

    def _load(self, state: Mapping[str, Any]) -> None:
        own = _without_optimizer(self.state())
        check_like({name: state[name] for name in own}, own, "state")
        step, seconds = state["progress"]
        if type(step) is not int or not 0 <= step <= self.config.steps or not 0 <= seconds < math.inf:
            raise ValueError(f"progress: expected up to {self.config.steps} steps and their seconds")
        self.load_state(state)
        self.step, self.seconds = step, float(seconds)

    def set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """Set this step's learning rate and return it.

        The rate is half a cosine from the peak to 0.5 % of it, times a linear warm-up that runs beside it.
        """
        warmup = min(1.0, (self.step + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        rate = float(self.config.learning_rate * warmup * (0.005 + 0.995 * cosine))
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def refuse_unless_finite(self, name: str, value: float) -> None:
        """Raise the run's `error` if a value of the present step, such as the loss, is not finite."""
        if not math.isfinite(value):
            raise self.error(
                f"training: the {name} of step {self.step} is {value}. The last checkpoint in {self.out} is "
                "from before; begin anew with a lower learning rate"
            )

    def _config_json(self) -> str:
        return json.dumps(asdict(self.config), sort_keys=True)  # type: ignore[call-overload]

    def _changes(self, config: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
        """Return what differs between this run and a run with a `config` and `digests` of its inputs."""
        ours = json.loads(self._config_json())
        defaults = {field.name: field.default for field in fields(self.config)}  # type: ignore[arg-type]
        theirs = {**defaults, **config}  # an older version knew fewer settings
        return [
            *(f"{name} {theirs[name]!s:.80} -> {ours[name]}" for name in ours if ours[name] != theirs[name]),
            *(called for name, (called, digest) in self._inputs.items() if digests[name] != digest),
        ]


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that its result does not depend on."""

    resume: bool = False
    """True to go on from the folder's checkpoint, if there is one."""
    checkpoint_seconds: float = 180.0
    """The seconds from one checkpoint to the next."""
    evaluate_steps: int = 0
    """The steps from one evaluation of the weights to the next; 0: none before the end."""


def run_steps(
    run: ResumableRun[Any, _Result],
    options: RunOptions,
    *,
    on_step: Callable[[_Result], None],
    evaluate: Callable[[], _Quality],
    on_evaluation: Callable[[int, _Quality], None],
) -> _Quality:
    """Train to the last step, and return the evaluation of its weights.

    The folder is locked until the end. Ctrl-C and SIGTERM stop the run after a step and write a checkpoint;
    a crash loses the steps since the last checkpoint.

    Raises the run's `error` if its folder holds a run that is not to be resumed, or if another process trains
    into the folder, and KeyboardInterrupt after a signal.
    """
    with run.locked():
        _begin(run, options.resume)
        try:
            return _train(run, options, on_step, evaluate, on_evaluation)
        except OSError as error:
            if resumable(error) is None:
                raise
            raise run.unwritten(error) from error


def _begin(run: ResumableRun[Any, Any], resume: bool) -> None:
    """Prepare the folder of a run, and resume from its checkpoint if that is asked for."""
    out = run.out
    if (out / STATE).exists():
        if not resume:
            parameter = Parameter("resume", True)
            raise run.error(
                f"{out}: a run is there. Go on with it by {parameter}, or train into another folder",
                parameters=[parameter],
            )
        run.check_begun()
        run.restore()
    out.mkdir(parents=True, exist_ok=True)
    if run.writes:
        cut_log(out / LOG, run.step)
        if not run.step:
            run.note_beginning()


def _train(
    run: ResumableRun[Any, _Result],
    options: RunOptions,
    on_step: Callable[[_Result], None],
    evaluate: Callable[[], _Quality],
    on_evaluation: Callable[[int, _Quality], None],
) -> _Quality:
    """Do the steps of a run whose folder is locked and prepared, and return the last evaluation."""
    out = run.out
    saved = time.monotonic()
    every = options.evaluate_steps
    evaluated = range(every, run.config.steps, every) if every else ()
    log_path = out / LOG if run.writes else Path(os.devnull)
    with log_path.open("a") as log, _deferred_interrupts() as interrupted:
        if run.step in evaluated:  # an interrupt may have come between the step and its evaluation
            on_evaluation(run.step, evaluate())
        for result in run.run():
            on_step(result)
            if result.step % run.logged_steps == 0:
                with full_disk_named(log_path):
                    log.write(json.dumps(asdict(result)) + "\n")  # type: ignore[call-overload]
                    log.flush()
            is_late = time.monotonic() - saved > options.checkpoint_seconds
            due, stopped = run.agree(is_late, interrupted.is_set())
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
    """Turn Ctrl-C and SIGTERM into an event, to stop a run between steps; a second one stops it at once."""
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
    """Drop the lines of a log about steps after `step`, which will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        write_file(path, "".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a crash cut off
        return float("inf")


def _without_optimizer(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state without the optimizer's, which is empty before the first step."""
    return {name: value for name, value in state.items() if name != "optimizer"}


def _reason(error: BaseException) -> str:
    """Return one short line about an error."""
    return f"{type(error).__name__}: {error!s:.300}".splitlines()[0]
