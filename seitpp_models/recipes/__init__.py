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

__all__ = ["RECIPES", "read_recipe", "recipe_names"]

RECIPES = Path(__file__).parent
"""The folder of the packaged recipes."""


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(config: str | Path) -> dict[str, Any]:
    """Return the settings of a packaged recipe, or of a YAML file, by their names.

    Raises ArgumentError if `config` is neither, or if a value is no text, number or truth value.
    """
    import yaml

    packaged = RECIPES / f"{config}.yaml"
    path = packaged if packaged.exists() else Path(config)
    parameter = Parameter("config", str(config))
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArgumentError(
            f"{parameter}: expected a YAML file or one of {', '.join(recipe_names())}: {error}"
            f"{did_you_mean(config, recipe_names())}",
            parameters=[parameter],
        ) from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path}: expected settings by their names, found {values!r:.80}")
    settings = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name, value in settings.items():
        if not isinstance(value, (str, int, float)):
            raise ArgumentError(f"{path}: {name}: expected one value, found {value!r:.80}")
    return settings
