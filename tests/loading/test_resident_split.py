"""A split's tokens in a device's memory: the same samples, in no more bytes than its shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.resident_models import Case, Codes, decoded_here, model_of
from helpers.stores import random_codes, replace_files, write_store

from tokenstore.codecs import bitpack
from tokenstore.codecs.bitpack import Bitpack
from tokenstore.errors import DamageError, StoreError
from tokenstore.format.layout import ArrayLayout
from tokenstore.loading.resident import ResidentTokens
from tokenstore.reading import SplitReader, open_store


def open_split(folder: Path, case: Case, codes: Codes, **spec: Any) -> SplitReader:
    store = folder / "tokens.zarr"
    write_store(store, {"train": (codes,)}, case.sizes, chunk_samples=4, shard_samples=12, **spec)
    return open_store(store)["train"]


@pytest.mark.parametrize("codec", ["bitpack", "context"])
@pytest.mark.parametrize("case", [Case((391,), (4, 5)), Case((5, 391, 1, 33), (4, 2, 3))], ids=str)
def test_a_split_reads_the_same_from_a_device(case: Case, codec: str, tmp_path: Path) -> None:
    codes = random_codes(30, case.grid, case.sizes)
    spec = {"model": model_of(case)} if codec == "context" else {}
    reader = open_split(tmp_path, case, codes, codec=codec, **spec)
    resident = ResidentTokens(reader.arrays["tokens"], "cpu")
    assert len(resident) == 30
    wanted = [7, -1, 0, 29, 7, 13]
    for indices in (wanted, np.array(wanted), torch.tensor(wanted), slice(None)):
        indices = np.arange(30) if isinstance(indices, slice) else indices
        read = resident.read(indices)
        assert read.dtype == torch.int64
        np.testing.assert_array_equal(read, codes[np.asarray(indices)])
    assert resident.read([]).shape == (0, *case.grid)
    with pytest.raises(IndexError, match="index 30 is out of range for 30 samples"):
        resident.read([30])


def test_context_chunks_that_are_packed_read_beside_those_that_are_not(tmp_path: Path) -> None:
    """Chunks whose codes the model codes well, and one of codes that it does not."""
    case = Case((391,), (4, 5), contexts=2)
    model = model_of(case)
    rng = np.random.default_rng(0)
    likely = [decoded_here(case, rng.bytes(9)) for _ in range(20)]
    codes = np.stack([row for row in likely if row is not None][:12])
    codes = np.concatenate([codes[:8], rng.integers(0, 391, (4, 20)), codes[8:]]).reshape(-1, 4, 5)
    reader = open_split(tmp_path, case, codes, codec="context", model=model)
    tokens = reader.arrays["tokens"]
    assert {tokens.samples.spans(chunk).packed for chunk in range(4)} == {True, False}
    order = rng.permutation(16)
    np.testing.assert_array_equal(ResidentTokens(tokens, "cpu").read(order), codes[order])


def test_tokens_take_no_more_than_their_shards(tmp_path: Path) -> None:
    codes = random_codes(30, (4, 5), 391)
    reader = open_split(tmp_path, Case((391,), (4, 5)), codes)
    shards = sum(file.stat().st_size for file in (tmp_path / "tokens.zarr/train/tokens/c").rglob("0"))
    assert (
        30 * bitpack.sample_nbytes(20, 391) <= ResidentTokens(reader.arrays["tokens"], "cpu").nbytes <= shards
    )


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_a_damaged_chunk_is_found_on_loading(codec: str, tmp_path: Path) -> None:
    case = Case((391,), (4, 5))
    spec = {"model": model_of(case)} if codec == "context" else {}
    reader = open_split(tmp_path, case, random_codes(30, case.grid, case.sizes), codec=codec, **spec)
    shard = tmp_path / "tokens.zarr/train/tokens/c/1/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[9] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DamageError, match=r"train/tokens shard 1 chunk 0 \(samples 12 to 15\)"):
        ResidentTokens(reader.arrays["tokens"], "cpu")


def test_a_code_that_no_encoder_packs_is_damage(tmp_path: Path) -> None:
    """Write a chunk of whole samples with a true checksum and one code that is not below 391."""
    case = Case((391,), (4, 5))
    open_split(tmp_path, case, random_codes(30, case.grid, case.sizes))
    store = tmp_path / "tokens.zarr"
    layout = open_store(store)["train"].arrays["tokens"].layout
    codes = random_codes(12, case.grid, case.sizes)
    codes[5, 0, 1] = 391
    wide = ArrayLayout(layout.shape, layout.dtype, layout.chunk_samples, layout.shard_samples, Bitpack(512))
    replace_files(store, {"train/tokens/c/0/0/0": wide.encode_shard(codes)})
    resident = ResidentTokens(open_store(store)["train"].arrays["tokens"], "cpu")
    resident.read([4])
    with pytest.raises(DamageError, match=r"train/tokens: sample 1, position 1: .* found 391"):
        resident.read([4, 5])


def test_tokens_of_another_codec_are_refused(tmp_path: Path) -> None:
    case = Case((391,), (4, 5))
    reader = open_split(tmp_path, case, random_codes(30, case.grid, case.sizes), codec="zstd")
    with pytest.raises(StoreError, match="expected tokens of the codec bitpack or context, found zstd"):
        ResidentTokens(reader.arrays["tokens"], "cpu")
