"""Removing passwords, keys and signatures from URLs and from the texts of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
_USER = re.compile(r"(?<=://)(?:[^/?#@:\s]*:(?!\d+/)[^?#\s]*|[^/?#\s]*)@")
"""The user and password of a URL; a secret key may have slashes that should have been quoted."""
_QUERY = re.compile(r"\?.*?(?=::|$)")
_VALUE = re.compile(r"(?<=[?&;])([^=&;#\s\"'<>]+)=[^&;#\s\"'<>]+")
_PLAIN = frozenset({"endpoint_url", "endpoint", "base_url", "region_name", "project", "account_name"})
"""The storage options whose values are not secret, but for a password in a URL."""


def public_url(url: str) -> str:
    """Return a URL without its query, and with `***` in place of its user and password.

    A local path is returned as it is.
    """
    return _QUERY.sub("", _USER.sub(f"{HIDDEN}@", url)) if "://" in url or "::" in url else url


class Secrets:
    """The strings of a URL and of storage options that no text may show."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        users = [part for user in _USER.findall(url) for part in user.rstrip("@").split(":", 1)]
        values = [value for pair in url.partition("?")[2].split("&") for value in pair.split("=", 1)[-1:]]
        texts = {*users, *values, *_strings(storage_options)}
        texts |= {unquote(text) for text in texts}
        # the longest first: a shorter one may be its beginning
        self._texts = sorted((text for text in texts if text), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._texts)})"

    def hide(self, text: str) -> str:
        """Return a text with `***` in place of each secret, and of all users and values in its URLs."""
        for secret in self._texts:
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
