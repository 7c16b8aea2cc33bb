"""A store with symmetries, and stores that break FORMAT.md's MUSTs on them under right checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.broken_stores import Break, manifest, small_array
from helpers.stores import write_store

PARTNERS = np.array([[0, 2, 1, 4, 3]], np.int32)


def write_symmetric(target: Path, **changes: Any) -> None:
    """Write the worked example of FORMAT.md, section 11."""
    spec: dict[str, Any] = {"symmetries": ("flip",), "permutations": PARTNERS, **changes}
    write_store(target, {"train": (np.array([[[0, 1, 3]]], np.uint8),)}, 5, **spec)


SYMMETRIC: list[tuple[int, Break, str]] = [
    (42, manifest(symmetries=["flip", "turn"]), r"expected permutations \(2, 5\) for \['flip', 'turn'\]"),
    (42, small_array("symmetries", PARTNERS[0]), r"expected permutations \(1, 5\).*found shape \(5,\)"),
    (42, small_array("symmetries", PARTNERS[:, :4]), r"found shape \(1, 4\)"),
    (42, small_array("symmetries", PARTNERS + 1), "flip: expected each code below 5 once"),
    (42, small_array("symmetries", PARTNERS * 0), "flip: expected each code below 5 once"),
    (42, small_array("symmetries", PARTNERS.astype(np.int64)), "not the metadata of a symmetries"),
    (43, small_array("symmetries", np.roll(PARTNERS, 1)), "flip: expected a permutation that undoes"),
]
