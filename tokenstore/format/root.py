"""The root `zarr.json` of a store: its bytes, with the manifest and its digest, and the way back.

The manifest is the `tokenstore` attribute of the store's root group. So the root `zarr.json` is what Zarr
opens, and also what makes a store complete (FORMAT.md, section 2).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from tokenstore.errors import DamageError, ManifestError
from tokenstore.format.fields import FieldError, fields_of, text
from tokenstore.format.manifest import Manifest

__all__ = ["decode_root", "encode_json", "encode_root"]

_LIST_OF_INTEGERS = re.compile(r"\[\n\s*(-?\d+(?:,\n\s*-?\d+)*)\n\s*\]")
"""A list of integers, one a line. subtle: no string of JSON has a line break in it."""
_EMPTY_DIGEST = "0" * 64


def encode_root(manifest: Manifest, nodes: Mapping[str, dict[str, Any]]) -> bytes:
    """Return the bytes of a complete store's root `zarr.json`.

    `nodes` maps the path of every group and array in the store to its metadata document. The root repeats
    them, so that Zarr readers need one request, unless they hold a context model, which is large (FORMAT.md,
    M11).
    """
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"tokenstore": {**manifest.to_dict(), "digest": _EMPTY_DIGEST}},
    }
    if manifest.is_consolidated:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(nodes),
        }
    # Kept codes may be thousands of integers: all on one line.
    without_digest = _LIST_OF_INTEGERS.sub(
        lambda match: f"[{' '.join(match[1].split())}]", encode_json(document).decode()
    ).encode()
    digest = hashlib.sha256(without_digest).hexdigest()
    return without_digest.replace(f'"digest": "{_EMPTY_DIGEST}"'.encode(), f'"digest": "{digest}"'.encode())


def decode_root(data: bytes, where: str) -> Manifest:
    """Return the manifest in a root `zarr.json`, its digest checked.

    Raises ManifestError for a document that is no store's, VersionError for a newer store's, and DamageError
    if the bytes have changed since they were written.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
        attributes = document["attributes"]["tokenstore"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{where}: expected a Zarr v3 group with a 'tokenstore' attribute, found none ({error!r}). "
            "Either this is not a token store or its root zarr.json is damaged"
        ) from error
    try:
        manifest = Manifest.from_dict(attributes)
        digest: str = fields_of(attributes, "manifest", {"digest": text})["digest"]
    except FieldError as error:
        raise ManifestError(f"{where}: {error}") from error
    except ManifestError as error:
        raise type(error)(f"{where}: {error}") from error
    written = digest.encode(errors="replace")
    if re.fullmatch(b"[0-9a-f]{64}", written) and data.count(written) == 1:
        actual = hashlib.sha256(data.replace(written, _EMPTY_DIGEST.encode())).hexdigest()
    else:
        actual = "not computable"
    if actual != digest:
        raise DamageError(
            f"{where}: the manifest's digest is {digest!r} but its bytes give {actual}: the file was changed "
            "after it was written. Restore it from a copy"
        )
    return manifest


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Return a metadata document as this library writes it: UTF-8, indented by two spaces."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
