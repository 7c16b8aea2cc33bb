"""Arrays of codes: any integer type and layout gives the codes, and only those."""

from __future__ import annotations

import io
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tokenstore.errors import SourceChangedError, SourceError
from tokenstore.format import codebook_sizes
from tokenstore.sources import open_source
from tokenstore.sources.arrays import open_arrays
from tokenstore.sources.base import CodeSource

CODES = np.random.default_rng(0).integers(0, 200, (9, 4, 5))


def npy(path: Path, array: npt.ArrayLike) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def npz(path: Path, compressed: bool = False, **arrays: npt.ArrayLike) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", ">u4", "<u8", "i1", "<i2", ">i4", ">i8", "<i8"])
def test_codes_of_any_integer_type_and_byte_order_come_back_unsigned(tmp_path: Path, dtype: str) -> None:
    codes = (CODES % 128).astype(dtype)
    source = open_arrays(npy(tmp_path / "x.npy", codes))
    split = pickle.loads(pickle.dumps(source.splits["train"]))
    assert (source.kind, source.grid, len(split)) == ("array", (4, 5), 9)
    for start, stop in [(0, 9), (3, 5), (8, 9), (4, 4), (0, 1)]:
        found = split.codes(start, stop)
        assert found.dtype.kind == "u"
        assert found.dtype.isnative
        assert np.array_equal(found, codes[start:stop])


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**31 - 1, "u4")]
)
def test_signed_codes_take_the_smallest_unsigned_type(tmp_path: Path, largest: int, dtype: str) -> None:
    split = open_arrays(npy(tmp_path / "x.npy", np.array([[0, largest]]))).splits["train"]
    assert split.codes(0, 1).dtype == np.dtype(dtype)
    assert split.codes(0, 1).tolist() == [[0, largest]]


@pytest.mark.parametrize("value", [-1, 2**31, 2**63 - 1])
def test_codes_out_of_range_are_named_with_their_sample(tmp_path: Path, value: int) -> None:
    codes = CODES.copy()
    codes[6, 3, 4] = value
    split = open_arrays(npy(tmp_path / "x.npy", codes)).splits["train"]
    split.codes(0, 6)
    with pytest.raises(SourceError, match=rf"x.npy: sample 6: expected codes 0..2147483647, found {value}"):
        split.codes(5, 9)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (CODES.astype(float), "expected codes .* of an integer type, found float64"),
        (CODES.astype(bool), "found bool"),
        (np.array(["a", "b"]), "found <U1"),
        (np.arange(5), r"expected codes \(N, \*grid\)"),
        (np.zeros((0, 4), int), "expected at least one sample of one code"),
        (np.zeros((4, 0), int), "expected at least one sample of one code"),
        (np.array(7), "expected codes"),
        (np.asfortranarray(CODES), "in Fortran order; save np.ascontiguousarray"),
        (np.array([[1, None]], object), "holds Python objects"),
        (np.zeros(3, [("a", int)]), "expected codes"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_no_codes_are_refused(tmp_path: Path, array: Any, message: str, kind: str) -> None:
    path = npy(tmp_path / "x.npy", array) if kind == "npy" else npz(tmp_path / "x.npz", tokens=array)
    with pytest.raises(SourceError, match=message):
        open_arrays(path)


def test_an_npy_file_that_is_cut_off_or_too_long_is_refused(tmp_path: Path) -> None:
    path = npy(tmp_path / "x.npy", CODES)
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"\0", whole[:100], whole[:5], b"", b"no array at all"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"x.npy: "):
            open_arrays(path)


def test_an_npy_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = npy(tmp_path / "x.npy", CODES)
    split = open_arrays(path).splits["train"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SourceChangedError, match=r"x.npy: was replaced after it was listed"):
        split.codes(0, 9)


@pytest.mark.parametrize("ending", ["-labels", "_labels"])
def test_labels_lie_beside_the_codes(tmp_path: Path, ending: str) -> None:
    npy(tmp_path / f"x{ending}.npy", np.arange(9, dtype=">i8"))
    split = open_arrays(npy(tmp_path / "x.npy", CODES)).splits["train"]
    assert split.labels(2, 5).tolist() == [2, 3, 4]
    assert split.labels(0, 9).dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(8), "8 labels for 9 samples"),
        (np.arange(9) - 1, "expected labels 0..2147483647, found -1 at sample 0"),
        (np.arange(9) / 2, "expected labels as one row of integers"),
        (np.zeros((9, 2), int), "expected labels as one row of integers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    npy(tmp_path / "x-labels.npy", labels)
    with pytest.raises(SourceError, match=message):
        open_arrays(npy(tmp_path / "x.npy", CODES))


def test_a_folder_holds_an_array_a_split(tmp_path: Path) -> None:
    npy(tmp_path / "train.npy", CODES)
    npy(tmp_path / "train-labels.npy", np.arange(9))
    npy(tmp_path / "val.npy", CODES[:2])
    npy(tmp_path / "mean.npy", np.zeros(3))
    source = open_source(tmp_path)
    assert (source.kind, list(source.splits)) == ("array", ["train", "val"])
    assert source.splits["train"].labels(0, 2).tolist() == [0, 1]
    assert source.splits["val"].labels(0, 2) is None
    assert source.splits["val"].names(1, 2).to_pylist() == ["val.npy[1]"]


def test_splits_that_differ_in_grid_are_refused(tmp_path: Path) -> None:
    npy(tmp_path / "train.npy", CODES)
    npy(tmp_path / "val.npy", CODES[:, :2])
    with pytest.raises(SourceError, match="splits differ in their grids"):
        open_arrays(tmp_path)


def test_two_arrays_for_a_split_are_refused(tmp_path: Path) -> None:
    npy(tmp_path / "train.npy", CODES)
    npz(tmp_path / "train.npz", tokens=CODES)
    with pytest.raises(SourceError, match=r"'train.npy' and 'train.npz' are both split train"):
        open_arrays(tmp_path)


def test_a_folder_without_named_arrays_is_refused(tmp_path: Path) -> None:
    npy(tmp_path / "mean.npy", np.zeros(3))
    with pytest.raises(SourceError, match="no arrays named after splits"):
        open_arrays(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["tokens", "codes", "x"])
def test_an_npz_holds_codes_labels_names_codebook_and_columns(
    tmp_path: Path, name: str, compressed: bool
) -> None:
    masks = np.random.default_rng(1).normal(size=(9, 2)).astype(">f4")
    arrays: dict[str, Any] = {name: CODES, "labels": np.arange(9) % 2, "class_names": np.array(["a", "b"])}
    arrays["codebook"] = np.random.default_rng(2).normal(size=(200, 3))
    if name != "x":
        arrays |= {"masks": masks, "mean": np.zeros(3), "captions": np.array(["?"] * 9)}
    source = open_arrays(npz(tmp_path / "train.npz", compressed, **arrays))
    split = source.splits["train"]
    assert source.class_names == ("a", "b")
    assert codebook_sizes(source.codebook.shape) == (200,)
    assert source.codebook.dtype == np.float32
    assert np.allclose(source.codebook, arrays["codebook"])
    for start, stop in [(0, 4), (4, 9), (0, 2), (8, 9)]:
        assert np.array_equal(split.codes(start, stop), CODES[start:stop])
    if name != "x":
        assert split.columns == {"masks": (np.dtype("f4"), (2,))}
        assert np.array_equal(split.column("masks", 3, 7), masks[3:7])
        assert split.column("masks", 3, 7).dtype.isnative
        assert [note.split()[1] for note in source.notes] == ["mean", "captions"]
    again = pickle.loads(pickle.dumps(split))
    assert np.array_equal(again.codes(5, 6), CODES[5:6])


def test_several_codebooks_have_a_size_each(tmp_path: Path) -> None:
    source = open_arrays(npz(tmp_path / "x.npz", tokens=CODES, codebook=np.zeros((4, 200, 3), "f4")))
    assert codebook_sizes(source.codebook.shape) == (200, 200, 200, 200)
    assert source.codebook.shape == (4, 200, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": CODES, "b": CODES}, "expected an array tokens or codes, found a, b"),
        ({"labels": np.arange(9)}, "expected an array tokens or codes, found labels"),
        ({"tokens": CODES, "codebook": np.zeros(3)}, "expected floats .K, D. or .n, K, D., found float64"),
        ({"tokens": CODES, "class_names": np.arange(2)}, "expected a row of names, found int64"),
        (
            {"tokens": CODES, "labels": np.arange(9), "class_names": np.array(["a"])},
            "sample 1 has label 1, but there are only 1 class names",
        ),
    ],
)
def test_an_npz_that_contradicts_itself_is_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_arrays(npz(tmp_path / "x.npz", **arrays))


def test_splits_that_differ_in_class_names_or_codebook_are_refused(tmp_path: Path) -> None:
    npz(tmp_path / "train.npz", tokens=CODES, class_names=np.array(["a", "b"]))
    npz(tmp_path / "val.npz", tokens=CODES, class_names=np.array(["a", "c"]))
    with pytest.raises(SourceError, match="splits differ in their class_names"):
        open_arrays(tmp_path)
    npz(tmp_path / "train.npz", tokens=CODES, codebook=np.zeros((200, 2)))
    npz(tmp_path / "val.npz", tokens=CODES, codebook=np.ones((200, 2)))
    with pytest.raises(SourceError, match="splits differ in their codebook"):
        open_arrays(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_is_refused_with_its_name(tmp_path: Path, compressed: bool) -> None:
    path = npz(
        tmp_path / "x.npz", compressed, tokens=np.random.default_rng(0).integers(0, 200, (5000, 64), "u1")
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"x.npz: expected an .npz archive"):
        open_arrays(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    split = open_arrays(path).splits["train"]
    with pytest.raises(SourceError, match="array 'tokens': damaged or truncated"):
        split.codes(0, 5000)


def test_an_npz_member_that_is_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, CODES)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("tokens.npy", file.getvalue()[:-8])
    with pytest.raises(SourceError, match=r"array 'tokens': int64 .9, 4, 5. takes 1568 bytes, found 1560"):
        open_arrays(tmp_path / "x.npz")


def test_reading_a_large_array_keeps_memory_flat(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint16, (40_000, 32, 32))
    array.flush()
    del array
    split = open_arrays(path).splits["train"]
    split.codes(0, 500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 40_000, 500):
        split.codes(start, start + 500)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_the_fingerprint_follows_shapes_labels_and_names(tmp_path: Path) -> None:
    prints = set()
    for arrays in ({"tokens": CODES}, {"tokens": CODES[1:]}, {"tokens": CODES, "labels": np.arange(9)}):
        split = open_arrays(npz(tmp_path / "x.npz", **arrays)).splits["train"]
        prints.add(split.fingerprint())
        assert split.fingerprint() in prints
    assert len(prints) == 3


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_the_fingerprint_follows_values_of_codes_and_columns(tmp_path: Path, ending: str) -> None:
    codes = np.arange(600_000, dtype=np.uint16).reshape(6000, 10, 10) % 391

    def prints() -> tuple[str, str]:
        captions = np.array(caption)
        if ending == "npz":
            np.savez(tmp_path / "train.npz", codes=codes, caption=captions)
        else:
            np.save(tmp_path / "train.npy", codes)
            np.save(tmp_path / "train-caption.npy", captions)
        source = open_source(tmp_path / f"train.{ending}", columns=["caption"])
        return source.splits["train"].fingerprint(), source.further["train"]["caption"].fingerprint()

    caption = [f"caption {row:04}" for row in range(6000)]
    before = prints()
    assert prints() == before
    codes[-1, -1, -1] += 1
    assert prints()[0] != before[0]
    assert prints()[1] == before[1]
    caption[0] = "another one "
    assert prints()[1] != before[1]
    codes = np.flip(codes).copy()
    assert len({before[0], prints()[0]}) == 2


def test_files_beside_the_codes_are_no_codes_and_those_of_all_splits_are_used(tmp_path: Path) -> None:
    for split in ("train", "val"):
        npy(tmp_path / f"{split}.npy", CODES)
        npy(tmp_path / f"{split}-masks.npy", CODES)
        npy(tmp_path / f"{split}_caption.npy", np.array([f"row {row}" for row in range(9)]))
    npy(tmp_path / "class_names.npy", np.array(["cat", "dog"]))
    npy(tmp_path / "codebook.npy", np.ones((200, 3), np.float32))
    source = open_source(tmp_path, columns=["caption"])
    assert set(source.splits) == {"train", "val"}
    assert source.notes == (
        "files not used: 2 (train-masks.npy, val-masks.npy); columns='NAME' stores one as a further column",
    )
    assert source.class_names == ("cat", "dog")
    assert isinstance(source, CodeSource)
    assert source.codebook is not None
    assert source.codebook.shape == (200, 3)
    npy(tmp_path / "class_names.npy", np.arange(2))
    with pytest.raises(SourceError, match="expected a row of names, found int64"):
        open_source(tmp_path)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_stay_where_they_were_opened(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write = np.save if ending == "npy" else np.savez
    write(tmp_path / f"x.{ending}", codes)
    monkeypatch.chdir(tmp_path)
    (split,) = open_arrays(Path(f"x.{ending}")).splits.values()
    monkeypatch.chdir("/")
    assert np.array_equal(split.codes(0, 3), codes)
