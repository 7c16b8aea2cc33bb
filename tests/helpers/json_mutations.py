"""Mutations of JSON values, drawn from a generator; `mutations` has those of bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_NUMBERS = (0, 1, -1, 2, 7, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64)
ODD_VALUES: tuple[Any, ...] = (
    *_NUMBERS,
    *(
        None,
        True,
        False,
        0.0,
        1.5,
        -1.0,
        1e308,
        "",
        "x",
        "..",
        "a/b",
        "\x1b[2J",
        "\ud800",
        "\u0663",
        "9" * 5000,
    ),
    *([], {}, [[]], [0], [1, 1], [2**62] * 3, [1] * 70, {"a": {}}, [None], ["bytes"], {"name": "zstd"}),
)


def mutated_json(draw: random.Random, document: Any) -> Any:
    """Return JSON values with one to three of them replaced, removed, repeated or exchanged."""
    document = copy.deepcopy(document)
    for _ in range(draw.randint(1, 3)):
        parents = [value for value in _containers(document) if value]
        if not parents:
            return draw.choice(ODD_VALUES)
        parent = draw.choice(parents)
        key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        change = draw.random()
        if change < 0.6:
            parent[key] = copy.deepcopy(draw.choice(ODD_VALUES))
        elif change < 0.75:
            del parent[key]
        elif change < 0.85:
            parent[key] = copy.deepcopy(draw.choice(list(_values(document))))
        elif isinstance(parent, dict):
            parent[draw.choice(("x", "\x1b", "..", f"{key}2", f"{key}/a"))] = parent[key]
        else:
            parent.append(parent[key])
    return document


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)


def _values(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each)


def encoded(document: Any) -> bytes:
    """Return JSON values as a file has them; lone surrogates stay escaped."""
    return json.dumps(document).encode()
