"""Seeded mutations of what files hold: of bytes, of JSON and Python values, of text."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import torch

BYTES = (0, 1, 0x7F, 0x80, 0xFF, *b'-.0189[({"\\nN:,&*<')
NAMES = ("a", "depth", "size", "patch", "img_size", "weight_init")
TEXTS = (
    "[",
    "]",
    "{",
    "}",
    ": ",
    "&a ",
    "*a",
    "<<: *a",
    "\n",
    "\n- ",
    "!!int ",
    '"',
    "0x",
    "9" * 30,
    ".inf",
    "~",
)


def mutated_bytes(data: bytes, rng: random.Random, first: int = 1 << 62) -> bytes:
    """Change one to four places of some bytes, all among the `first`, or repeat, remove or cut a part."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(min(len(changed), first) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            del changed[place : place + rng.choice((1, 4, 64))]
        elif kind == 1:
            changed[place:place] = changed[place : place + rng.choice((1, 8, 64))]
        elif kind == 2:
            del changed[place:]
        else:
            size = rng.choice((1, 1, 4, 8))
            changed[place : place + size] = rng.choices(BYTES, k=size)
        if not changed:
            return b""
    return bytes(changed)


def other_value(value: Any, rng: random.Random) -> Any:
    """Return a value of another kind or size, in place of `value`."""
    number = value if isinstance(value, int) else 3
    deep: Any = 1
    for _ in range(rng.choice((3, 60))):
        deep = rng.choice(([deep], {"a": deep}))
    numbers = (
        number + 1,
        number - 1,
        2 * number,
        -number,
        0,
        10 ** rng.randrange(1, 25),
        2**63,
        1.5,
        float("nan"),
    )
    others = (None, True, "", "text", "x" * 5000, [], {}, [value], [value, value], {"a": value}, deep)
    return rng.choice((*numbers, *others))


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Change one value in a tree of mappings and lists: another, none, or one more by a new name."""
    tree = copy.deepcopy(value)
    holder: Any = [tree]
    place: Any = 0
    while isinstance(holder[place], dict | list) and holder[place] and rng.random() < 0.8:
        holder = holder[place]
        place = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        if isinstance(holder, dict) and rng.random() < 0.05:
            del holder[place]
            return tree
    if isinstance(holder[place], dict) and rng.random() < 0.3:
        holder[place][rng.choice(NAMES)] = other_value(1, rng)
        return tree
    replaced = other_value(holder[place], rng)
    if holder[place] is tree:
        return replaced
    holder[place] = replaced
    return tree


def mutated_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes of a safetensors file, its header, or a JSON value in the metadata."""
    kind = rng.randrange(4)
    length = int.from_bytes(data[:8], "little")
    if kind == 0:
        return mutated_bytes(data, rng, rng.choice((16, 8 + length, 1 << 62)))
    header = json.loads(data[8 : 8 + length])
    if kind == 1:
        header = mutated_value(header, rng)
    else:
        metadata = header["__metadata__"]
        name = rng.choice([name for name in metadata if name not in ("format", "kind")])
        changed = mutated_value(json.loads(metadata[name]), rng)
        text = json.dumps(changed) if rng.random() < 0.9 else "[" * 10 ** rng.randrange(1, 6)
        metadata[name] = text
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]


def mutated_state(data: bytes, state: dict[str, Any], rng: random.Random) -> bytes:
    """Change the bytes of a file of torch.save, its pickle, or one of the values that it holds."""
    kind = rng.randrange(3)
    if kind == 0:
        return mutated_bytes(data, rng)
    file = io.BytesIO()
    if kind == 1:
        torch.save(mutated_tensors(state, rng), file)
        return file.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(file, "w") as changed:
        for entry in whole.infolist():
            content = whole.read(entry)
            is_pickle = entry.filename.endswith("data.pkl")
            changed.writestr(entry.filename, mutated_bytes(content, rng) if is_pickle else content)
    return file.getvalue()


def mutated_tensors(state: dict[str, Any], rng: random.Random) -> Any:
    """Change one value of a state, or the shape or type of a tensor in it."""
    changed = mutated_value(state, rng)
    if rng.random() < 0.5 or not isinstance(changed, dict):
        return changed
    return _with_other_tensor(changed, rng)


def _with_other_tensor(values: dict[Any, Any], rng: random.Random) -> dict[Any, Any]:
    others: tuple[Callable[[torch.Tensor], Any], ...] = (
        lambda tensor: tensor.flatten()[:1],
        lambda tensor: tensor[None],
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.flatten()[:1].expand(10**9),
        lambda tensor: tensor.tolist(),
    )
    for name in rng.sample(list(values), len(values)):
        value = values[name]
        if isinstance(value, dict):
            return values | {name: _with_other_tensor(value, rng)}
        if isinstance(value, torch.Tensor) and value.numel():
            return values | {name: rng.choice(others)(value)}
    return values


def mutated_text(text: str, rng: random.Random) -> str:
    """Change one to four places of a text that is YAML."""
    for _ in range(rng.choice((1, 2, 4))):
        place = rng.randrange(len(text) + 1)
        piece = rng.choice((*TEXTS, text[place : place + 20], ""))
        text = text[:place] + piece * rng.choice((1, 1, 1, 40)) + text[place + rng.choice((0, 0, 1, 8)) :]
    return text
