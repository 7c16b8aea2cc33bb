"""The SeiT release layout: decoded as a plain loop decodes it, damage named by file and sample."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import SourceError
from tokenstore.sources import CodeSource, imagenet_classes, open_source, seit
from tokenstore.sources.seit import open_seit

RELEASE_SAMPLE = SHARED / "data/seit-sample"
CODES = 1024


def escaped(codes: npt.ArrayLike) -> bytes:
    """Return the release's bytes of a sample, one code at a time."""
    stored = bytearray()
    for code in np.ravel(codes).tolist():
        stored += bytes([code]) if code < 255 else bytes([255, code - 255])
    return bytes(stored)


def unescaped(stored: bytes) -> list[int]:
    """Return the codes of some bytes, one byte at a time."""
    codes, position = [], 0
    while position < len(stored):
        if stored[position] == 255:
            position += 1
            codes.append(255 + stored[position])
        else:
            codes.append(stored[position])
        position += 1
    return codes


def gz_npy(array: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return gzip.compress(file.getvalue())


def write_release(folder: Path, samples: list[bytes], split: str = "train", name: str = "tiny") -> Path:
    """Write a release of one split whose labels count up."""
    folder.mkdir(exist_ok=True)
    prefix = folder / f"{name}-{split}"
    Path(f"{prefix}-token.data.bin.gz").write_bytes(gzip.compress(b"".join(samples)))
    offsets = np.cumsum([0, *map(len, samples)])
    Path(f"{prefix}-token.index.npy.gz").write_bytes(gz_npy(offsets))
    Path(f"{prefix}-label.txt").write_text("".join(f"{label}\n" for label in range(len(samples))))
    return folder


def random_codes(count: int, largest: int = 509, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, largest + 1, (count, 32, 32))


def release(folder: Path, codes: npt.NDArray[np.int64], **names: str) -> CodeSource:
    return open_seit(write_release(folder, [escaped(sample) for sample in codes], **names))


@pytest.mark.thorough
@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 254, 255, 256, 508, 509]), min_size=CODES, max_size=CODES),
    st.integers(0, 2**32),
)
def test_codes_at_the_borders_of_the_scheme_come_back(codes: list[int], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(codes)
    samples = [escaped(codes), escaped(shuffled)]
    offsets = np.cumsum([0, *map(len, samples)])
    split = seit.SeitSplit("x", None, offsets, np.zeros(2, np.int32), 510)
    assert split._unescape(b"".join(samples), offsets, 0).tolist() == [codes, shuffled.tolist()]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 5))
def test_any_bytes_decode_as_the_plain_loop_or_are_refused(noise: bytes, escapes: int) -> None:
    stored = (noise + b"\xff\x01" * escapes + bytes(CODES))[: CODES + escapes]
    split = seit.SeitSplit("x", None, np.array([0, len(stored)]), np.zeros(1, np.int32), None)
    expected = unescaped(stored)
    if len(expected) == CODES and max(expected) <= 509:
        assert split._unescape(stored, split.offsets, 0).tolist() == [expected]
    else:
        with pytest.raises(SourceError, match="sample 0"):
            split._unescape(stored, split.offsets, 0)


def test_any_range_reads_like_the_whole_forwards_and_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seit, "_SAMPLES_A_READ", 3)
    codes = random_codes(10)
    split = release(tmp_path, codes).splits["train"]
    assert split.codes(0, 10).dtype == np.uint16
    for start, stop in [(0, 10), (0, 1), (1, 5), (5, 10), (9, 10), (3, 4), (2, 2), (0, 3)]:
        assert np.array_equal(split.codes(start, stop), codes[start:stop])
    assert np.array_equal(pickle.loads(pickle.dumps(split)).codes(4, 6), codes[4:6])
    with pytest.raises(IndexError):
        split.codes(5, 11)


def test_reading_forwards_opens_the_stream_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewinds = []
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: rewinds.append(self), raising=True)
    codes = random_codes(9)
    split = release(tmp_path, codes).splits["train"]
    for start in range(0, 9, 3):
        assert np.array_equal(split.codes(start, start + 3), codes[start : start + 3])
    assert rewinds == []


def test_a_release_has_splits_labels_grid_and_names(tmp_path: Path) -> None:
    write_release(tmp_path, [escaped(sample) for sample in random_codes(3)], "val")
    source = release(tmp_path, random_codes(4))
    assert list(source.splits) == ["train", "val"]
    assert (source.kind, source.grid, source.codebook_sizes, source.codebook_path) == (
        "seit",
        (32, 32),
        None,
        None,
    )
    train = source.splits["train"]
    assert (len(train), train.labels(1, 4).tolist(), train.labels(0, 0).dtype) == (4, [1, 2, 3], np.int32)
    assert train.names(2, 4).to_pylist() == ["tiny-train[2]", "tiny-train[3]"]
    assert dict(train.columns) == {}
    assert train.fingerprint() != source.splits["val"].fingerprint()


def test_synonyms_become_a_table_and_tell_the_codebook_size(tmp_path: Path) -> None:
    (tmp_path / "synonyms.json").write_text(json.dumps({"1": [0], "0": [2, 1], "2": []}))
    (tmp_path / "codebook.ckpt").write_bytes(b"weights")
    source = release(tmp_path, random_codes(2, largest=2))
    assert source.synonyms.tolist() == [[2, 1], [0, -1], [-1, -1]]
    assert source.synonyms.dtype == np.int32
    assert source.codebook_sizes == (3,)
    assert source.codebook_path == tmp_path / "codebook.ckpt"
    source.splits["train"].codes(0, 2)


def test_a_code_outside_the_codebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "synonyms.json").write_text(json.dumps({"0": [1], "1": [0]}))
    codes = np.zeros((3, 32, 32), int)
    codes[1, 31, 31] = 2
    split = release(tmp_path, codes).splits["train"]
    assert split.codes(0, 1).max() == 0
    with pytest.raises(
        SourceError, match=r"tiny-train-token.data.bin.gz: sample 1 has a code outside the codebook of 2"
    ):
        split.codes(0, 3)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        "{}",
        '{"0": 1}',
        '{"1": [0]}',
        '{"a": [0]}',
        '{"0": [1]}',
        '{"0": ["b"]}',
        '{"0": [99999999999]}',
    ],
)
def test_synonyms_without_sense_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "synonyms.json").write_text(text)
    with pytest.raises(SourceError, match=r"synonyms.json"):
        release(tmp_path, random_codes(2))


PLAIN = bytes(CODES)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (bytes(CODES - 1) + b"\xff", "ends within an escaped code"),
        (b"\xff\xff" + bytes(CODES - 1), "has an escape after an escape"),
        (bytes(CODES + 1), "does not hold exactly 1024 codes"),
        (b"\xff\x00" + bytes(CODES - 2), "does not hold exactly 1024 codes"),
        (b"\xff\x00" + bytes(CODES), "does not hold exactly 1024 codes"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_sample_is_named(tmp_path: Path, sample: bytes, message: str, place: int) -> None:
    samples = [PLAIN, PLAIN, PLAIN]
    samples[place] = sample
    split = open_seit(write_release(tmp_path, samples)).splits["train"]
    with pytest.raises(SourceError, match=f"sample {place} {message}"):
        split.codes(0, 3)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 1024, 1000, 3072], "sample 1 takes -24 bytes"),
        ([0, 1024, 2047, 3072], "sample 1 takes 1023 bytes"),
        ([1, 1025, 2049, 3073], "expected a row of offsets from 0"),
        ([0.0, 1024.0, 2048.0, 3072.0], "expected a row of offsets"),
        ([[0, 1024]], "expected a row of offsets"),
        ([0], "expected a row of offsets"),
        ([0, 1024, 2048], "3 labels of tiny-train, but its index is of 2"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, offsets: list[int], message: str) -> None:
    write_release(tmp_path, [PLAIN] * 3)
    (tmp_path / "tiny-train-token.index.npy.gz").write_bytes(gz_npy(offsets))
    with pytest.raises(SourceError, match=message):
        open_seit(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no npy"), gz_npy([0, 1024])[:-20]],
    ids=["empty", "no gzip", "no npy", "cut off"],
)
def test_an_index_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    write_release(tmp_path, [PLAIN])
    (tmp_path / "tiny-train-token.index.npy.gz").write_bytes(content)
    with pytest.raises(SourceError, match=r"tiny-train-token.index.npy.gz: the index cannot be read"):
        open_seit(tmp_path)


def test_an_index_of_python_objects_is_not_unpickled(tmp_path: Path) -> None:
    write_release(tmp_path, [PLAIN])
    (tmp_path / "tiny-train-token.index.npy.gz").write_bytes(gz_npy(np.array([0, None], object)))
    with pytest.raises(SourceError, match="the index cannot be read"):
        open_seit(tmp_path)


def test_a_truncated_stream_is_named(tmp_path: Path) -> None:
    write_release(tmp_path, [escaped(sample) for sample in random_codes(50)])
    data = tmp_path / "tiny-train-token.data.bin.gz"
    data.write_bytes(data.read_bytes()[:-1000])
    split = open_seit(tmp_path).splits["train"]
    split.codes(0, 10)
    with pytest.raises(SourceError, match=r"tiny-train-token.data.bin.gz: (damaged or )?truncated"):
        split.codes(10, 50)


def test_a_stream_without_its_checksum_is_named_at_its_end(tmp_path: Path) -> None:
    write_release(tmp_path, [PLAIN] * 2)
    data = tmp_path / "tiny-train-token.data.bin.gz"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(SourceError, match="damaged or truncated"):
        open_seit(tmp_path).splits["train"].codes(0, 2)


def test_a_flipped_bit_in_the_stream_is_noticed(tmp_path: Path) -> None:
    write_release(tmp_path, [escaped(sample) for sample in random_codes(5, largest=200)])
    path = tmp_path / "tiny-train-token.data.bin.gz"
    whole = path.read_bytes()
    for place in range(20, len(whole), 251):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(SourceError):
            open_seit(tmp_path).splits["train"].codes(0, 5)


def test_a_stream_that_is_shorter_or_longer_than_its_index_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path, [PLAIN] * 3)
    for length, message in (
        (2 * CODES, "truncated: 3072 bytes expected at 0, found 2048"),
        (4 * CODES, "found more"),
    ):
        (tmp_path / "tiny-train-token.data.bin.gz").write_bytes(gzip.compress(bytes(length)))
        with pytest.raises(SourceError, match=message):
            open_seit(tmp_path).splits["train"].codes(0, 3)


@pytest.mark.parametrize("line", ["a", "-1", "1.5", "99999999999"])
def test_labels_that_are_no_integers_are_refused(tmp_path: Path, line: str) -> None:
    write_release(tmp_path, [PLAIN] * 2)
    (tmp_path / "tiny-train-label.txt").write_text(f"0\n{line}\n")
    with pytest.raises(SourceError, match=r"tiny-train-label.txt: expected"):
        open_seit(tmp_path)


@pytest.mark.parametrize("name", ["tiny-train-label.txt", "tiny-train-token.index.npy.gz"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_release(tmp_path, [PLAIN])
    (tmp_path / name).unlink()
    with pytest.raises(SourceError, match=name):
        open_seit(tmp_path)


def test_files_of_two_data_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_release(tmp_path, [PLAIN], name="one")
    write_release(tmp_path, [PLAIN], name="two")
    with pytest.raises(SourceError, match="files of two data sets, 'one' and 'two'"):
        open_seit(tmp_path)


@pytest.mark.skipif(not RELEASE_SAMPLE.exists(), reason="the sample of the release layout is not there")
def test_a_real_release_decodes_as_the_plain_loop_decodes_it() -> None:
    source = open_source(RELEASE_SAMPLE)
    assert source.kind == "seit"
    assert source.codebook_sizes == (391,)
    assert source.synonyms.shape == (391, 10)
    for name, samples in (("train", 1600), ("val", 400)):
        split = source.splits[name]
        assert len(split) == samples
        data = gzip.decompress((RELEASE_SAMPLE / f"imagenet1k-{name}-token.data.bin.gz").read_bytes())
        assert split.codes(0, samples).ravel().tolist() == unescaped(data)


def test_the_classes_of_imagenet_have_their_wordnet_ids_and_others_none(tmp_path: Path) -> None:
    codes = random_codes(2)
    source = release(tmp_path / "imagenet", codes, name="imagenet1k", split="val")
    assert source.class_names == imagenet_classes()
    assert (len(source.class_names), source.class_names[0], source.class_names[999]) == (
        *(1000, "n01440764", "n15075141"),
    )
    assert release(tmp_path / "other", codes, name="imagenet100").class_names is None
    beyond = write_release(tmp_path / "beyond", [escaped(sample) for sample in codes], name="imagenet1k")
    (beyond / "imagenet1k-train-label.txt").write_text("3\n1000\n")
    assert open_seit(beyond).class_names is None


def test_synonyms_are_read_by_either_of_their_names(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release", [escaped(np.zeros(CODES, int))])
    (folder / "codebook-synonyms.json").write_text(json.dumps({"0": [1], "1": [0]}))
    assert open_seit(folder).synonyms.tolist() == [[1], [0]]  # type: ignore[union-attr]
    (folder / "synonyms.json").write_text(json.dumps({"0": [2], "1": [0], "2": [1]}))
    assert open_seit(folder).synonyms.tolist() == [[2], [0], [1]]  # type: ignore[union-attr]
