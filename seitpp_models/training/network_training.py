"""The loop of a run that trains a network: steps, checkpoints, a log, evaluations and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seitpp_models.training.kept_weights import BEST, KEEP_NOTHING, KeptWeights, WhatToKeep
from seitpp_models.training.network_run import NetworkRun, NetworkStep
from seitpp_models.training.reports import EVALUATIONS, RunReport
from tokenstore.networks.runs import RunOptions, run_steps

__all__ = ["train_network"]


def train_network(
    run: NetworkRun,
    options: RunOptions,
    *,
    evaluate: Callable[[], Mapping[str, Any]],
    on_step: Callable[[NetworkStep], None] | None = None,
    on_evaluation: Callable[[int, Mapping[str, Any]], None] | None = None,
    reference: tuple[str, float] | None = None,
    keep: WhatToKeep = KEEP_NOTHING,
) -> Mapping[str, Any]:
    """Train to the last step and return the figures that `evaluate` then gives.

    All processes that train together call it; the callbacks are called in the one that writes. `reference`
    is the name and the value of a loss to compare with, and `keep` says which weights stay. Raises ModelError
    if the folder holds a run that is not to be resumed, or if a loss is not finite; KeyboardInterrupt after
    Ctrl-C or SIGTERM, with the last step saved.
    """
    begun: tuple[RunReport, KeptWeights] | None = None

    def begin() -> tuple[RunReport, KeptWeights]:
        nonlocal begun
        if begun is None:  # a resumed run knows its first step only now
            report = RunReport(run.out, run.step - 1, writes=run.writes, reference=reference)
            what = keep if run.writes else KEEP_NOTHING
            begun = report, KeptWeights.resumed(run.out, what, run.out / EVALUATIONS)
        return begun

    def noted_step(result: NetworkStep) -> None:
        report, keeper = begin()
        report.step(result)
        name, outdated = keeper.after_step(result.step)
        if name is not None:
            run.save_evaluated(name)
        for path in outdated:
            path.unlink(missing_ok=True)
        if on_step is not None and run.writes:
            on_step(result)

    def noted_evaluation(step: int, figures: Mapping[str, Any]) -> None:
        report, keeper = begin()
        if keeper.is_best(figures):
            run.save_evaluated(BEST)
        report.evaluation(step, figures)
        if on_evaluation is not None and run.writes and figures:
            on_evaluation(step, figures)

    try:
        return run_steps(
            run,
            options,
            on_step=noted_step,
            evaluate=evaluate,
            on_evaluation=noted_evaluation,
        )
    finally:
        if begun is not None:
            begun[0].close()
