"""The settings of one run: the defaults, the recipe's and the arguments, brought together and checked."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from seitpp_models.recipes import read_recipe, read_run
from tokenstore.augment import INGREDIENTS
from tokenstore.errors import ArgumentError, Parameter, did_you_mean
from tokenstore.sources import Note

__all__ = ["ARMS", "Settings", "resolve"]

ARMS = ("token_eda", "emb_noise", "color_adapt", "flip", "cutmix", "mixup", "adapter_draws")
"""The settings that are single ingredients of an augmentation."""
_DEFAULTS = Path(__file__).with_name("defaults.yaml")
_ADAPTED = ("mtm", "finetune", "crops")
"""The augmentations that have the default adapter; others have one only if it is asked for."""
_LONGEST = 200
"""The most characters of a value that a message repeats."""


_Group = TypeVar("_Group")


@dataclass(frozen=True)
class Settings:
    """The settings of one run by their names, and which of them somebody asked for."""

    values: Mapping[str, Any]
    arguments: frozenset[str]
    """The names of the settings that were given as arguments."""
    requested: frozenset[str]
    """The names of the settings that were given as arguments or by the recipe."""
    command: str
    """The name of the front door: pretrain, finetune or segment."""
    notes: tuple[Note, ...] = ()
    """The sentences on settings that a store decided."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def group(self, group: type[_Group]) -> _Group:
        """Return a group of the settings: a frozen dataclass whose fields are names of settings."""
        return group(**{field.name: self.values[field.name] for field in fields(group)})  # type: ignore[arg-type]

    def refuse_idle(self, names: Collection[str], needed: str, idle: bool, *others: Parameter) -> None:
        """Raise ArgumentError if an argument has no effect in this run.

        `needed` says what the argument goes with; `others` are the parameters that `needed` names.
        """
        for name in names:
            if idle and name in self.arguments:
                parameter = Parameter(name)
                raise ArgumentError(f"{parameter} goes with {needed}", parameters=[parameter, *others])

    def refuse_idle_noise(self) -> None:
        """Raise ArgumentError if an argument is the strength of Emb-Noise, and no batch gets any."""
        noisy = Parameter("emb_noise")
        self.refuse_idle(("noise",), f"{noisy} above 0", not self["emb_noise"], noisy)


def resolve(
    command: str, kinds: type[Any], config: str | Path | None, arguments: Mapping[str, Any]
) -> Settings:
    """Return the settings of a run: the defaults of `command`, then the recipe's, then the arguments.

    `kinds` is the command's TypedDict. The ingredients of an augmentation are by default those of its name,
    and an argument for another augmentation replaces those that a recipe lists. A recipe may be the record of
    a run (`records.RunRecord`) of the same command: what was asked for there is asked for here. Raises
    TypeError for an argument that is no setting, and ArgumentError for a recipe that cannot be read or has
    other settings, and for values out of range.
    """
    hints = typing.get_type_hints(kinds, include_extras=True)
    unknown = sorted(arguments.keys() - hints.keys())
    if unknown:
        near = did_you_mean(unknown[0], hints)
        raise TypeError(f"{command}() got an unexpected keyword argument {unknown[0]!r}{near}")
    recipe = {} if config is None else read_recipe(config)
    run = None if config is None else read_run(config)
    if run is not None and run.get("command") != command:
        raise ArgumentError(
            f"{config}: expected the record of {command}, found one of {run.get('command')!s:.80}"
        )
    recipe = {name: value for name, value in recipe.items() if value is not None}
    if "augment" in recipe and arguments.get("augment") not in (None, recipe["augment"]):
        recipe = {name: value for name, value in recipe.items() if name not in ARMS}
    strangers = sorted(recipe.keys() - hints.keys())
    if strangers:
        raise ArgumentError(
            f"{config}: {command} has no setting {', '.join(strangers):.500}; it has "
            f"{', '.join(sorted(hints))}"
            f"{did_you_mean(strangers[0], hints)}"
        )
    explicit = {name: value for name, value in arguments.items() if value is not None}
    requested = {name: _checked(name, value, hints[name]) for name, value in {**recipe, **explicit}.items()}
    values = _with_ingredients({**_defaults()[command], **requested})
    values["start"] = None if values["start"] is None else Path(values["start"])
    given = requested.keys() if run is None else {*explicit, *_given(run)} & requested.keys()
    if values["augment"] not in _ADAPTED and "adapter" not in given:
        values["adapter"] = "none"
    if values["min_lr"] > values["learning_rate"] and "min_lr" not in given:
        values["min_lr"] = 0.0
    return Settings(values, frozenset(explicit), frozenset(given), command)


def _with_ingredients(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose ingredients are those that the augmentation has, where nothing else is asked for.

    What depends on the store, the default flip, stays None. Raises ArgumentError for an ingredient without
    augmentation, and for colours whose probabilities have a sum above 1.
    """
    name = values["augment"]
    own = INGREDIENTS.get(name)
    for arm in values.keys() & set(ARMS):
        if own is not None and values[arm] is None:
            values[arm] = getattr(own, arm)
        elif own is None and values[arm] not in (None, False, 0, "none"):
            parameters = Parameter(arm, values[arm]), Parameter("augment", name)
            raise ArgumentError(f"{parameters[0]}: expected none with {parameters[1]}", parameters=parameters)
    if own is not None and values["emb_noise"] + values["color_adapt"] > 1 + 1e-9:
        colours = Parameter("emb_noise", values["emb_noise"]), Parameter("color_adapt", values["color_adapt"])
        raise ArgumentError(
            f"{colours[0]}, {colours[1]}: expected probabilities with a sum up to 1, since a batch has one "
            "of both",
            parameters=colours,
        )
    return values


def _given(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that somebody asked for in the run that a record is of."""
    given = run.get("given")
    return [str(name) for name in given] if isinstance(given, list) else []


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    import yaml

    defaults: dict[str, dict[str, Any]] = yaml.safe_load(_DEFAULTS.read_text())
    return defaults


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that its setting has; raise ArgumentError if it has another."""
    names: list[Any] = []
    if get_origin(hint) in (typing.Union, types.UnionType):
        hint, *others = (part for part in get_args(hint) if part is not types.NoneType)
        names = [known for part in others for known in get_args(part)]
        if value in names:
            return value
    or_name = "".join(f" or {known!r}" for known in names)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise _refusal(name, value, f"one of {', '.join(get_args(hint))}")
        return value
    span = None
    if get_origin(hint) is Annotated:
        hint, span = get_args(hint)
    if hint is bool:
        if not isinstance(value, bool):
            raise _refusal(name, value, "true or false")
        return value
    if hint is str:
        return str(value)
    try:
        number = hint(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refusal(name, value, f"a number ({hint.__name__}){or_name}") from error
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise _refusal(name, value, f"a number ({hint.__name__}){or_name}")
    if span is not None and not span.holds(number):
        raise _refusal(name, value, f"a number {span}{or_name}")
    return number


def _refusal(name: str, value: Any, expected: str) -> ArgumentError:
    long = isinstance(value, str) and len(value) > _LONGEST
    parameter = Parameter(name, f"{value[:_LONGEST]}..." if long else value)
    return ArgumentError(f"{parameter}: expected {expected}", parameters=[parameter])
