"""Stores of intact files whose codes, labels, codebooks or metadata no writer writes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damaged_stores import CODES, read_array, samples_read, write
from helpers.stores import edit_root, replace_files, write_store

from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, ManifestError


def test_codes_and_labels_that_cannot_be_are_found_with_their_chunk(tmp_path: Path) -> None:
    """Write impossible values with valid checksums, as only a faulty writer would."""
    store = tmp_path / "store"
    codes, labels = np.full((4, 2, 2), 299, np.uint16), np.array([0, 1, 2, 2], np.int32)
    spec: Mapping[str, Any] = {"codec": "zstd", "chunk_samples": 2, "shard_samples": 4}
    write_store(store, {"train": (codes, labels)}, 300, class_names=("ant", "bee", "cat"), **spec)

    def promise_less(root: dict[str, Any]) -> None:
        root["attributes"]["tokenstore"].update(codebook_sizes=[299], class_names=["ant", "bee"])

    edit_root(store, promise_less)
    assert [problem.removeprefix(f"{store}/") for problem in verify(store).problems] == [
        "train/tokens shard 0 chunk 0 (samples 0 to 1): expected codes from 0 to 298, found 299",
        "train/tokens shard 0 chunk 1 (samples 2 to 3): expected codes from 0 to 298, found 299",
        "train/labels shard 0 chunk 0 (samples 0 to 3): expected labels from 0 to 1, found 2",
    ]


def test_a_codebook_or_synonyms_that_cannot_be_are_found(tmp_path: Path) -> None:
    store = tmp_path / "store"
    codebook = np.array([[1.0], [np.nan], [2.0]], np.float32)
    synonyms = np.array([[1], [3], [0]], np.int32)
    write_store(store, {"train": (CODES["train"] % 3,)}, 3, codebook=codebook, synonyms=synonyms)
    assert [problem.removeprefix(f"{store}/") for problem in verify(store).problems] == [
        "codebook: holds values that are not finite",
        "synonyms: expected codes below 3, or -1, found 3",
    ]
    edit_root(store, lambda root: root["attributes"]["tokenstore"].update(codebook_sizes=[4]))
    problems = [problem.removeprefix(f"{store}/") for problem in verify(store).problems]
    assert "codebook: expected vectors of 4 codes, found shape (3, 1)" in problems
    assert "synonyms: expected a row for each of 4 codes, found shape (3, 1)" in problems


def fields_of(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside JSON values."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from fields_of(value, (*path, key))


@pytest.mark.parametrize("array", ["train/tokens", "train/labels", "train/masks", "codebook", "synonyms"])
def test_metadata_that_no_writer_wrote_is_refused_by_name(tmp_path: Path, array: str) -> None:
    """Give each field in turn strange values, with all digests right."""
    store = write(tmp_path / "store")
    path = f"{array}/zarr.json"
    document, root = json.loads((store / path).read_bytes()), (store / "zarr.json").read_bytes()
    rng = random.Random(0)
    for field in list(fields_of(document)):
        if field[0] in ("dimension_names", "attributes") or field[-1] == "level":
            continue  # these have no influence on what is read
        changed = json.loads(json.dumps(document))
        parent = changed
        for key in field[:-1]:
            parent = parent[key]
        parent[field[-1]] = value = rng.choice([None, -1, 2**64, 1.5, "object", "V8", [], [0], {}])
        replace_files(store, {path: json.dumps(changed).encode()})
        assert any(array in problem for problem in verify(store).problems), (field, value)
        samples_read(store)
        with pytest.raises((ManifestError, DamageError), match=array):
            read_array(store, array)
        (store / "zarr.json").write_bytes(root)
