"""A whole run that trains a network, in a folder: steps, checkpoints, log, evaluations and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seitpp_models.training.network_run import NetworkRun, NetworkStep
from seitpp_models.training.reports import RunReport
from tokenstore.networks.runs import run_steps

__all__ = ["train_network"]


def train_network(
    run: NetworkRun,
    *,
    resume: bool,
    checkpoint_seconds: float,
    evaluate_steps: int,
    evaluate: Callable[[], Mapping[str, Any]],
    on_step: Callable[[NetworkStep], None],
    on_evaluation: Callable[[int, Mapping[str, Any]], None],
    reference: tuple[str, float] | None = None,
) -> Mapping[str, Any]:
    """Train to the last step and return what `evaluate` then finds, as it does every `evaluate_steps` before.

    All processes that train together call it. `reference` names a loss to compare with. Raises ModelError
    where the folder holds a run and `resume` is false, or a loss is not finite; KeyboardInterrupt after
    Ctrl-C or SIGTERM, with the last step kept.
    """
    report: RunReport | None = None

    def begun() -> RunReport:
        nonlocal report
        if report is None:  # only now is it known what step the run begins with
            report = RunReport(run.out, run.step - 1, writes=run.writes, reference=reference)
        return report

    def noted_step(result: NetworkStep) -> None:
        begun().step(result)
        on_step(result)

    def noted_evaluation(step: int, figures: Mapping[str, Any]) -> None:
        begun().evaluation(step, figures)
        on_evaluation(step, figures)

    try:
        return run_steps(
            run,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            evaluate_steps=evaluate_steps,
            on_step=noted_step,
            evaluate=evaluate,
            on_evaluation=noted_evaluation,
        )
    finally:
        if report is not None:
            report.close()
