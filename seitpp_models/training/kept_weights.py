"""The weights of a run that stay beside its last ones: the best, those of the last epochs, every Nth."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BEST", "KEEP_NOTHING", "KeptWeights", "WhatToKeep"]

BEST = "best.safetensors"
"""The file of the weights with the best evaluation."""
_EPOCH = "epoch-{}.safetensors"
_NUMBER = re.compile(r"epoch-(\d+)\.safetensors")
_BETTER_IF_LARGER = ("top1", "miou")
"""The figures by which an evaluation is compared, if it has one of them; else its loss is."""


@dataclass(frozen=True)
class WhatToKeep:
    """The weights that a run keeps beside its last ones."""

    best: bool = False
    last: int = 0
    """The number of last epochs whose weights are kept."""
    every: int = 0
    """The epochs from one kept file to the next; 0: none."""
    epoch_steps: int = 1
    """The steps of an epoch."""

    def after(self, step: int) -> int | None:
        """Return the epoch whose weights are to be written after a step, or None."""
        epoch, rest = divmod(step, self.epoch_steps)
        return None if rest or not (self.last or self._stays(epoch)) else epoch

    def outdated(self, epoch: int, written: int) -> bool:
        """Return True if the weights of an epoch are to be removed when those of `written` exist."""
        return epoch <= written - self.last and not self._stays(epoch)

    def _stays(self, epoch: int) -> bool:
        return bool(self.every) and epoch % self.every == 0


KEEP_NOTHING = WhatToKeep()


class KeptWeights:
    """The files of weights that a run keeps in its folder, and the figure of the best evaluation so far."""

    def __init__(self, folder: Path, what: WhatToKeep, best: float = -math.inf) -> None:
        self._folder, self._what, self._best = folder, what, best

    @classmethod
    def resumed(cls, folder: Path, what: WhatToKeep, evaluations: Path) -> KeptWeights:
        """Return the files of a run that goes on; `evaluations` has a line of JSON for each one so far."""
        lines = evaluations.read_text().splitlines() if what.best and evaluations.exists() else []
        figures = [_merit(json.loads(line)) for line in lines]
        return cls(folder, what, max(figures, default=-math.inf))

    def after_step(self, step: int) -> tuple[str | None, list[Path]]:
        """Return the name of the file to write after a step, or None, and the files to remove then."""
        epoch = self._what.after(step)
        if epoch is None:
            return None, []
        matches = [(path, _NUMBER.fullmatch(path.name)) for path in self._folder.glob(_EPOCH.format("*"))]
        numbers = {path: int(match[1]) for path, match in matches if match}
        return _EPOCH.format(epoch), [
            path for path, number in numbers.items() if self._what.outdated(number, epoch)
        ]

    def is_best(self, figures: Mapping[str, Any]) -> bool:
        """Note an evaluation; return True if its weights are to be kept as the best."""
        merit = _merit(figures)
        if not self._what.best or not merit > self._best:
            return False
        self._best = merit
        return True


def _merit(figures: Mapping[str, Any]) -> float:
    """Return the figure of an evaluation by which it is compared, the larger the better."""
    for name in _BETTER_IF_LARGER:
        if isinstance(figures.get(name), (int, float)):
            return float(figures[name])
    loss = figures.get("loss")
    return -float(loss) if isinstance(loss, (int, float)) else -math.inf
