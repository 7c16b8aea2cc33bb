"""The flag --allow-torchscript, by which the user lets the files of a named tokenizer run code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_FLAG = "--allow-torchscript"


def allow_torchscript() -> Callable[..., Any]:
    """Return the flag, of which the callback `trusted_if_allowed` of --tokenizer takes notice."""
    return click.option(
        _FLAG,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember,
        help="Let the files of --tokenizer run code: for TorchScript of people you trust.",
    )


def trusted_if_allowed(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return a tokenizer's name as one whose files may run code, where the user said so."""
    if not context.meta.get(_FLAG):
        return value
    if value is None:
        raise click.UsageError(f"{_FLAG}: expected it with --tokenizer, found it alone")
    from tokenstore.tokenizers import TrustedSpec

    return TrustedSpec(value)


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_FLAG] = value
