"""The rows of the table of broken stores that break the MUSTs on texts, lists and soft labels."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from helpers.broken_stores import Break, document, manifest, shard, sharding, zstd

CAPTION, BOXES, SOFT = (f"train/{name}/zarr.json" for name in ("caption", "boxes", "soft_labels"))


def payload(*samples: bytes, count: int | None = None) -> bytes:
    """Return the payload of a chunk of samples, by the letter of M31."""
    parts = [struct.pack("<I", len(samples) if count is None else count)]
    return b"".join([*parts, *(struct.pack("<I", len(data)) + data for data in samples)])


def first(data: bytes, array: str = "caption") -> Break:
    """Return a break that writes another first chunk of an array of texts or lists."""
    return shard(f"train/{array}/c/0", lambda payloads: [data, *payloads[1:]], chunks_per_shard=4)


def last(data: bytes) -> Break:
    """Return a break that writes another chunk of the last text, behind which a chunk of two has none."""
    return shard("train/caption/c/2", lambda payloads: [*payloads[:-1], data], chunks_per_shard=4)


def soft(*pairs: Any) -> Break:
    """Return a break that writes other samples of soft labels, of two pairs each, in turn."""
    values = np.array(pairs, np.uint16).reshape(-1, 2, 2)[np.arange(8) % len(pairs)]
    return shard("train/soft_labels/c/0/0/0", lambda _: [zstd(values)], chunks_per_shard=1)


def attributes(path: str, **values: Any) -> Break:
    """Return a break that writes other attributes of an array."""
    return document(path, lambda array: array.update(attributes={"tokenstore": values} if values else {}))


FINE = [[0, 1420], [1, 2839]]
COLUMNS: list[tuple[int, Break, str]] = [
    (30, manifest(features=["bitpack", "soft_labels"]), "expected the feature 'ragged'"),
    (30, document(CAPTION, lambda array: array.update(fill_value="x")), "expected fill_value ''"),
    (30, document(CAPTION, lambda array: array.update(data_type="variable_length_bytes")), "attributes with"),
    (30, sharding(CAPTION, lambda values: values["codecs"].pop(0)), "expected codecs"),
    (30, sharding(CAPTION, lambda values: values["codecs"][0].update(name="vlen-bytes")), "expected codecs"),
    (30, sharding(CAPTION, lambda values: values["codecs"].insert(1, {"name": "zstd"})), "expected codecs"),
    (31, first(payload(b"a", b"b", count=3)), "expected a length for each of 3 samples, found 14"),
    (31, first(payload(b"a", count=1)), "expected 2 samples, found 1"),
    (31, first(payload(b"a", b"b", b"")), "expected a chunk of 2 samples, found one of 3"),
    (31, first(payload(b"a", b"b", count=2**32 - 1)), "expected a length for each of 4294967295 samples"),
    (31, first(payload(b"a", b"b")[:-1]), "expected the bytes that its length says, found fewer"),
    (31, first(payload(b"a", b"b") + b"\0"), "expected no bytes behind the last sample, found some"),
    (31, first(payload()[:2]), "expected the number of samples, found 2 bytes"),
    (31, last(payload(b"a", b"b")), "expected no bytes behind sample 0, found some"),
    (32, first(payload(b"fine", b"\xff")), "expected UTF-8"),
    (32, first(payload(b"\xed\xa0\x80", b"")), "expected UTF-8"),
    (32, first(payload(b"\xc0\x80", b"")), "expected UTF-8"),
    (33, attributes(BOXES), "attributes with data type and shape of a list's values"),
    (33, attributes(BOXES, list={"data_type": "object", "shape": []}), "a list of numbers"),
    (33, attributes(BOXES, list={"data_type": "float128", "shape": []}), "a list of numbers"),
    (33, attributes(BOXES, list={"data_type": 5000 * "9", "shape": []}), "a list of numbers"),
    (33, attributes(BOXES, list={"data_type": "float32", "shape": [0]}), "the shape of a list's values"),
    (33, attributes(BOXES, list={"data_type": "float32", "shape": [2**40, 2**40]}), "the shape of a list"),
    (33, attributes(BOXES, list={"data_type": "float32", "shape": [-2, -2]}), "the shape of a list's values"),
    (33, attributes(BOXES, list={"data_type": "float32", "shape": [1] * 32}), "the shape of a list's values"),
    (33, first(payload(bytes(16), bytes(15)), "boxes"), "expected whole values of 16 bytes, found 15 bytes"),
    (34, manifest(features=["bitpack", "ragged"]), "expected the feature 'soft_labels'"),
    (34, attributes(SOFT, soft_labels={"classes": 0}), "expected 1 to 65536 classes, found 0"),
    (34, attributes(SOFT, soft_labels={"classes": 2**16 + 1}), "expected 1 to 65536 classes"),
    (34, attributes(SOFT, soft_labels={"classes": 1}), r"expected uint16 of \(k, 2\)"),
    (34, attributes(SOFT, soft_labels=5), "the number of classes of soft labels"),
    (34, document(SOFT, lambda array: array.update(data_type="int16", fill_value=-1)), "expected uint16"),
    (34, soft(FINE, [[0, 1420], [5, 2839]]), "expected classes from 0 to 4, found 5"),
    (34, soft([[0, 2839], [1, 1420]], FINE), "most probable classes of a sample first"),
    (34, soft([[1, 1420], [1, 2839]], FINE), "each class of a sample once"),
    (34, soft([[0, 0], [1, 0]], FINE), "expected probabilities of up to 1 in all, found 2.000"),
]
