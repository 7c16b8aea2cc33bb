"""A codec from outside the package: one class and one call of `register_codec`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from helpers.stores import random_codes, write_store
from typing_extensions import override

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import ChunkCodec, codec_names, register_codec, registry
from tokenstore.codecs.context.model import ContextModel
from tokenstore.errors import CodecError, VersionError
from tokenstore.writing.choices import choices
from tokenstore.writing.recode import recode


class Deflate(ChunkCodec):
    """A codec of whole chunks through zlib."""

    name = "deflate"
    zarr_name = "example.deflate"

    @classmethod
    @override
    def for_codes(cls, codebook_size: int, model: ContextModel | None = None) -> Self:
        return cls()

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        return cls() if codecs == cls().zarr else None

    @property
    @override
    def zarr(self) -> list[dict[str, Any]]:
        return [{"name": self.zarr_name, "configuration": {}}]

    @override
    def encode(self, samples: npt.NDArray[Any], chunk_samples: int, fill_value: int) -> bytes:
        return zlib.compress(samples.astype("<u8").tobytes())

    @override
    def decode(self, payload: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
        try:
            values = np.frombuffer(zlib.decompress(payload), "<u8")
        except zlib.error as error:
            raise CodecError(f"deflate: {error}") from error
        if values.size != out.size:
            raise CodecError(f"deflate: expected {out.size} values, found {values.size}")
        out[...] = values.reshape(out.shape)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the codec for one test."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_CODECS", dict(registry._CODECS))
        register_codec(Deflate)
        yield


CODES = random_codes(10, (3, 4), 300)


@pytest.mark.usefixtures("registered")
def test_a_store_is_written_and_read_with_it(tmp_path: Path) -> None:
    path = tmp_path / "store"
    manifest = write_store(path, {"train": (CODES,)}, 300, codec="deflate", chunk_samples=2, shard_samples=4)
    assert manifest.features == ("deflate",)
    assert "deflate" in codec_names()
    split = tokenstore.open(path)["train"]
    np.testing.assert_array_equal(split.read("tokens", [9, 0, 5]), CODES[[9, 0, 5]])
    np.testing.assert_array_equal(split.in_memory(["tokens"]).read("tokens", np.arange(10)), CODES)
    assert not verify(path).problems


@pytest.mark.usefixtures("registered")
def test_a_store_is_recoded_to_it_and_back(tmp_path: Path) -> None:
    assert "deflate" in choices()
    write_store(tmp_path / "packed", {"train": (CODES,)}, 300)
    recode(tmp_path / "packed", tmp_path / "deflated", codec="deflate")
    recode(tmp_path / "deflated", tmp_path / "again", codec="bitpack")
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "again")["train"][:], CODES)
    sizes = [tokenstore.open(tmp_path / name).manifest.files for name in ("packed", "again")]
    shard = "train/tokens/c/0/0/0"
    assert sizes[0][shard] == sizes[1][shard]


def test_without_it_the_store_names_the_feature(tmp_path: Path, registered: None) -> None:
    write_store(tmp_path / "store", {"train": (CODES,)}, 300, codec="deflate")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(registry._CODECS, "deflate")
        with pytest.raises(VersionError, match="it uses feature 'deflate'"):
            tokenstore.open(tmp_path / "store")


class _OtherOfThatName(Deflate):
    zarr_name = "example.other"


@pytest.mark.usefixtures("registered")
def test_a_second_codec_of_the_name_is_refused() -> None:
    register_codec(Deflate)  # the same class again is no second codec
    with pytest.raises(ValueError, match="a codec of another name than 'deflate'"):
        register_codec(_OtherOfThatName)
