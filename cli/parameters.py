"""The types of parameters that click does not have, such as places that have to exist, grids and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tokenstore.errors import did_you_mean


class Choice(click.Choice[str]):
    """A choice of texts that suggests the one which a misspelt value is like."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the choice; raise click.BadParameter for a value that is none, with a suggestion."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = did_you_mean(value, self.choices) or "."
            raise click.BadParameter(error.message.removesuffix(".") + near, ctx, param) from None


class ExistingPlace(click.ParamType):  # type: ignore[type-arg]
    """A place that has to exist: a local path, which is looked up at once; URLs and patterns pass unseen.

    The check stands here, and not in the library alone, because a wrong path is answered before torch and
    zarr have been imported.
    """

    name = "text"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the place as it was given; raise click.ClickException if a local path does not exist."""
        place = str(value)
        if "://" in place or re.search(r"[*?\[{]", place) or Path(place).expanduser().exists():
            return place
        from tokenstore.storage.local import LocalFolder  # which a path that exists does not need

        if LocalFolder(place).interrupted_exchange() is None:
            raise click.ClickException(f"{place}: no such file or folder; expected a {self._what}")
        return place  # the library says what lies beside it

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete the names of files and folders."""
        return [CompletionItem(incomplete, type="file")]


class NumberOrName(click.ParamType):  # type: ignore[type-arg]
    """A number of some type, or one of a few names; the value is either."""

    name = "text"

    def __init__(self, number: click.ParamType[Any], names: Sequence[str]) -> None:
        self._number, self._names = number, tuple(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the name; raise click.BadParameter for other text."""
        if value in self._names:
            return value
        try:
            return self._number.convert(value, param, ctx)
        except click.BadParameter as error:
            names = " or ".join(self._names)
            near = did_you_mean(value, self._names)
            raise click.BadParameter(f"{error.message.rstrip('.')}, or {names}{near}", ctx, param) from None


class Grid(click.ParamType):  # type: ignore[type-arg]
    """The shape of a grid, `16x16` or `256`; the value is a tuple of numbers."""

    name = "text"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the shape; raise click.BadParameter for other text."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){0,7}", value):
            raise click.BadParameter(f"expected a grid such as 16x16 or 256, found {value!r}", ctx, param)
        return tuple(int(size) for size in value.split("x"))


class PartOf(click.ParamType):  # type: ignore[type-arg]
    """A part of a whole, `3/100`; the value is the pair of both numbers."""

    name = "text"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return both numbers; raise click.BadParameter for other text."""
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value), re.ASCII)
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
            self.fail(f"expected a part such as 3/100, counted from 1, found {value!r:.80}", param, ctx)
        return int(numbers[1]), int(numbers[2])


def parse_storage_options(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Return the dict that a JSON object gives; raise click.BadParameter if it is none."""
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"expected a JSON object: {error}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter(f"expected a JSON object, found {value}")
    return parsed


def parse_rows(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    """Return the row numbers in `0,5,17`, or in a file; raise click.BadParameter if it is neither."""
    if value is None:
        return None
    try:
        return [int(word) for word in value.split(",")]
    except ValueError as error:
        if not Path(value).is_file():
            raise click.BadParameter(
                f"expected numbers such as 0,5,17; found {value!r}, which is no file of them"
            ) from error
    from tokenstore.reading.row_files import read_rows  # imports numpy

    return read_rows(value)
