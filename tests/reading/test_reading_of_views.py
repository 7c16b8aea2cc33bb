"""One view of each sample read alone equals that view of the whole sample, in every codec and place."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.conformance import crc32c
from helpers.stores import replace_files
from helpers.view_stores import KINDS, SAMPLES, VIEWS, codes_of_views, write_kind
from hypothesis import given
from hypothesis import strategies as st

import tokenstore
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError, DamageError
from tokenstore.reading import Concatenated, SplitReader, Subset

CODES = codes_of_views()
ROWS = st.lists(st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, VIEWS - 1)), max_size=12)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def readers(kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SplitReader]:
    """Open a store on the disk, in memory, over a network, in a zip file, and for one pass."""
    folder = tmp_path_factory.mktemp(kind)
    write_kind(folder / "store", kind)
    tokenstore.copy(folder / "store", folder / "store.zip")
    remote = f"memory://{uuid.uuid4()}"
    fsspec.filesystem("memory").put(f"{folder}/store", remote, recursive=True)
    local = tokenstore.open(folder / "store")["train"]
    return {
        "local": local,
        "memory": local.in_memory(["tokens"]),
        "zip": tokenstore.open(folder / "store.zip")["train"],
        "remote": tokenstore.open(remote)["train"],
    }


@given(places=ROWS, dtype=st.sampled_from(["stored", "int32", "int64"]))
def test_a_view_is_that_of_the_whole_sample(
    readers: dict[str, SplitReader], kind: str, places: list[tuple[int, int]], dtype: str
) -> None:
    rows, views = (np.array([place[at] for place in places], np.int64) for at in (0, 1))
    for reader in readers.values():
        np.testing.assert_array_equal(reader.read("tokens", rows, view=views), CODES[rows, views])
        np.testing.assert_array_equal(reader.read("tokens", rows, view=2), CODES[rows, 2])
        np.testing.assert_array_equal(reader.read("tokens", rows), CODES[rows])
        if dtype != "stored" and kind != "zstd":
            out = np.empty((len(rows), *CODES.shape[2:]), dtype)
            assert reader.read("tokens", rows, out, view=views) is out
            np.testing.assert_array_equal(out, CODES[rows, views])
            whole = np.empty((len(rows), *CODES.shape[1:]), dtype)
            np.testing.assert_array_equal(reader.read("tokens", rows, whole), CODES[rows])


def test_prefetched_samples_have_all_their_views(readers: dict[str, SplitReader]) -> None:
    rows, views = np.array([5, 40, 5]), np.array([2, 0, 1])
    for reader in readers.values():
        values = reader.read("tokens", rows, None, reader.prefetch(rows), views)
        np.testing.assert_array_equal(values, CODES[rows, views])
    streamed = readers["local"].array("tokens").streamed()
    np.testing.assert_array_equal(streamed.read(rows, view=views), CODES[rows, views])
    again = pickle.loads(pickle.dumps(readers["local"]))
    np.testing.assert_array_equal(again.read("tokens", rows, view=1), CODES[rows, 1])


def test_a_single_index_has_no_axis_of_samples(readers: dict[str, SplitReader]) -> None:
    reader = readers["local"]
    np.testing.assert_array_equal(reader[-1], CODES[-1])
    np.testing.assert_array_equal(reader.read("tokens", 3, view=1), CODES[3, 1])
    np.testing.assert_array_equal(
        reader.read("tokens", slice(2, 5), view=[1, 0, 1]), CODES[[2, 3, 4], [1, 0, 1]]
    )


def test_subsets_and_joined_rows_give_their_samples_views(readers: dict[str, SplitReader]) -> None:
    reader = readers["local"]
    joined = Concatenated([reader, Subset(reader, [7, 3])])
    rows, views = np.array([0, SAMPLES + 1, SAMPLES]), np.array([2, 1, 0])
    np.testing.assert_array_equal(joined.read("tokens", rows, view=views), CODES[[0, 3, 7], views])
    np.testing.assert_array_equal(Subset(reader, [7, 3]).read("tokens", view=1), CODES[[7, 3], 1])
    assert joined.view_column("tokens").shape == CODES.shape[2:]
    assert joined.column("tokens").shape == CODES.shape[1:]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (3, "expected views from 0 to 2, found 3"),
        (-1, "expected views from 0 to 2, found -1"),
        ([0, 3], "expected views from 0 to 2, found 3"),
        ([0], "one for each of 2 samples, found int64 of shape"),
        (0.0, "found float64 of shape"),
        (True, "found bool of shape"),
    ],
)
def test_a_view_that_samples_do_not_have_is_refused(
    readers: dict[str, SplitReader], view: Any, message: str
) -> None:
    for reader in readers.values():
        with pytest.raises(IndexError, match=message):
            reader.read("tokens", [1, 2], view=view)


def test_values_without_views_are_their_view_0(readers: dict[str, SplitReader]) -> None:
    reader = readers["local"]
    assert reader.read("labels", [4, 2], view=0).tolist() == [4, 2]
    with pytest.raises(IndexError, match="labels: expected views from 0 to 0, found 1"):
        reader.read("labels", [4, 2], view=1)


@pytest.mark.parametrize("kind", ["bitpack", "zstd"])
def test_boxes_follow_the_view(tmp_path: Path, kind: str) -> None:
    boxes = write_kind(tmp_path / "store", kind).columns["view_boxes"]
    reader = tokenstore.open(tmp_path / "store")["train"]
    views = np.array([2, 0])
    np.testing.assert_array_equal(reader.read("view_boxes", [9, 4], view=views), boxes[[9, 4], views])
    assert reader.view_column("view_boxes").shape == (5,)


def test_a_buffer_of_another_shape_is_refused(readers: dict[str, SplitReader], kind: str) -> None:
    if kind == "zstd":
        return
    for out in (np.empty((2, 3, 2, 4, 3), np.uint8).swapaxes(3, 4), np.empty((2, 2, 3, 4), np.uint8)):
        with pytest.raises(CodecError, match=r"expected a C-contiguous buffer \(2, 3, 2, 3, 4\)"):
            readers["local"].read("tokens", [0, 1], out)


def test_only_the_view_and_what_it_is_given_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kind(tmp_path / "store", "given")
    reader = tokenstore.open(tmp_path / "store")["train"]
    decoded: list[int] = []
    decode = Streams.decode

    def counted(self: Streams, addresses: Any, *rest: Any) -> int:
        decoded.append(len(addresses))
        return decode(self, addresses, *rest)

    monkeypatch.setattr(Streams, "decode", counted)
    for view, streams in ((0, [2]), (1, [2, 2]), (2, [2, 2, 2])):
        decoded.clear()
        reader.read("tokens", [0, 2], view=view)
        assert decoded == streams


def test_a_damaged_view_names_its_sample(tmp_path: Path) -> None:
    write_kind(tmp_path / "store", "bitpack")
    shard = "train/tokens/c/0/0/0/0/0"
    data = bytearray((tmp_path / "store" / shard).read_bytes())
    nbytes = 18  # of a view: 24 codes of 6 bits
    data[5 * nbytes] |= 0x3F  # the first code of sample 1, view 2
    data[12 * nbytes : 12 * nbytes + 4] = crc32c(bytes(data[: 12 * nbytes]))
    replace_files(tmp_path / "store", {shard: bytes(data)})
    reader = tokenstore.open(tmp_path / "store")["train"]
    np.testing.assert_array_equal(reader.read("tokens", [1], view=1), CODES[[1], 1])
    with pytest.raises(DamageError, match=r"sample 1\b.*expected a code below the codebook size 40"):
        reader.read("tokens", [0, 1], view=2)
    with pytest.raises(DamageError, match=r"sample 1\b.*expected a code below the codebook size 40"):
        reader.read("tokens", [0, 1])
