"""Trainings flip codes exactly, by themselves, where a store has the symmetry for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.network_commands import PRETRAIN, QUICK, seitpp
from helpers.network_stores import CLASSES, CODES, write_labelled

from tokenstore.augment import ExactFlip
from tokenstore.format import FLIP

PARTNERS = (np.arange(CODES, dtype=np.int32) ^ 1)[None]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("pretrain", PRETRAIN),
        ("finetune", (*QUICK, "--augment", "finetune")),
        ("segment", ("--classes", CLASSES + 1, "--head", "linear", *QUICK)),
    ],
)
def test_codes_are_flipped_where_the_store_has_symmetries_and_nowhere_else(
    command: str, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = ExactFlip.flipped

    def counted(self: ExactFlip, codes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(len(codes))
        return plain(self, codes, mask)

    monkeypatch.setattr(ExactFlip, "flipped", counted)
    for name, fields in (("plain", {}), ("flips", {"symmetries": (FLIP,), "permutations": PARTNERS})):
        store = write_labelled(tmp_path / name, 32, **fields)
        done = seitpp(command, store, "--out", tmp_path / f"run of {name}", *options, "--epochs", 1)
        assert done.exit_code == 0, done.output
        assert bool(seen) == (name == "flips")
