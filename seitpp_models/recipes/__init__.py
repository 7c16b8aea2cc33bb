"""Recipes: YAML files of settings by their names, and how one is read.

The files beside this one are the packaged recipes, such as `pretrain-one-gpu`; `read_recipe` reads one of
them, or a file of the user's own. `recipe_names` lists the packaged ones. Names of settings may be written
with hyphens. The values are checked by who uses them (`seitpp_models.training.settings`).

This package imports nothing of `seitpp_models` but its errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenstore.errors import ArgumentError, Parameter, did_you_mean
from tokenstore.networks.records import RUN

__all__ = ["RECIPES", "read_recipe", "read_run", "recipe_names"]

RECIPES = Path(__file__).parent
"""The folder of the packaged recipes."""
_LONGEST = 1 << 14
"""The most bytes of a recipe: a file of settings has about a thousand."""
_LARGEST = 1 << 64
_DEEPEST = 8
"""The most lists and mappings around a value that are read, to say that one value was expected."""


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(config: str | Path) -> dict[str, Any]:
    """Return the settings of a packaged recipe, or of a YAML file, by their names.

    The file may be the record of a run. A setting may be null, which is its default. Raises ArgumentError if
    `config` is neither, if the file is longer than 16 KiB, or if a value is no text, truth value, or number
    of up to 64 bits.
    """
    values, path = _read(config)
    is_record = isinstance(values.get(RUN), dict)
    settings = {str(name).replace("-", "_"): value for name, value in values.items()}
    if is_record:
        del settings[RUN]
    for name, value in settings.items():
        if value is not None and not isinstance(value, (str, int, float)):
            kind = type(value).__name__
            raise ArgumentError(f"{path}: {name:.80}: expected one value, found a {kind}")
        if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
            raise ArgumentError(f"{path}: {name:.80}: expected a number of up to 64 bits, found a longer one")
    return settings


def read_run(config: str | Path) -> dict[str, Any] | None:
    """Return what the record of a run says beside its settings; None for a recipe that is no record.

    Raises ArgumentError as `read_recipe` does.
    """
    values, _ = _read(config)
    run = values.get(RUN)
    return run if isinstance(run, dict) else None


def _read(config: str | Path) -> tuple[dict[Any, Any], Path]:
    """Return the values of a YAML file and its path; raise ArgumentError as `read_recipe` does."""
    packaged = RECIPES / f"{config}.yaml"
    path = packaged if packaged.exists() else Path(config)
    parameter = Parameter("config", str(config))
    try:
        values = _flat_yaml(path)
    except Exception as error:  # yaml answers values of odd tags with nearly any exception
        raise ArgumentError(
            f"{parameter}: expected a YAML file or one of {', '.join(recipe_names())}: {error}"
            f"{did_you_mean(config, recipe_names())}",
            parameters=[parameter],
        ) from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path}: expected settings by their names, found a {type(values).__name__}")
    return values, path


def _flat_yaml(path: Path) -> Any:
    """Read a YAML file whose aliases stand for single values: others could stand for lists without end.

    Raises ValueError for a file that is too long, and the errors of `open` and of yaml.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Return the next node; refuse an alias of more than one value, and deep lists."""
            event = self.peek_event()
            self.depth += 1
            node = super().compose_node(parent, index) if self.depth <= _DEEPEST else None
            self.depth -= 1
            if node is None or (isinstance(event, yaml.AliasEvent) and not isinstance(node, yaml.ScalarNode)):
                problem = "expected one value, found a list or mapping by an alias, or too deep"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
            return node

    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise ValueError(f"expected at most {_LONGEST} bytes, found more")
    return yaml.load(data.decode(), Loader)
