"""FORMAT.md's MUSTs on symmetries (M42, M43), against literal bytes and Zarr's reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from helpers.broken_stores import manifest, small_array
from helpers.broken_symmetries import PARTNERS, write_symmetric
from helpers.conformance import FORMAT, crc32c, manifest_of, read_json
from helpers.stores import random_codes, write_store
from hypothesis import given
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.augment import ExactFlip
from tokenstore.errors import ManifestError
from tokenstore.format import FLIP, closed_codes, symmetries_table, symmetries_within

WORKED_BYTES = "00000000 02000000 01000000 04000000 03000000"


def test_m42_permutations_lie_beside_the_codebook_without_a_feature(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_symmetric(store)
    assert manifest_of(store)["symmetries"] == ["flip"]
    assert manifest_of(store)["features"] == ["bitpack"]
    expected = bytes.fromhex(WORKED_BYTES)
    assert f"`{WORKED_BYTES}`" in FORMAT.read_text()
    assert (store / "symmetries/c/0/0").read_bytes() == expected + crc32c(expected)
    assert read_json(store / "symmetries/zarr.json")["dimension_names"] == ["symmetry", "code"]
    np.testing.assert_array_equal(zarr.open(store, mode="r")["symmetries"][:], PARTNERS)
    assert tokenstore.open(store).symmetries["flip"].tolist() == [0, 2, 1, 4, 3]
    assert verify(str(store)).ok


def test_m42_a_store_without_symmetries_has_no_field_and_no_array(tmp_path: Path) -> None:
    write_symmetric(tmp_path / "store", symmetries=(), permutations=None)
    assert "symmetries" not in manifest_of(tmp_path / "store")
    assert not (tmp_path / "store/symmetries").exists()
    assert dict(tokenstore.open(tmp_path / "store").symmetries) == {}


def test_m42_several_codebooks_have_rows_of_their_own(tmp_path: Path) -> None:
    rows = np.array([[[1, 0, 2], [0, 1, -1]]], np.int32)
    codes = random_codes(4, (2, 2, 2), (3, 2))
    write_store(tmp_path / "s", {"train": (codes,)}, (3, 2), symmetries=("flip",), permutations=rows)
    store = tokenstore.open(tmp_path / "s")
    assert store.symmetries["flip"].tolist() == rows[0].tolist()
    assert verify(str(tmp_path / "s")).ok
    drawn = ExactFlip(torch.from_numpy(store.symmetries["flip"].copy()), p=1)
    flipped = drawn(torch.from_numpy(codes).long(), generator=torch.Generator()).numpy()
    np.testing.assert_array_equal(flipped[:, 0], rows[0, 0][codes[:, 0, :, ::-1]])
    np.testing.assert_array_equal(flipped[:, 1], codes[:, 1, :, ::-1])


def test_m42_without_the_field_the_array_means_nothing_and_unknown_names_are_kept(tmp_path: Path) -> None:
    write_symmetric(tmp_path / "a")
    manifest(symmetries=["turn"])(tmp_path / "a")
    assert set(tokenstore.open(tmp_path / "a").symmetries) == {"turn"}
    assert ExactFlip.of(tokenstore.open(tmp_path / "a").symmetries) is None


def test_m43_permutations_that_cannot_be_are_refused_and_codes_are_read_as_before(tmp_path: Path) -> None:
    write_symmetric(tmp_path / "store")
    small_array("symmetries", np.roll(PARTNERS, 1))(tmp_path / "store")
    with pytest.raises(ManifestError, match="expected a permutation that undoes itself"):
        _ = tokenstore.open(tmp_path / "store").symmetries
    assert tokenstore.open(tmp_path / "store")["train"][0].tolist() == [[0, 1, 3]]


def test_m42_names_without_an_array_are_found(tmp_path: Path) -> None:
    write_symmetric(tmp_path / "store", symmetries=(), permutations=None)
    manifest(symmetries=["flip"])(tmp_path / "store")
    (problem,) = verify(str(tmp_path / "store")).problems
    assert "expected permutations for ['flip'], found no array" in problem
    manifest(symmetries=[])(tmp_path / "store")
    with pytest.raises(ManifestError, match=r"symmetries: expected names, each once, found \[\]"):
        tokenstore.open(tmp_path / "store")


def test_m43_a_flip_turns_the_worked_sample_round() -> None:
    flip = ExactFlip(torch.from_numpy(PARTNERS[0]), p=1)
    assert flip(torch.tensor([[[0, 1, 3]]]), generator=torch.Generator()).tolist() == [[[4, 2, 0]]]


@st.composite
def involutions(draw: st.DrawFn) -> npt.NDArray[np.int32]:
    size = draw(st.integers(1, 12))
    order = draw(st.permutations(range(size)))
    partners = np.arange(size, dtype=np.int32)
    for number in range(draw(st.integers(0, size // 2))):
        one, two = order[2 * number], order[2 * number + 1]
        partners[one], partners[two] = two, one
    return partners


@given(involutions(), st.data())
def test_symmetries_of_the_closed_codes_are_those_of_the_codes(
    partners: npt.NDArray[np.int32], data: st.DataObject
) -> None:
    some = data.draw(st.sets(st.integers(0, len(partners) - 1), min_size=1))
    codes = np.array(sorted(some))
    (closed,) = closed_codes([codes], {FLIP: partners})
    assert set(closed.tolist()) == some | {int(partners[code]) for code in some}
    names, rows = symmetries_table(symmetries_within({FLIP: partners}, [closed]), (len(closed),))
    assert names == ("flip",)
    assert rows is not None
    np.testing.assert_array_equal(closed[rows[0]], partners[closed])
    is_closed = len(closed) == len(codes)
    assert bool(symmetries_within({FLIP: partners}, [codes])) == is_closed
