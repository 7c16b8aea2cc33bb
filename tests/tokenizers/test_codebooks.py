"""Codebook files of every kind, and those that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from safetensors.torch import save_file

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import load_codebook

RELEASED_CODEBOOK = SHARED / "data" / "seit-sample" / "codebook.ckpt"

VECTORS = torch.arange(12, dtype=torch.float32).view(4, 3)


def test_codebooks_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    torch.save(VECTORS, tmp_path / "a.ckpt")
    torch.save({"embed": VECTORS.double(), "step": torch.tensor(3), "note": "x"}, tmp_path / "b.pt")
    torch.save(torch.nn.Parameter(VECTORS.T.contiguous().T), tmp_path / "c.pth")
    np.save(tmp_path / "d.npy", VECTORS.numpy())
    np.save(tmp_path / "e.npy", VECTORS.numpy().astype(">f8"))
    save_file({"codebook": VECTORS.half()}, tmp_path / "f.safetensors")
    for path in sorted(tmp_path.iterdir()):
        codebook = load_codebook(path)
        assert codebook.dtype == np.float32
        np.testing.assert_array_equal(codebook, VECTORS.numpy())


@pytest.mark.skipif(not RELEASED_CODEBOOK.exists(), reason="the SeiT release sample is not on this machine")
def test_the_released_codebook_is_read() -> None:
    codebook = load_codebook(RELEASED_CODEBOOK)
    assert codebook.shape == (391, 32)
    assert codebook.dtype == np.float32


class Hostile:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".npy"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "ran"
    path = tmp_path / f"hostile{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([Hostile(target)], dtype=object), allow_pickle=True)
    else:
        torch.save({"codebook": VECTORS, "extra": Hostile(target)}, path)
    with pytest.raises(TokenizerError, match="nothing else"):
        load_codebook(path)
    path.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(TokenizerError, match="nothing else"):
        load_codebook(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".npy", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00", bytes(999)])
def test_damaged_codebook_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"codebook{suffix}"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"codebook\."):
        load_codebook(path)


def test_cut_off_codebook_files_are_refused(tmp_path: Path) -> None:
    torch.save(VECTORS, tmp_path / "a.ckpt")
    np.save(tmp_path / "b.npy", VECTORS.numpy())
    save_file({"codebook": VECTORS}, tmp_path / "c.safetensors")
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TokenizerError, match="damage"):
            load_codebook(path)


@pytest.mark.parametrize(
    "content",
    [
        VECTORS[0],
        VECTORS[None],
        VECTORS.int(),
        VECTORS[:0],
        {"a": VECTORS, "b": VECTORS},
        {"state_dict": {"codebook": VECTORS}},
        {},
        "text",
        None,
    ],
    ids=["1-D", "3-D", "integers", "no vectors", "two tables", "nested", "no entries", "text", "None"],
)
def test_files_without_exactly_one_table_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "codebook.pt")
    with pytest.raises(TokenizerError, match="expected one 2-D float array"):
        load_codebook(tmp_path / "codebook.pt")


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "codebook.npy", np.array([[1.0, np.inf]]))
    with pytest.raises(TokenizerError, match="finite"):
        load_codebook(tmp_path / "codebook.npy")


def test_tables_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 1).expand(10**9, 10**6), tmp_path / "codebook.pt")
    with pytest.raises(TokenizerError, match="dense"):
        load_codebook(tmp_path / "codebook.pt")


def test_codebooks_of_an_unknown_kind_or_absent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "codebook.bin").write_bytes(b"x")
    with pytest.raises(TokenizerError, match="expected a file ending in"):
        load_codebook(tmp_path / "codebook.bin")
    with pytest.raises(TokenizerError, match="found nothing there"):
        load_codebook(tmp_path / "absent.npy")
