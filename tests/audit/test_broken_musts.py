"""A table of broken stores: each MUST of FORMAT.md, broken under right checksums, is reported by `verify`."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.broken_columns import COLUMNS
from helpers.broken_stores import (
    LABELS,
    SAMPLES,
    TOKENS,
    Break,
    document,
    file,
    forgotten,
    manifest,
    root,
    shard,
    sharding,
    small_array,
    table,
    unlisted,
    write_all,
    zstd,
)
from helpers.broken_symmetries import SYMMETRIC, write_symmetric
from helpers.broken_views import GIVEN_VIEWS, VIEWS, write_given_views, write_views
from helpers.conformance import FORMAT, FULL_CODES, crc32c
from helpers.context_models import worked_model

from tokenstore.audit.verify import verify
from tokenstore.codecs.context.model import ContextModel
from tokenstore.errors import IncompleteStoreError, NotAStoreError

SHARD, LAST_SHARD, LABEL_SHARD = "train/tokens/c/0/0/0", "train/tokens/c/2/0/0", "train/labels/c/0"
LISTS = "train/tokens/shards.bin"
CODEBOOK, SYNONYMS = np.ones((391, 3), np.float32), np.full((391, 2), -1, np.int32)


def changed(payload: int, edit: Callable[[bytes], bytes], path: str = SHARD, chunks: int = 4) -> Break:
    """Return a break that changes one payload of a shard."""
    return shard(
        path, lambda all_: [edit(each) if at == payload else each for at, each in enumerate(all_)], chunks
    )


def labelled(first: int) -> Break:
    """Return a break that gives the first sample another label."""
    return shard(
        LABEL_SHARD, lambda _: [zstd(np.array([first, 1, 2, 0, 1, 2, 0, 1], np.int32))], chunks_per_shard=1
    )


def columns(edit: Callable[[dict[str, Any]], object]) -> Break:
    """Return a break that changes columns of the samples' table."""

    def change(rows: pa.Table) -> pa.Table:
        values = dict(zip(rows.schema.names, rows.columns, strict=True))
        edit(values)
        return pa.table(values)

    return table(SAMPLES, change)


def rows(edit: Callable[[bytes], bytes]) -> Break:
    """Return a break that changes the list of the tokens' shards."""
    return lambda store: file(LISTS, edit((store / LISTS).read_bytes()))(store)


def codes(values: Any) -> bytes:
    """Return a frame of two samples' codes of one value."""
    return zstd(np.full((2, 3, 4), values, np.uint16))


def model(**fields: Any) -> Break:
    """Return a break that stores the worked model with another first plane."""
    (plane,) = worked_model().planes
    data = ContextModel(2, (dataclasses.replace(plane, **fields),)).to_bytes()
    return model_bytes(data)


def model_bytes(data: bytes) -> Break:
    """Return a break that stores other bytes as the model."""
    return sharding(
        TOKENS,
        lambda values: values["codecs"][0]["configuration"].update(model=base64.b64encode(data).decode()),
    )


def streams(text: str) -> Break:
    """Return a break that stores other bytes as the chunk of 20 coded samples."""
    return changed(0, lambda _: bytes.fromhex(text), chunks=2)


BITPACK: list[tuple[int, Break, str]] = [
    (1, root(lambda root: root.update(zarr_format=2)), "metadata of a Zarr v3 group"),
    (1, root(lambda root: root.update(node_type="array")), "metadata of a Zarr v3 group"),
    (1, document("train/zarr.json", lambda group: group.update(node_type="array")), "of a Zarr v3 group"),
    (1, forgotten("val/zarr.json"), "val/zarr.json: the split's group is not listed"),
    (1, forgotten("val/tokens/"), "val: has no tokens"),
    (1, manifest(grid=[]), "at least one axis"),
    (1, manifest(grid=[1] * 64), "at most 63 axes"),
    (1, manifest(codebook_sizes=[391, 391]), "with 2 codebooks the first axis must be 2"),
    (2, document(LABELS, lambda array: array.update(shape=[20])), "the manifest's 21 samples, found 20"),
    (2, document(LABELS, lambda array: array.update(data_type="int64")), "expected int32"),
    (
        2,
        document(
            LABELS,
            lambda array: [
                values.append(1)
                for values in (
                    array["shape"],
                    array["chunk_grid"]["configuration"]["chunk_shape"],
                    array["codecs"][0]["configuration"]["chunk_shape"],
                )
            ],
        ),
        r"expected int32 of shape \(21,\)",
    ),
    (2, labelled(-1), "labels from 0 to 2, found -1"),
    (2, labelled(3), "labels from 0 to 2, found 3"),
    (3, manifest(codebook_sizes=[2**31 + 1]), "to 2147483648"),
    (3, manifest(codebook_sizes=[0]), "from 1"),
    (3, document(TOKENS, lambda array: array.update(data_type="uint8", fill_value=255)), "expected uint16"),
    (3, document(TOKENS, lambda array: array.update(fill_value=0)), "fill_value 65535, found 0"),
    (3, document(TOKENS, lambda array: array.update(fill_value=65535.0)), "fill_value 65535, found 65535.0"),
    (4, small_array("codebook", CODEBOOK[:390]), "vectors of 391 codes"),
    (4, small_array("codebook", np.ones((392, 3), np.float32)), "vectors of 391 codes"),
    (4, small_array("codebook", CODEBOOK.astype(np.float64)), "codebook: not the metadata"),
    (4, small_array("codebook", CODEBOOK[None].repeat(2, 0)), "vectors of 391 codes"),
    (4, small_array("codebook", CODEBOOK, chunk=CODEBOOK.tobytes() + bytes(4)), "codebook: .*CRC-32C"),
    (4, small_array("codebook", CODEBOOK, codecs=[{"name": "bytes"}]), "codebook: not the metadata"),
    (4, small_array("codebook", CODEBOOK, shape=[391.0, 3]), "codebook: not the metadata"),
    (4, small_array("synonyms", SYNONYMS[:390]), "a row for each of 391 codes"),
    (4, small_array("synonyms", SYNONYMS.astype(np.int64)), "synonyms: not the metadata"),
    (4, small_array("synonyms", SYNONYMS + 392), "codes below 391, or -1, found 391"),
    (4, small_array("synonyms", SYNONYMS + np.array([0, 1], np.int32)), "expected -1 behind the last code"),
    (5, forgotten(SAMPLES), "lists no file train/samples.parquet"),
    (5, table(SAMPLES, lambda rows: rows.slice(1)), "expected 21 rows, found 20"),
    (5, columns(lambda values: values.pop("width")), "one column width, found 0"),
    (5, columns(lambda values: values.update(source=values["source_index"])), "string in the column source"),
    (5, columns(lambda values: values.update(height=values["source_bytes"])), "int32 in the column height"),
    (5, table(SAMPLES, lambda rows: rows.take(list(range(20, -1, -1)))), "row 0 has the label name"),
    (5, file(SAMPLES, b"PAR1 no table PAR1"), "samples.parquet: not a table"),
    (5, forgotten("train/skipped.parquet"), "lists no file train/skipped.parquet"),
    (5, table("train/skipped.parquet", lambda rows: rows.drop_columns("reason")), "one column reason"),
    (5, table("train/skipped.parquet", lambda rows: rows.slice(1)), "expected 1 rows, found 0"),
    (6, root(lambda root: root["attributes"]["tokenstore"].pop("created_by")), "created_by: missing"),
    (6, manifest(features=["zstd"]), "expected the feature 'bitpack'"),
    (6, manifest(tokenizer__fingerprint="ab"), "a fingerprint that is null or a SHA-256"),
    (6, manifest(preprocessing={"height": 1.0}), r"preprocessing\.height: expected an integer"),
    (6, manifest(splits__train__samples=21.0), "samples: expected an integer"),
    (6, manifest(grid=[3, True]), r"grid\[1\]: expected an integer"),
    (6, manifest(class_names={"ant": 0}), "class_names: expected list"),
    (6, manifest(ignore_index=-1), "ignore_index: expected an integer from 0"),
    (7, manifest(format_version=2), "it uses format version 2"),
    (7, manifest(features=["bitpack", "braid"]), "it uses feature 'braid'"),
    (8, forgotten(SHARD), f"lists no file {SHARD}"),
    (8, forgotten("train/tokens/c/2", keep=True), r"train/tokens/c/2/0/0: a file of the store that"),
    (8, unlisted("train/extra/zarr.json"), "train/extra/zarr.json: a file of the store that"),
    (8, manifest(**{f"files__{SHARD}": [1, "ab" * 32]}), f"{SHARD}: expected 1 bytes"),
    (8, manifest(files__x=[0, "ab" * 32]), "x: the file is missing"),
    (8, manifest(files__x=[0.0, "ab" * 32]), r"files\['x'\]: expected"),
    (9, lambda store: edit_bytes(store / "zarr.json", b'"test"', b'"best"'), "digest"),
    (10, lambda store: edit_bytes(store / SHARD, b"", b"x"), f"{SHARD}: expected .* bytes, found"),
    (11, root(lambda root: root.pop("consolidated_metadata")), "expected consolidated metadata, found none"),
    (11, root(lambda root: root["consolidated_metadata"].update(kind="file")), "expected inline"),
    (
        11,
        root(lambda root: root["consolidated_metadata"]["metadata"].pop("val")),
        "not that of val/zarr.json",
    ),
    (11, root(lambda root: root["consolidated_metadata"]["metadata"].update(x={})), "has 'x', which"),
    (12, document(TOKENS, lambda array: array["chunk_grid"].update(name="odd")), "expected chunk_grid"),
    (12, sharding(TOKENS, lambda values: values.update(chunk_shape=[2, 1, 4])), "expected codecs"),
    (12, sharding(TOKENS, lambda values: values.update(chunk_shape=[2.0, 3, 4])), "expected an integer"),
    (12, sharding(TOKENS, lambda values: values.update(chunk_shape=[3, 3, 4])), "chunks of 3 in shards of 8"),
    (12, sharding(TOKENS, lambda values: values["codecs"].pop()), "tokens: not the metadata"),
    (12, sharding(TOKENS, lambda values: values["index_codecs"].pop()), "expected codecs"),
    (12, sharding(TOKENS, lambda values: values.update(index_location="start")), "expected codecs"),
    (
        12,
        document(TOKENS, lambda array: array["chunk_key_encoding"].update(configuration={"separator": "."})),
        "expected chunk_key_encoding",
    ),
    (
        12,
        document(
            TOKENS,
            lambda array: [
                array["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, 2**40),
                array["codecs"][0]["configuration"]["chunk_shape"].__setitem__(0, 2**40),
            ],
        ),
        "chunks of up to 2147483648 bytes",
    ),
    (13, shard(SHARD, lambda all_: all_[:3], 4), "chunk 3 of the shard is missing"),
    (13, shard(LAST_SHARD, lambda all_: [*all_, all_[0]], 4), "more chunks than the 3"),
    (13, lambda store: leave_a_gap(store), "chunk 1 of the shard is at byte 36, not 32"),
    (15, changed(0, lambda data: b"\xff" + data[1:]), "expected a code below|found 511"),
    (16, changed(3, lambda data: data[:-1] + bytes([data[-1] | 0x80])), "zero bits as padding"),
    (17, changed(0, lambda data: data[:14]), "expected 2 (packed )?samples of 14 bytes"),
    (17, changed(0, lambda data: data + data[:14]), "expected 2 (packed )?samples of 14 bytes"),
    (18, changed(0, lambda data: data[:-1]), "expected 2 (packed )?samples of 14 bytes, found 27"),
    (
        19,
        document(
            LABELS,
            lambda array: array["codecs"][0]["configuration"].update(
                codecs=[
                    {"name": "tokenstore.bitpack", "configuration": {"codebook_size": 3}},
                    {"name": "crc32c"},
                ]
            ),
        ),
        "labels: expected the codec zstd",
    ),
]
ZSTD: list[tuple[int, Break, str]] = [
    (15, changed(0, lambda _: codes(391)), "expected codes from 0 to 390, found 391"),
    (19, changed(0, lambda _: zstd(FULL_CODES[:1])), "expected a chunk of 48 bytes, found one of 24"),
    (19, changed(0, lambda _: zstd(np.zeros(2**24, np.uint8))), "of 48 bytes, found one of 16777216"),
    (19, changed(0, lambda data: data[:-2]), "chunk 0 .*zstd"),
    (19, changed(0, lambda _: b"no frame"), "zstd: expected a frame"),
    (19, sharding(TOKENS, lambda values: values["codecs"].pop(0)), "tokens: not the metadata"),
    (19, sharding(LABELS, lambda values: values["codecs"][0].update(configuration={})), "labels: not the"),
]
PRUNED: list[tuple[int, Break, str]] = [
    (15, changed(0, lambda data: b"\x00\x08" + data[2:], chunks=1), "expected codes from 0 to 2, found"),
    (20, manifest(tokenizer__kept_codes=[[0, 1, 2, 3, 4], [1, 8, 5]]), "codes in rising order"),
    (20, manifest(tokenizer__kept_codes=[[0, 1, 2, 3, 4], [1, 5]]), r"expected lists of \(5, 3\) codes"),
    (20, small_array("codebook", np.ones((2, 5, 1), np.float32)), "zeros behind the 3 codes of codebook 1"),
]
CONTEXT: list[tuple[int, Break, str]] = [
    (11, root(lambda root: root.update(consolidated_metadata={})), "expected no consolidated metadata"),
    (14, lambda store: edit_bytes_of_chunk(store), "chunk 0 .*CRC-32C"),
    (21, changed(1, lambda data: data + b"\x06", chunks=2), "at most 1 samples, found 2"),
    (21, changed(1, lambda _: b"\x00", chunks=2), "expected 1 samples, found 0"),
    (22, streams("02 00"), "form 0 or 1, found 2"),
    (22, streams("01 00000000 00000000 00"), "0 streams"),
    (22, streams("01 14000000 00000000 01 080000 d1 00"), "streams of 1 bytes, found 2"),
    (22, streams("01 14000000 00000000 01 080000"), "streams of 1 bytes, found 0"),
    (22, changed(1, lambda _: b"\x00\x03", chunks=2), "a code below the codebook size 3"),
    (
        22,
        sharding(TOKENS, lambda values: values["codecs"][0]["configuration"].update(model=None)),
        "the codec has none",
    ),
    (23, model(order=np.array([0, 2, 2], np.uint32)), "an order of codes that is no permutation"),
    (23, model(contexts=np.array([[0, 1]], np.int8)), "which is not earlier"),
    (23, model_bytes(b"\x02" + worked_model().to_bytes()[1:]), "found version 2"),
    (23, model_bytes(worked_model().to_bytes()[:-3]), "expected a context model"),
    (23, manifest(codebook_sizes=[4]), "expected uint8 for the manifest's 4 codes, found uint8 for 3"),
    (23, manifest(grid=[2]), r"expected the manifest's grid \(2,\)"),
    (27, streams("01 14000000 00000000 03 0400000000000000 ffffffff"), "expected a stream"),
]
PARTS = [f"train/samples.parquet/00000{part}.parquet" for part in (0, 1)]
LARGE: list[tuple[int, Break, str]] = [
    (8, unlisted("train/samples.parquet/000002.parquet"), "000002.parquet: a file of the store that"),
    (8, unlisted("train/tokens/c/3/0/0"), "c/3/0/0: a file of the store that"),
    (8, lambda store: (store / SHARD).unlink(), f"{SHARD}: the file is missing"),
    (8, lambda store: edit_bytes(store / LISTS, b"", b"x"), "shards.bin: expected 120 bytes, found"),
    (12, document(TOKENS, lambda array: array.update(shape=[25, 3, 4])), "the manifest's 21 samples"),
    (13, rows(lambda rows: rows[:40] + bytes(40) + rows[80:]), "the shard c/1/0/0"),
    (28, rows(lambda rows: rows[:80]), "expected 120 bytes in shards.bin .* found 80"),
    (28, rows(lambda rows: b"\xff" * 8 + rows[8:]), "at least"),
    (
        28,
        rows(lambda rows: rows[:39] + b"?" + rows[40:]),
        "c/0/0/0: expected SHA-256",
    ),
    (
        28,
        rows(lambda rows: rows[40:80] + rows[:40] + rows[80:]),
        "c/0/0/0: expected",
    ),
    (
        28,
        manifest(**{f"files__{SHARD}": [1, "ab" * 32]}),
        "shards in shards.bin alone, found train/tokens/c/0/",
    ),
    (28, manifest(features=["bitpack", "tables"]), "lists no file train/tokens/c/0/0/0"),
    (29, manifest(features=["bitpack", "manifests"]), r"part_rows: expected the feature 'tables'"),
    (29, manifest(splits__train__part_rows=0), "part_rows: expected an integer from 1"),
    (29, manifest(splits__train__part_rows=8), "samples.parquet: expected 3 parts in the manifest, found 2"),
    (29, manifest(splits__train__part_rows=17), "expected 17 rows, found 16"),
    (29, forgotten(PARTS[1]), "samples.parquet: expected 2 parts in the manifest, found 1"),
    (29, table(PARTS[1], lambda rows: rows.slice(1)), "000001.parquet.*: expected 5 rows, found 4"),
    (29, table(PARTS[1], lambda rows: rows.take([4, 3, 2, 1, 0])), "label name"),
    (29, table(PARTS[0], lambda rows: rows.drop_columns("width")), "one column width"),
]
STORES = {
    "bitpack": BITPACK,
    "zstd": ZSTD,
    "pruned": PRUNED,
    "context": CONTEXT,
    "large": LARGE,
    "columns": COLUMNS,
    "views": VIEWS,
    "given_views": GIVEN_VIEWS,
    "symmetric": SYMMETRIC,
}

ELSEWHERE = {
    24: "a rule for decoders: any stream names some codes, so no store shows which tree its writer used",
    25: "a rule for decoders: any stream names some codes, so no store shows how its writer added up lanes",
    26: "a rule for decoders: any stream names some codes, so no store shows its writer's frequencies",
    41: "a rule for decoders: any stream names some codes, so no store shows which cells its writer took",
}
"""The MUSTs that no store can break, with the reason; `tests/format/test_conformance*.py` holds them."""
OF_READERS_AND_WRITERS = {
    6: "readers ignore unknown fields",
    7: "readers refuse newer stores and name the version",
    9: "readers check the digest",
    10: "writers write the root last and rewrite nothing: a store shows only what its digests show",
    14: "readers check a chunk before they return values of it",
    17: "decoders give the fill value for samples that are left out",
    18: "decoders refuse what no encoder wrote",
    22: "decoders read no byte outside a stream",
}
"""The parts of other MUSTs that bind readers or writers, and that no store can break."""


def edit_bytes(path: Path, before: bytes, after: bytes) -> None:
    """Change a file and no checksum."""
    data = path.read_bytes()
    path.write_bytes(data.replace(before, after, 1))


def edit_bytes_of_chunk(store: Path) -> None:
    """Change a byte of the first chunk, and the digests of files but not the chunk's checksum."""
    data = (store / SHARD).read_bytes()
    file(SHARD, data[:1] + bytes([data[1] ^ 1]) + data[2:])(store)


def leave_a_gap(store: Path) -> None:
    """Put four bytes between the first two chunks of a shard, and enter the new places in its index."""
    data = (store / SHARD).read_bytes()
    index = np.frombuffer(data[-68:-4], "<u8").reshape(4, 2).copy()
    index[1:, 0] += 4
    places = index.tobytes()
    file(SHARD, data[:32] + bytes(4) + data[32:-68] + places + crc32c(places))(store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the whole stores that the tests break copies of."""
    folder = tmp_path_factory.mktemp("whole")
    write_all(folder)
    write_views(folder / "views")
    write_given_views(folder / "given_views")
    write_symmetric(folder / "symmetric")
    return folder


def test_the_table_has_every_must_of_the_format() -> None:
    stated = {int(number) for number in re.findall(r"\*\*M(\d+)\*\*", FORMAT.read_text())}
    broken = {must for cases in STORES.values() for must, _, _ in cases}
    assert broken | ELSEWHERE.keys() == stated
    assert not broken & ELSEWHERE.keys()
    assert OF_READERS_AND_WRITERS.keys() <= broken


@pytest.mark.parametrize("kind", STORES)
def test_a_broken_must_is_reported_though_the_checksums_are_right(
    whole: Path, tmp_path: Path, kind: str
) -> None:
    assert verify(whole / kind).problems == []
    passed = []
    for number, (must, break_, expected) in enumerate(STORES[kind]):
        store = tmp_path / str(number)
        shutil.copytree(whole / kind, store)
        break_(store)
        problems = verify(store).problems
        if not any(re.search(expected, problem) for problem in problems):
            passed.append((f"M{must}", expected, problems))
    assert passed == []


def test_m10_without_its_root_a_folder_is_no_store(whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole / "bitpack", store)
    (store / "zarr.json").unlink()
    with pytest.raises(NotAStoreError):
        verify(store)
    (store / ".partial").mkdir()
    with pytest.raises(IncompleteStoreError):
        verify(store)
