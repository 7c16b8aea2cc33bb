"""The context codec in Zarr arrays."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers.context_models import changed, coded_payload, random_model, tiny_model
from zarr.storage import MemoryStore

from tokenstore.codecs.context import Context, ContextModel
from tokenstore.codecs.zarr import ContextCodec
from tokenstore.errors import CodecError

SHARDED = {"shards": (8, 4, 4), "compressors": [{"name": "crc32c"}]}
BARE: dict[str, Any] = {"compressors": None}


def fitting_model() -> ContextModel:
    """Constant codes are all that it takes for granted: their streams are shorter than packing."""
    biases = np.zeros(40, np.int16)
    model = random_model((33,), components=0)
    biases = np.where(np.arange(len(model.planes[0].biases)) % 6 == 0, 2000, 0).astype(np.int16)
    return changed(model, biases=biases, weights=np.zeros_like(model.planes[0].weights))


def serializer(model: ContextModel | None, codebook_size: int = 33) -> dict[str, Any]:
    text = None if model is None else base64.b64encode(model.to_bytes()).decode("ascii")
    return {"name": "tokenstore.context", "configuration": {"codebook_size": codebook_size, "model": text}}


def create(store: Any, model: ContextModel | None, samples: int = 7, **keywords: Any) -> Any:
    keywords = {"dtype": "uint8", "fill_value": 255, **BARE, **keywords}
    return zarr.create_array(
        store, shape=(samples, 4, 4), chunks=(4, 4, 4), serializer=serializer(model), **keywords
    )


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
@pytest.mark.parametrize("kind", ["packed", "coded", "without"])
def test_codes_come_back_from_disk_by_any_selection(
    tmp_path: Path, layout: dict[str, Any], kind: str
) -> None:
    model = {"packed": random_model((33,)), "coded": fitting_model(), "without": None}[kind]
    codes = np.random.default_rng(0).integers(0, 33, (7, 4, 4)).astype(np.uint8)
    if kind == "coded":
        assert model is not None
        codes[...] = model.planes[0].order[0]
        codes[3, 1, 2] = 5
    create(tmp_path / "tokens", model, **layout)[...] = codes
    array = zarr.open_array(tmp_path / "tokens", mode="r")
    np.testing.assert_array_equal(array[...], codes)
    np.testing.assert_array_equal(array[5], codes[5])
    np.testing.assert_array_equal(array[2:6, 1], codes[2:6, 1])
    np.testing.assert_array_equal(array.oindex[[0, 3, 6]], codes[[0, 3, 6]])
    if layout is BARE:
        assert (tmp_path / "tokens/c/0/0/0").read_bytes()[0] == (kind == "coded")
        assert len((tmp_path / "tokens/c/1/0/0").read_bytes()) < 4 * 12 + 1  # three samples, not four


def test_a_process_that_never_imports_tokenstore_reads_the_codes(tmp_path: Path) -> None:
    model = fitting_model()
    create(tmp_path / "tokens", model)[...] = model.planes[0].order[0]
    script = "import sys, zarr; print(set(zarr.open(sys.argv[1], mode='r')[...].ravel().tolist()))"
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "tokens")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{{{model.planes[0].order[0]}}}\n"


def test_samples_missing_at_the_end_of_a_chunk_are_fill_value() -> None:
    array = create(MemoryStore(), fitting_model())
    array[:2] = 3
    np.testing.assert_array_equal(array[:2], 3)
    np.testing.assert_array_equal(array[2:], 255)


def test_codes_out_of_range_are_refused_by_zarr() -> None:
    codes = np.zeros((7, 4, 4), np.uint8)
    codes[5, 1, 0] = 33
    with pytest.raises(CodecError, match=r"sample 1, position 4: .* codebook size 33, found 33"):
        create(MemoryStore(), fitting_model())[...] = codes


@pytest.mark.parametrize("kind", ["coded", "packed"])
def test_a_chunk_with_more_samples_than_it_has_room_for_is_refused(tmp_path: Path, kind: str) -> None:
    model = fitting_model()
    array = create(tmp_path / "tokens", model)
    array[...] = 0
    codec = Context(33, model)
    codes = np.full((5, 4, 4), model.planes[0].order[0], np.uint8)
    payload = coded_payload(codec, codes) if kind == "coded" else Context(33, None).encode(codes, 5, 255)
    (tmp_path / "tokens/c/0/0/0").write_bytes(payload)
    with pytest.raises(CodecError, match="expected at most 4 samples, found 5"):
        array[:4]


@pytest.mark.parametrize("wrong", [{"fill_value": 0}, {"dtype": "uint16"}])
def test_an_array_of_another_dtype_or_fill_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match=r"33 codes need an array .* of uint8 with fill value 255, found"):
        create(MemoryStore(), fitting_model(), **wrong)


def test_zarr_metadata_round_trips() -> None:
    written = serializer(tiny_model(), 3)
    assert ContextCodec.from_dict(written).to_dict() == written
    assert ContextCodec.from_dict(written) == ContextCodec.from_dict(written)
    assert Context(3, tiny_model()).zarr == [written]
    assert Context(3, None).zarr == [serializer(None, 3)]
    assert Context(3, tiny_model()).table_nbytes == len(written["configuration"]["model"])
    assert Context(3, None).table_nbytes == 0


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (None, "a configuration of codebook_size and model, found None"),
        ({"codebook_size": 3}, "a configuration of codebook_size and model, found"),
        ({"codebook_size": 3, "model": None, "bits": 2}, "a configuration of codebook_size and model, found"),
        ({"codebook_size": "3", "model": None}, "an integer codebook_size and a base64 model, found '3'"),
        ({"codebook_size": True, "model": None}, "an integer codebook_size and a base64 model, found True"),
        ({"codebook_size": 3, "model": 7}, "an integer codebook_size and a base64 model, found 3 and 7"),
        ({"codebook_size": 0, "model": None}, "codebook size in 1..2147483648, found 0"),
        ({"codebook_size": 3, "model": "a-b"}, "a model in base64"),
        ({"codebook_size": 3, "model": "é"}, "a model in base64"),
        ({"codebook_size": 3, "model": "AQID"}, "a context model of version 1"),
        ({"codebook_size": 3, "model": ""}, "a context model of version 1"),
        ({**serializer(tiny_model(), 4)["configuration"]}, "a context model of 4 codes, found one of 3"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(configuration: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ContextCodec.from_dict({"name": "tokenstore.context", "configuration": configuration})


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
def test_a_chunk_of_fill_value_alone_holds_no_samples(layout: dict[str, Any]) -> None:
    store = MemoryStore()
    create(store, fitting_model(), config={"write_empty_chunks": True}, **layout)[...] = 255
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], 255)
