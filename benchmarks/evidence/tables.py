"""The tables as YAML files: arms, budgets and seeds, which are read to cells.

    title: SeiT and SeiT++ from fewer samples     # of the table
    source: "{tiny}"                              # the images: an input, given as tiny=PATH
    stores:                                       # arguments of tokenstore.convert, by a name, and
                                                  # share_alone: true, which converts a budget's images alone
      default: {image_size: 128, codec: context}
    budgets: {100 %: 1.0, 20 %: 0.2}              # shares of the training samples, of each class alike
    seeds: [0, 1]
    finetune: {steps: 3200, warmup: 0.1, ...}     # settings of every arm's training
    arms:
      SeiT: {store: default, finetune: {...}}     # settings of the arm's own come on top
      SeiT with MTM: {store: default, pretrain: {steps: 3200, ...}}
      + TokenAdapt: {store: default, views: {adapter: default, count: 10}}

An arm with `views` has half of each batch of stored views: each sample's are drawn `count` times by
TokenAdapt, without flips where its training flips by itself or not at all. An arm with `pixels` learns from
images, one with `segment` from label maps. A setting `steps` is turned into epochs, and `warmup` is a share
of the steps, so that all budgets take the same steps; all others are settings of
`seitpp_models.training.finetune`, `pretrain` and `segment`. A table with `of: OTHER.yaml` evaluates networks
of another table on corrupted images. Names that begin with x- are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from evidence.cells import Cell, EvidenceError, Names
from tokenstore.errors import did_you_mean

__all__ = ["Table", "read_table"]

_TRAININGS = ("finetune", "segment")
_TABLE = ("title", "source", "stores", "budgets", "seeds", "finetune", "pretrain", "segment", "arms")
_ARM = ("store", "views", "pretrain", "pixels", "finetune", "segment", "note")
_VIEWS = ("adapter", "count")
_ROBUSTNESS = ("title", "of", "arms", "corruptions", "severities", "images_of_a_class")
_SHARE_ALONE = "share_alone"
"""The name of a store's option by which only a share's images are turned into tokens."""
_SEEDS = (0, 1)
_ASIDE = "x-"
"""The beginning of names that are not read: their values are referred to elsewhere in the file."""


@dataclass(frozen=True)
class Table:
    """A table: its cells by arm, budget and seed."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    notes: Mapping[str, str]
    """Notes on arms, by their names."""

    @property
    def figure(self) -> str:
        """The name of the figure that the table compares."""
        figures = {"segment": "miou", "robustness": "corrupted"}
        return figures.get(self.cells[0].kind, "top1")


def read_table(path: Path, held_out: float = 0.0) -> Table:
    """Read a table. With `held_out`, that share of the training samples is evaluated on instead of `val`.

    Raises EvidenceError for a file that is no table.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path}: expected a table in YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise EvidenceError(f"{path}: expected a table in YAML, found {type(values).__name__}")
    if "of" in values:
        return _robustness_table(path, values, held_out)
    _check_names(path, values, _TABLE, required=("title", "source", "stores", "arms"))
    for part in ("stores", "arms"):
        _check_mapping(f"{path}, {part}", values[part])
    notes: dict[str, str] = {}
    cells = []
    for arm, own in values["arms"].items():
        _check_names(f"{path}, arm {arm}", own, _ARM, required=("store",))
        if own["store"] not in values["stores"]:
            raise EvidenceError(
                f"{path}, arm {arm}: expected one of the stores {', '.join(values['stores'])}, found "
                f"{own['store']!s:.80}{did_you_mean(str(own['store']), values['stores'])}"
            )
        if "note" in own:
            notes[arm] = str(own["note"])
        for budget, share in values.get("budgets", {"100 %": 1.0}).items():
            for seed in values.get("seeds", _SEEDS):
                names = Names(path.stem, arm, str(budget), seed)
                cells.append(_cell(path, values, own, names, float(share), held_out))
    if not cells:
        raise EvidenceError(f"{path}: expected arms, budgets and seeds, found none of some")
    return Table(path.stem, values["title"], tuple(cells), notes)


def _cell(
    path: Path, table: Mapping[str, Any], arm: Mapping[str, Any], names: Names, share: float, held_out: float
) -> Cell:
    """Return the cell of an arm, a budget and a seed."""
    store = _store(table, arm["store"], replace(names, arm=f"store {arm['store']}", seed=0), share, held_out)
    kind = next((task for task in _TRAININGS if task in arm or task in table), "finetune")
    settings = {**table.get(kind, {}), **(arm.get(kind) or {})}
    needs = {"store": store}
    if "views" in arm:
        needs["views"] = _views(path, arm["views"], settings, store, names)
    if "pretrain" in arm:
        before = {**table.get("pretrain", {}), **(arm["pretrain"] or {})}
        seed = before.pop("seed", names.seed)
        stage = replace(names, arm=f"{names.arm}, pre-training", seed=seed)
        needs["start"] = _training(path, "pretrain", before, seed, dict(needs), stage)
    if "pixels" in arm:
        decisions = {"source": table["source"], **(arm["pixels"] or {})}
        return _training(path, "pixels", settings, names.seed, needs, names, decisions)
    return _training(path, kind, settings, names.seed, needs, names)


def _store(table: Mapping[str, Any], name: str, names: Names, share: float, held_out: float) -> Cell:
    """Return the cell of a store, which needs the store of all samples if it has fewer or other splits."""
    options = dict(table["stores"][name])
    alone = options.pop(_SHARE_ALONE, False)
    decisions = {"source": table["source"], "options": options}
    if alone and share < 1 and not held_out:
        return Cell("store", {**decisions, "share": share}, names=names)
    everything = Cell("store", decisions, names=replace(names, budget=""))
    if share == 1 and not held_out:
        return everything
    return Cell("subset", {"share": share, "held_out": held_out}, {"store": everything}, names)


def _views(path: Path, views: object, settings: Mapping[str, Any], store: Cell, names: Names) -> Cell:
    """Return the cell of stored views of a store's samples; raises EvidenceError for other settings."""
    _check_names(f"{path}, arm {names.arm}, views", views, _VIEWS, required=_VIEWS)
    assert isinstance(views, Mapping)  # or it would have been refused
    flip = settings.get("flip") is None
    return Cell(
        "views", {**views, "flip": flip}, {"store": store}, replace(names, arm=f"views, {names.arm}", seed=0)
    )


def _training(
    path: Path,
    kind: str,
    settings: Mapping[str, Any],
    seed: int,
    needs: Mapping[str, Cell],
    names: Names,
    decisions: Mapping[str, Any] | None = None,
) -> Cell:
    """Return the cell of a training; raises EvidenceError for settings without a number of steps."""
    chosen = {str(name).replace("-", "_"): value for name, value in settings.items()}
    steps, warmup = chosen.pop("steps", None), chosen.pop("warmup", 0.1)
    if not isinstance(steps, int) or steps < 1:
        raise EvidenceError(f"{path}, arm {names.arm}: expected steps of {kind}, a number, found {steps}")
    for name, instead in (("epochs", "steps"), ("warmup_epochs", "warmup"), ("seed", "seeds")):
        if name in chosen:
            raise EvidenceError(f"{path}, arm {names.arm}: expected {instead} instead of {name}")
    facts = {"settings": chosen, "steps": steps, "warmup": warmup, "seed": seed, **(decisions or {})}
    return Cell(kind, facts, needs, names)


def _robustness_table(path: Path, values: Mapping[str, Any], held_out: float) -> Table:
    """Return a table that evaluates networks of another one on corrupted images."""
    _check_names(path, values, _ROBUSTNESS, required=("title", "of", "arms", "corruptions"))
    other = read_table(path.parent / values["of"], held_out)
    known = list(dict.fromkeys(cell.names.arm for cell in other.cells))
    for arm in values["arms"]:
        if arm not in known:
            raise EvidenceError(
                f"{path}: expected arms of {values['of']}, {', '.join(known)}, found {arm!s:.80}"
                f"{did_you_mean(str(arm), known)}"
            )
    cells = [
        Cell(
            "robustness",
            {
                "source": cell.whole_store.decisions["source"],
                "corruptions": values["corruptions"],
                "severities": values.get("severities", [1, 2, 3, 4, 5]),
                "images_of_a_class": values.get("images_of_a_class"),
                "seed": 0,
            },
            {"model": cell},
            replace(cell.names, table=path.stem),
        )
        for cell in other.cells
        if cell.names.arm in values["arms"]
    ]
    return Table(path.stem, values["title"], tuple(cells), {})


def _check_names(where: object, values: object, known: Sequence[str], required: Collection[str] = ()) -> None:
    """Raise EvidenceError for values that are no mapping, or have other names than those known."""
    for name in (names := _check_mapping(where, values)):
        if name not in known and not str(name).startswith(_ASIDE):
            near = did_you_mean(str(name), known)
            raise EvidenceError(f"{where}: expected only {', '.join(known)}, found {name!s:.80}{near}")
    for name in required:
        if name not in names:
            raise EvidenceError(f"{where}: expected {name}, found {', '.join(map(str, names))}")


def _check_mapping(where: object, values: object) -> list[Any]:
    """Return the names of values; raise EvidenceError for values that are no mapping."""
    if not isinstance(values, Mapping):
        raise EvidenceError(f"{where}: expected names and values, found {type(values).__name__}")
    return list(values)
