"""What may be shown of a URL and of an error's text: no password, no key, no signature."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
_USER = re.compile(r"(?<=://)(?:[^/?#@:\s]*:(?!\d+/)[^?#\s]*|[^/?#\s]*)@")
"""User and password of a URL; a secret key may hold slashes that should have been quoted."""
_QUERY = re.compile(r"\?.*?(?=::|$)")
_VALUE = re.compile(r"(?<=[?&;])([^=&;#\s\"'<>]+)=[^&;#\s\"'<>]+")
_PLAIN = frozenset({"endpoint_url", "endpoint", "base_url", "region_name", "project", "account_name"})
"""Options whose values are not secret, but for a password in a URL."""


def shown(url: str) -> str:
    """A URL without its user, password and query."""
    return _QUERY.sub("", _USER.sub(f"{HIDDEN}@", url))


class Secrets:
    """The strings of a URL and of storage options that no text may show."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        users = [part for user in _USER.findall(url) for part in user.rstrip("@").split(":", 1)]
        values = [value for pair in url.partition("?")[2].split("&") for value in pair.split("=", 1)[-1:]]
        found = {*users, *values, *_strings(storage_options)}
        found |= {unquote(text) for text in found}
        self._found = sorted((text for text in found if text), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._found)})"

    def hide(self, text: str) -> str:
        for secret in self._found:
            text = text.replace(secret, HIDDEN)
        return _VALUE.sub(rf"\1={HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def _strings(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, bytes):
        yield options.decode("utf-8", "replace")
    elif isinstance(options, Mapping):
        for name, value in options.items():
            if not (name in _PLAIN and isinstance(value, str)):
                yield from _strings(value)
    elif isinstance(options, Iterable):
        for value in options:
            yield from _strings(value)
