"""The manifest: round trips, what each field must be, versions, the digest, and hostile documents."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from helpers.stores import sign, with_digest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs import codec_names
from tokenstore.codecs.registry import MAX_CODEBOOK_SIZE
from tokenstore.errors import DamageError, ManifestError, VersionError
from tokenstore.format.history import Operation
from tokenstore.format.manifest import (
    FileRecord,
    Manifest,
    Preprocessing,
    SplitSummary,
    TokenizerIdentity,
)
from tokenstore.format.root import decode_root, encode_root

WHERE = "store/zarr.json"

MANIFEST = Manifest(
    tokenizer=TokenizerIdentity("conv", "ab" * 32),
    grid=(2, 4, 3),
    codebook_sizes=(391, 16),
    splits={"train": SplitSummary(7, 1, 1234), "val": SplitSummary(0)},
    files={
        "train/tokens/c/0/0/0/0": FileRecord(57, "cd" * 32),
        "train/samples.parquet": FileRecord(0, "ef" * 32),
    },
    features=("bitpack",),
    class_names=("ant", "böe"),
    preprocessing=Preprocessing(24, 32, "squash"),
    source_kind="folder",
    created_by="tokenstore 0.1.0",
)
ROOT = encode_root(MANIFEST, {"train": {"zarr_format": 3, "node_type": "group", "attributes": {}}})


def root_with(**fields: Any) -> dict[str, Any]:
    """Return a root document whose manifest has these fields instead."""
    root = json.loads(ROOT)
    root["attributes"]["tokenstore"].update(fields)
    return root  # type: ignore[no-any-return]


words = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())
names = words.filter(lambda text: not {"/", "\\", ":"} & set(text) and text not in (".", ".."))
plain_words = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]*", fullmatch=True)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
optional_words = st.none() | st.text(max_size=8).filter(lambda text: text.isprintable())
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**63 - 1)
arguments = st.dictionaries(words, st.none() | st.booleans() | counts | words, max_size=2)
operations = st.builds(Operation, words, arguments, st.lists(digests, max_size=2).map(tuple), words)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Draw any manifest that does not contradict itself."""
    sizes = draw(st.lists(st.integers(1, MAX_CODEBOOK_SIZE), min_size=1, max_size=4).map(tuple))
    grid = draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=4).map(tuple))
    preprocessing = st.builds(Preprocessing, st.integers(1, 9999), st.integers(1, 9999), words, words)
    return Manifest(
        tokenizer=TokenizerIdentity(draw(words), draw(st.none() | digests)),
        grid=(len(sizes), *grid[1:]) if len(sizes) > 1 else grid,
        codebook_sizes=sizes,
        splits=draw(
            st.dictionaries(
                plain_words, st.builds(SplitSummary, counts, counts, st.none() | counts), max_size=3
            )
        ),
        files=draw(st.dictionaries(paths, st.builds(FileRecord, counts, digests), max_size=3)),
        features=draw(st.lists(st.sampled_from(sorted(codec_names())), unique=True).map(tuple)),
        class_names=draw(st.none() | st.lists(words, max_size=3).map(tuple)),
        preprocessing=draw(st.none() | preprocessing),
        source_kind=draw(optional_words),
        ignore_index=draw(st.none() | counts),
        history=draw(st.lists(operations, max_size=2).map(tuple)),
        created_by=draw(words),
        requires=draw(words),
    )


@given(manifests())
@settings(deadline=None)
def test_any_manifest_comes_back_from_its_root(manifest: Manifest) -> None:
    root = encode_root(manifest, {})
    assert decode_root(root, WHERE) == manifest
    assert encode_root(manifest, {}) == root


def test_the_digest_in_a_root_is_as_the_tests_compute_it() -> None:
    blank = re.sub(rb'"digest": "[0-9a-f]{64}"', b'"digest": "%s"' % (b"0" * 64), ROOT)
    assert sign(blank) == ROOT
    assert decode_root(with_digest(json.loads(ROOT)), WHERE) == MANIFEST


FIELDS = [
    *("format_version", "requires", "features", "created_by", "tokenizer", "tokenizer.name"),
    *("tokenizer.fingerprint", "grid", "codebook_sizes", "preprocessing", "preprocessing.height"),
    *("preprocessing.width", "preprocessing.resize", "preprocessing.filter", "source_kind", "class_names"),
    *(
        "splits",
        "splits.train.samples",
        "splits.train.skipped",
        "splits.train.source_bytes",
        "files",
        "digest",
    ),
]


def parent_of(root: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    *path, last = field.split(".")
    values = root["attributes"]["tokenstore"]
    for name in path:
        values = values[name]
    return values, last


def test_the_fields_tested_are_all_that_there_are() -> None:
    assert {field.partition(".")[0] for field in FIELDS} == set(root_with()["attributes"]["tokenstore"])


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field: str) -> None:
    root = root_with()
    values, name = parent_of(root, field)
    del values[name]
    with pytest.raises(ManifestError, match=rf"manifest\.{re.escape(field)}: missing"):
        decode_root(json.dumps(root).encode(), WHERE)


NULLABLE = (
    "tokenizer.fingerprint",
    "preprocessing",
    "source_kind",
    "class_names",
    "splits.train.source_bytes",
)
TEXTS = ("requires", "created_by", "tokenizer.name", "tokenizer.fingerprint", "source_kind")
WRONG_TYPES = [
    (field, wrong)
    for field in FIELDS
    for wrong in (True, 1.5, "text", [[]], {"a": {}}, None, -1)
    if not (wrong is None and field in NULLABLE)
    and not (wrong == "text" and field in (*TEXTS, "preprocessing.resize", "preprocessing.filter"))
]


@pytest.mark.parametrize(("field", "wrong"), WRONG_TYPES, ids=repr)
def test_a_field_of_another_type_is_named(field: str, wrong: Any) -> None:
    root = root_with()
    values, name = parent_of(root, field)
    values[name] = wrong
    named = rf"manifest\.{re.escape(field)}|manifest's {field}"
    with pytest.raises((ManifestError, DamageError), match=named):
        decode_root(json.dumps(root).encode() if field == "digest" else with_digest(root), WHERE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 0}, r"manifest\.format_version: expected an integer from 1"),
        ({"features": ["bitpack", 1]}, r"manifest\.features\[1\]: expected str"),
        ({"grid": []}, r"manifest\.grid: expected at least one axis"),
        ({"grid": [2, 0]}, r"manifest\.grid\[1\]: expected an integer from 1"),
        ({"grid": [2, 2**63]}, r"manifest\.grid\[1\]: expected an integer from 1"),
        ({"grid": [3, 4]}, r"manifest\.grid: with 2 codebooks the first axis must be 2"),
        ({"codebook_sizes": []}, r"manifest\.codebook_sizes: expected at least one"),
        ({"codebook_sizes": [0, 1]}, r"manifest\.codebook_sizes\[0\]: expected an integer from 1"),
        ({"codebook_sizes": [2**31 + 1, 1]}, r"manifest\.codebook_sizes\[0\]: .* to 2147483648"),
        ({"class_names": ["ant", None]}, r"manifest\.class_names\[1\]: expected str"),
        ({"splits": {"train": 7}}, r"manifest\.splits\.train: expected dict"),
        (
            {"splits": {"a/b": {"samples": 0, "skipped": 0, "source_bytes": None}}},
            r"manifest\.splits: .*'a/b'",
        ),
        ({"splits": {"": {"samples": 0, "skipped": 0, "source_bytes": None}}}, r"manifest\.splits: .*''"),
        ({"files": {"a": "ab" * 32}}, r"manifest\.files\.a: expected list"),
        ({"files": {"a": [1]}}, r"manifest\.files\['a'\]: expected \[size, SHA-256"),
        ({"files": {"a": [-1, "ab" * 32]}}, r"manifest\.files\['a'\]: expected \[size, SHA-256"),
        ({"files": {"a": [True, "ab" * 32]}}, r"manifest\.files\['a'\]: expected \[size, SHA-256"),
        ({"files": {"a": [1, "AB" * 32]}}, r"manifest\.files\['a'\]: expected \[size, SHA-256"),
        ({"files": {"a": [1, "ab" * 32 + "\n"]}}, r"manifest\.files\['a'\]: expected \[size, SHA-256"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        decode_root(with_digest(root_with(**fields)), WHERE)


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "a/../../x", "a/..", "..", "/etc/passwd", "//x", "", "a//b", "a/", "./a", "."),
        *("..\\x", "a\\..\\..\\x", "C:/x", "C:x", "a\0b", "a\nb", "\ud800"),
    ],
    ids=repr,
)
def test_a_path_that_could_leave_the_store_is_refused(path: str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.files: expected a path inside the store"):
        decode_root(with_digest(root_with(files={path: [1, "ab" * 32]})), WHERE)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"format_version": 2**62}, "format version 4611686018427387904"),
        ({"features": ["zstd", "wavelet"]}, "feature 'wavelet'"),
        ({"format_version": 2, "features": ["wavelet"]}, "feature 'wavelet'"),
    ],
)
def test_a_newer_store_is_refused_with_the_version_that_reads_it(fields: dict[str, Any], what: str) -> None:
    root = root_with(**fields, requires="4.2.0", grid="of another kind")
    with pytest.raises(VersionError, match=rf"needs tokenstore >= 4\.2\.0: it uses {what}.*Upgrade"):
        decode_root(with_digest(root), WHERE)


def test_an_error_says_which_store_it_is_about() -> None:
    with pytest.raises(ManifestError, match=r"^store/zarr\.json: manifest\.grid: "):
        decode_root(with_digest(root_with(grid=[])), WHERE)
    with pytest.raises(VersionError, match=r"^store/zarr\.json: this store needs tokenstore >= "):
        decode_root(with_digest(root_with(format_version=2)), WHERE)


def test_fields_that_nobody_knows_are_ignored() -> None:
    root = root_with(weather={"deep": [1, 2.5, None, True]})
    values = root["attributes"]["tokenstore"]
    for nested in (
        values["tokenizer"],
        values["preprocessing"],
        values["splits"]["train"],
        root,
        root["attributes"],
    ):
        nested["unheard_of"] = 1
    assert decode_root(with_digest(root), WHERE) == MANIFEST


@pytest.mark.parametrize("flip", [1, 0x20, 0x80, 0xFF])
def test_no_byte_of_a_root_can_change(flip: int) -> None:
    for position in range(len(ROOT)):
        changed = bytearray(ROOT)
        changed[position] ^= flip
        with pytest.raises((ManifestError, DamageError)):
            decode_root(bytes(changed), WHERE)


def test_a_cut_or_longer_root_is_refused() -> None:
    for data in (*(ROOT[:length] for length in range(len(ROOT))), ROOT + b"\n", b" " + ROOT, ROOT + ROOT):
        with pytest.raises((ManifestError, DamageError)):
            decode_root(data, WHERE)


def test_a_digest_that_is_there_twice_is_refused() -> None:
    root = root_with()
    digest = root["attributes"]["tokenstore"]["digest"]
    root["attributes"]["copy"] = digest
    with pytest.raises(DamageError, match="not computable"):
        decode_root(json.dumps(root).encode(), WHERE)


ZEROS = "0" * 64


def deep(opening: str, closing: str, depth: int = 200_000) -> str:
    return opening * depth + closing * depth


BLANK = re.sub(rb'"digest": "[0-9a-f]{64}"', b'"digest": "%s"' % (b"0" * 64), ROOT).decode()
HOSTILE = {
    "nothing": "",
    "a word": "tokens",
    "a list": "[]",
    "null": "null",
    "an empty object": "{}",
    "attributes that are a list": '{"attributes": []}',
    "a manifest that is a string": '{"attributes": {"tokenstore": "yes"}}',
    "a manifest that is null": '{"attributes": {"tokenstore": null}}',
    "NaN samples": BLANK.replace('"samples": 7', '"samples": NaN'),
    "infinite samples": BLANK.replace('"samples": 7', '"samples": Infinity'),
    "NaN that nobody reads": BLANK.replace('"samples": 7', '"samples": 7, "x": -Infinity'),
    "samples as a float": BLANK.replace('"samples": 7', '"samples": 7.0'),
    "samples as a huge float": BLANK.replace('"samples": 7', '"samples": 1e999'),
    "samples of 10000 digits": BLANK.replace('"samples": 7', f'"samples": {"7" * 10_000}'),
    "samples of 4000 digits": BLANK.replace('"samples": 7', f'"samples": {"7" * 4000}'),
    "a key twice": BLANK.replace('"samples": 7', '"samples": 7, "samples": 8'),
    "two manifests": BLANK.replace('"attributes": {', '"attributes": {"tokenstore": {},', 1),
    "deep lists": BLANK.replace('"samples": 7', f'"samples": 7, "x": {deep("[", "]")}'),
    "deep objects": BLANK.replace('"samples": 7', f'"samples": 7, "x": {deep("""{"x":""", "}")[:-1]}'),
    "a lone surrogate as the digest": BLANK.replace(ZEROS, "\\ud800"),
    "an empty digest": BLANK.replace(ZEROS, ""),
    "a digest of other digits": BLANK.replace(ZEROS, "\u0663" * 64),
    "a comment": BLANK.replace('"samples": 7', '"samples": 7 /* or so */'),
    "a comma at the end": BLANK.replace('"samples": 7', '"samples": 7, "x": [1,]'),
    "a byte order mark": "\ufeff" + BLANK,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_refused(text: str) -> None:
    if ZEROS not in text:
        with pytest.raises((ManifestError, DamageError)):
            decode_root(text.encode(), WHERE)
        return
    with pytest.raises(ManifestError):  # and not because of the digest, which is right
        decode_root(sign(text.encode()), WHERE)


@pytest.mark.parametrize("junk", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"], ids=repr)
def test_bytes_that_are_not_utf8_are_refused(junk: bytes) -> None:
    with pytest.raises(ManifestError, match="damaged"):
        decode_root(sign(BLANK.encode().replace(b"conv", b"conv" + junk)), WHERE)


def test_utf16_is_refused() -> None:
    with pytest.raises(ManifestError):
        decode_root(ROOT.decode().encode("utf-16"), WHERE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda values: (
            st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
        ),
    ),
    st.sampled_from(FIELDS),
)
@settings(deadline=None)
def test_any_value_in_any_field_is_read_or_refused(value: Any, field: str) -> None:
    root = copy.deepcopy(root_with())
    values, name = parent_of(root, field)
    values[name] = value
    data = json.dumps(root).encode() if field == "digest" else with_digest(root)
    try:
        decode_root(data, WHERE)
    except (ManifestError, DamageError) as error:
        assert str(error)  # noqa: PT017


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode_root(data, WHERE)


def test_an_operation_on_stores_is_a_field_that_stores_without_one_do_not_have() -> None:
    assert b"history" not in ROOT
    entry = {
        "operation": "select",
        "arguments": {"seed": 1},
        "inputs": ["ab" * 32],
        "version": "tokenstore 1",
    }
    manifest = decode_root(with_digest(root_with(history=[entry])), WHERE)
    assert manifest.history == (Operation("select", {"seed": 1}, ("ab" * 32,), "tokenstore 1"),)
    assert manifest.to_dict()["history"] == [entry]


@pytest.mark.parametrize(
    ("field", "value"),
    [("operation", 1), ("arguments", []), ("inputs", [1]), ("inputs", "ab"), ("version", None)],
)
def test_an_operation_of_other_values_is_refused(field: str, value: object) -> None:
    entry = {"operation": "select", "arguments": {}, "inputs": [], "version": "tokenstore 1", field: value}
    with pytest.raises(ManifestError, match=rf"manifest\.history\[0\]\.{field}"):
        decode_root(with_digest(root_with(history=[entry])), WHERE)
