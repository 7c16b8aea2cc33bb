"""The cells of tables: what decides a result, and the other cells that it is made from."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenstore.errors import TokenstoreError

__all__ = ["Cell", "EvidenceError", "Names", "Workplace", "filled", "in_order", "missing_inputs"]

_INPUT = re.compile(r"\{([a-z][a-z0-9-]*)\}")
"""The place of an input in a text of a table, such as {tiny}."""
_KEY_DIGITS = 12


class EvidenceError(TokenstoreError):
    """A table that cannot be read, or a cell that cannot be run."""


@dataclass(frozen=True)
class Names:
    """The place of a cell in a table, for people: cells of one key in two tables are the same cell."""

    table: str
    arm: str
    budget: str = ""
    seed: int = 0

    def __str__(self) -> str:
        parts = [self.table, self.arm, self.budget, f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Cell:
    """A unit of work that is done once: a store, a training or an evaluation."""

    kind: str
    """The kind of the work, one of `kinds.KINDS`."""
    decisions: Mapping[str, Any]
    """The JSON values that decide the result; texts may name inputs, such as {tiny}."""
    needs: Mapping[str, Cell] = field(default_factory=dict)
    """The cells whose results it takes, by the part that they have in it, such as store."""
    names: Names = field(default_factory=lambda: Names("", ""), compare=False)

    @functools.cached_property
    def key(self) -> str:
        """The digest of all that decides the result: kind, decisions, and the cells that it needs."""
        facts = {
            "kind": self.kind,
            "decisions": self.decisions,
            "needs": {part: cell.key for part, cell in self.needs.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]

    @property
    def whole_store(self) -> Cell:
        """The cell of the store that images were turned into, of a training or of a share of the store."""
        return self.needs["store"].whole_store if "store" in self.needs else self

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as JSON values."""
        return {
            "kind": self.kind,
            "decisions": self.decisions,
            "needs": {part: cell.to_dict() for part, cell in self.needs.items()},
            "names": vars(self.names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_dict` made values of."""
        needs = {part: cls.from_dict(cell) for part, cell in values["needs"].items()}
        return cls(values["kind"], values["decisions"], needs, Names(**values["names"]))


@dataclass(frozen=True)
class Workplace:
    """The folder of a table's work, and what the table's texts name."""

    folder: Path
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The paths of inputs by their names."""
    device: str | None = None
    threads: int = 1
    places: Mapping[str, Path] = field(default_factory=dict)
    """The places of cells by key, where they are others than `place` says."""

    def place(self, cell: Cell) -> Path:
        """Return the folder of a cell's files."""
        return self.places.get(cell.key, self.folder / "cells" / cell.key)

    def filled(self, cell: Cell) -> dict[str, Any]:
        """Return the decisions of a cell with the paths of inputs; raises EvidenceError if one is missing."""
        absent = missing_inputs([cell], self.inputs)
        if absent:
            raise EvidenceError(f"{cell.names}: expected inputs {', '.join(absent)}, found none of that name")
        values: dict[str, Any] = filled(cell.decisions, self.inputs)
        return values


def filled(value: Any, inputs: Mapping[str, str]) -> Any:
    """Return JSON values in whose texts the names of inputs are replaced by their paths."""
    if isinstance(value, str):
        return _INPUT.sub(lambda match: inputs.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {name: filled(each, inputs) for name, each in value.items()}
    return [filled(each, inputs) for each in value] if isinstance(value, list | tuple) else value


def missing_inputs(cells: Iterable[Cell], inputs: Iterable[str]) -> list[str]:
    """Return the names of inputs of cells, and of those that they need, that are not among `inputs`."""
    named = {name for cell in in_order(cells) for name in _INPUT.findall(json.dumps(cell.decisions))}
    return sorted(named - set(inputs))


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Return cells and all that they need, each key once, and each after those that it needs."""
    ordered: dict[str, Cell] = {}
    for cell in cells:
        for each in _with_needs(cell):
            ordered.setdefault(each.key, each)
    return list(ordered.values())


def _with_needs(cell: Cell) -> Iterator[Cell]:
    for needed in cell.needs.values():
        yield from _with_needs(needed)
    yield cell
