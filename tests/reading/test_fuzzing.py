"""Mutations of stores, also under right checksums: documented errors only, in bounded time and memory.

`pytest -m slow tests/reading/test_fuzzing.py` tries 20,000 of each kind.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.broken_stores import payloads_of
from helpers.broken_views import boxes_of, worked_given_views
from helpers.context_models import worked_model
from helpers.json_mutations import encoded, mutated_json
from helpers.mutations import mutated
from helpers.ragged import KINDS as COLUMNS
from helpers.ragged import write_ragged
from helpers.stores import contents, random_codes, with_digest, write_store
from numcodecs.zstd import Zstd

import tokenstore
from tokenstore.audit.info import info
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import TokenstoreError
from tokenstore.format import sharding
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.tables import Skip
from tokenstore.writing import choices
from tokenstore.writing.rewrite import skips_of

CODECS = ("bitpack", "zstd", "context")
VIEWS: dict[str, dict[str, Any]] = {
    "views": {"codec": "bitpack", "views": Views(2)},
    "given views": {
        "codec": "context",
        "model": worked_model(),
        "views": worked_given_views().views,
        "given_views": worked_given_views(),
    },
}
"""The stores of two views of each sample, packed and coded given one another."""
MANY = "many"
"""A store whose shards and table are listed in files of their own, as those of many shards are."""
FURTHER = "further columns"
"""A store with a column of texts, two of lists, and one of soft labels."""
MOST_SECONDS, MOST_KILOBYTES = 2.0, 500_000
_VERIFIED_EVERY = 20
"""One of so many mutated stores is also verified, which takes longer than to read it."""
Files = dict[str, bytes]
"""The files of a store, by their paths."""
_ZSTD = b"\x28\xb5\x2f\xfd"
"""The first bytes of a frame of Zstandard."""
_DIGEST = re.compile(rb'("digest": ")[^"]{64}(")')


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """Write a store of each codec, and one of many shards, and return their files."""
    files = {}
    for name in (*CODECS, *VIEWS, MANY):
        folder, codec = tmp_path_factory.mktemp("originals") / name, "bitpack" if name == MANY else name
        many = 1 if name == MANY else choices.MANY_SHARDS
        codes = random_codes(5, (1, 2), 3)
        masks = np.ones((5, 2, 9), np.uint8)
        spec = VIEWS.get(name, {"codec": codec, "model": worked_model() if codec == "context" else None})
        columns = {"masks": masks, **({"view_boxes": boxes_of(5, 2)} if name == "views" else {})}
        codes = np.zeros((5, 2, 1, 2), np.uint8) if name in VIEWS else codes
        rows = (codes, (np.arange(5) % 2).astype(np.int32), columns, [Skip(3, "train/3.png", "empty")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choices, "MANY_SHARDS", many)
            patch.setattr(choices, "PART_SHARDS", 1)
            patch.setattr(choices, "PART_ROWS", 1)
            write_store(
                folder,
                {"train": rows},
                3,
                **spec,
                chunk_samples=2,
                shard_samples=4,
                class_names=("ant", "bee"),
                codebook=np.ones((3, 2), np.float32),
                synonyms=np.full((3, 2), -1, np.int32),
                tokenizer=TokenizerIdentity("test", "ab" * 32),
            )
        files[name] = contents(folder)
    further = tmp_path_factory.mktemp("originals") / FURTHER
    write_ragged(further, 5, chunk_samples=2, shard_samples=4)
    files[FURTHER] = contents(further)
    assert sum("samples.parquet/" in path or path.endswith("shards.bin") for path in files[MANY]) == 2 + 3
    return files


def with_root(files: Files, root: Any) -> Files:
    """Return the files with another root, its digest right if it has a place for one."""
    try:
        return {**files, "zarr.json": with_digest(root)}
    except (AssertionError, KeyError, TypeError, ValueError):
        return {**files, "zarr.json": encoded(root)}


def with_file(files: Files, path: str, data: bytes) -> Files:
    """Return the files with another one, and the manifest and the consolidated metadata that fit it."""
    root = json.loads(files["zarr.json"])
    root["attributes"]["tokenstore"]["files"][path] = [len(data), hashlib.sha256(data).hexdigest()]
    if path.endswith("/zarr.json") and "consolidated_metadata" in root:
        root["consolidated_metadata"]["metadata"][path.removesuffix("/zarr.json")] = json.loads(data)
    return with_root({**files, path: data}, root)


def mutate_manifest(draw: random.Random, files: Files) -> Files:
    """Change the root, or the metadata of an array, as values or as bytes, with right digests or without."""
    kind = draw.random()
    if kind < 0.4:
        return with_root(files, mutated_json(draw, json.loads(files["zarr.json"])))
    if kind < 0.8:
        path = draw.choice([path for path in files if path.endswith("/zarr.json")])
        return with_file(files, path, encoded(mutated_json(draw, json.loads(files[path]))))
    root = mutated(files["zarr.json"], draw)
    if kind < 0.9:
        blank = _DIGEST.sub(rb"\g<1>" + b"0" * 64 + rb"\g<2>", root)
        digest = hashlib.sha256(blank).hexdigest().encode()
        root = _DIGEST.sub(rb"\g<1>" + digest + rb"\g<2>", root)
    return {**files, "zarr.json": root}


def mutate_table(draw: random.Random, files: Files) -> Files:
    """Change a table's bytes; its digest is right, but in one of ten."""
    path = draw.choice(("train/samples.parquet", "train/samples.parquet", "train/skipped.parquet"))
    data = mutated(files[path], draw)
    return {**files, path: data} if draw.random() < 0.1 else with_file(files, path, data)


def mutate_shard(draw: random.Random, files: Files) -> Files:
    """Change a shard's or codebook's bytes: as they are, under right digests, or under right CRCs too."""
    path = draw.choice([path for path in files if "/c/" in path])
    kind = draw.random()
    if kind < 0.7 and "train/" in path:
        chunks = 1 if "labels" in path else 2
        payloads = payloads_of(files[path], chunks)
        at = draw.randrange(len(payloads))
        payloads[at] = mutated(payloads[at], draw)
        return with_file(files, path, sharding.encode_shard(payloads, chunks))
    data = mutated(files[path], draw)
    return {**files, path: data} if kind > 0.9 else with_file(files, path, data)


def mutate_list(draw: random.Random, files: Files) -> Files:
    """Change the root, a list of shards or a part of the samples table; digests are right, but in a tenth."""
    if draw.random() < 0.3:
        return mutate_manifest(draw, files)
    listed = json.loads(files["zarr.json"])["attributes"]["tokenstore"]["files"]
    path = draw.choice([path for path in listed if path.endswith(".bin") or "samples.parquet" in path])
    data = mutated(files[path], draw)
    return {**files, path: data} if draw.random() < 0.1 else with_file(files, path, data)


def mutate_column(draw: random.Random, files: Files) -> Files:
    """Change a further column: its metadata, its file, or a chunk under a right CRC, packed or inflated."""
    kind, columns = draw.random(), tuple(f"train/{name}/" for name in COLUMNS)
    if kind < 0.3:
        path = draw.choice([path for path in files if path in {f"{column}zarr.json" for column in columns}])
        return with_file(files, path, encoded(mutated_json(draw, json.loads(files[path]))))
    path = draw.choice([path for path in files if "/c/" in path and path.startswith(columns)])
    if kind > 0.9:
        return with_file(files, path, mutated(files[path], draw))
    chunks = 1 if "labels" in path else 2
    payloads = payloads_of(files[path], chunks)
    at = draw.randrange(len(payloads))
    head, magic, frame = payloads[at].partition(_ZSTD)
    if magic and draw.random() < 0.6:
        payloads[at] = head + Zstd(1).encode(mutated(Zstd().decode(magic + frame), draw))
    else:
        payloads[at] = mutated(payloads[at], draw)
    return with_file(files, path, sharding.encode_shard(payloads, chunks))


KINDS: dict[str, Callable[[random.Random, Files], Files]] = {
    "manifests": mutate_manifest,
    "tables": mutate_table,
    "shards": mutate_shard,
    "lists": mutate_list,
    "columns": mutate_column,
}


def exercise(store: Path, kind: str) -> None:
    """Read of a store what a mutation of this kind concerns; only documented errors may come."""
    try:
        opened = tokenstore.open(store)
    except TokenstoreError:
        return
    if kind == "manifests":
        attempt(info, opened)
        attempt(lambda: (opened.codebook, opened.synonyms))
    for split in opened.splits:
        try:
            reader = opened[split]
        except TokenstoreError:
            continue
        if kind in ("tables", "lists"):
            attempt(reader.samples_table)
            attempt(skips_of, reader)
        for name in reader.columns if kind != "tables" else ():
            rows = np.arange(min(len(reader), 20))
            attempt(reader.read, name, rows)
            attempt(reader.read, name, rows[-1:], None, None, 0)


def attempt(part: Callable[..., object], *arguments: object) -> None:
    """Call a function, which may raise documented errors."""
    try:
        part(*arguments)
    except TokenstoreError as error:
        assert str(error)  # noqa: PT017


def fuzz(kind: str, count: int, originals: dict[str, Files], folder: Path, first: int = 0) -> None:
    """Try mutations `first` to `first + count`; a failure names its number and codec."""
    names = {"lists": (MANY,), "columns": (FURTHER,)}.get(kind, (*CODECS, *VIEWS))
    written: dict[str, Files] = {}
    for name in names:
        place(folder / name, {}, originals[name])
        written[name] = originals[name]
        exercise(folder / name, kind)  # what is loaded and compiled once is not the mutations'
        verify(folder / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        draw = random.Random(number)
        codec = names[(number - first) * len(names) // count]
        files = KINDS[kind](draw, originals[codec])
        place(folder / codec, written[codec], files)
        written[codec] = files
        started = time.process_time()
        try:
            exercise(folder / codec, kind)
            if number % _VERIFIED_EVERY == 0:
                attempt(verify, folder / codec)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {kind}, {codec}: {error!r}") from error
        seconds = time.process_time() - started
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert seconds < MOST_SECONDS, f"mutation {number} of {kind}, {codec}: {seconds} s"
        assert kilobytes < MOST_KILOBYTES, f"mutation {number} of {kind}, {codec}: {kilobytes} kB"


def place(folder: Path, written: Files, files: Files) -> None:
    """Make the files in a folder those given, with as few writes as that takes."""
    for path in written.keys() - files.keys():
        (folder / path).unlink()
    for path, data in files.items():
        if written.get(path) != data:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_documented_errors(originals: dict[str, Files], tmp_path: Path, kind: str) -> None:
    fuzz(kind, 100, originals, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_thousand_mutations_are_documented_errors(
    originals: dict[str, Files], tmp_path: Path, kind: str
) -> None:
    fuzz(kind, 20_000, originals, tmp_path)
