"""Recoding by many threads: the bytes of one thread, and of a plain writer, also after a crash."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import Samples, contents, write_store

import tokenstore
from tokenstore.codecs.context import Context
from tokenstore.errors import ArgumentError, CodecError, DamageError
from tokenstore.format import TokenizerIdentity
from tokenstore.machine import in_order
from tokenstore.storage import open_storage
from tokenstore.writing import StoreSpec, StoreWriter, encoded, rewrite
from tokenstore.writing.blocks import Threads
from tokenstore.writing.checks import check_codes
from tokenstore.writing.rewrite import rewrite_into, same_codes
from tokenstore.writing.split import SplitWriter

pytestmark = pytest.mark.usefixtures("quick_fits")

SAMPLES = 300
encode = Context.encode


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard have several pieces."""
    monkeypatch.setattr(encoded, "_PIECE_NBYTES", 300)


@pytest.fixture(scope="module")
def content() -> dict[str, Samples]:
    """Draw the samples of two splits, with small and large columns."""
    rng = np.random.default_rng(0)
    codes = (rng.integers(0, 30, (SAMPLES, 3, 3)) ** 2 % 600).astype(np.uint16)
    labels = rng.integers(0, 3, SAMPLES).astype(np.int32)
    masks = rng.integers(0, 9, (SAMPLES, 5, 7)).astype(np.uint8)
    return {
        "train": Samples(codes, labels, {"masks": masks}),
        "val": Samples(codes[:40], labels[:40], {"masks": masks[:40]}),
        "empty": Samples(codes[:0], labels[:0], {"masks": masks[:0]}),
    }


@pytest.fixture(scope="module")
def store(content: dict[str, Samples], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the samples in shards of another size than those they are recoded to."""
    path = tmp_path_factory.mktemp("store") / "store"
    write_store(path, content, 600, chunk_samples=16, shard_samples=96)
    return path


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_any_number_of_jobs_writes_what_a_plain_writer_writes(
    store: Path, content: dict[str, Samples], tmp_path: Path, codec: str
) -> None:
    write_store(tmp_path / "plain", content, 600, chunk_samples=16, shard_samples=64, codec=codec)
    for jobs in (1, 2, 7):
        tokenstore.recode(store, tmp_path / f"{jobs}", codec=codec, shard_samples=64, jobs=jobs)
        assert contents(tmp_path / f"{jobs}") == contents(tmp_path / "plain")


@pytest.mark.thorough
def test_jobs_share_a_fitted_model(store: Path, tmp_path: Path) -> None:
    for jobs in (1, 3):
        tokenstore.recode(store, tmp_path / f"{jobs}", codec="context", shard_samples=64, jobs=jobs)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_coded_chunk_is_decoded_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = StoreSpec(TokenizerIdentity("test"), (3, 3), (600,), codec="context").tokens_layout(64, 64)
    rows = np.arange(64 * 9, dtype=np.uint16).reshape(64, 3, 3)
    assert len(encoded.encode_piece(layout, rows, "here")) == 1
    monkeypatch.setattr(
        type(layout.codec), "encode", lambda self, samples, *rest: encode(self, samples[::-1], *rest)
    )
    with pytest.raises(CodecError, match="here: what was encoded does not decode to the same codes"):
        encoded.encode_piece(layout, rows, "here")


def test_a_recoding_that_was_cut_short_goes_on_with_other_jobs(store: Path, tmp_path: Path) -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done >= 128:
            raise KeyboardInterrupt

    settings = {"codec": "zstd", "shard_samples": 64}
    tokenstore.recode(store, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        tokenstore.recode(store, tmp_path / "out", **settings, jobs=3, on_progress=stop)
    steps: list[int] = []
    tokenstore.recode(
        store,
        tmp_path / "out",
        **settings,
        jobs=2,
        resume=True,
        on_progress=lambda _, done, __: steps.append(done),
    )
    assert steps[0] == 192
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_written_shard_is_forgotten_before_the_next_one_fills(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[weakref.ref[encoded.EncodedShard]] = []
    write, encode_piece = SplitWriter.write_encoded, encoded.encode_piece

    def noted(self: SplitWriter, shard: encoded.EncodedShard, *rest: Any) -> None:
        write(self, shard, *rest)
        written.append(weakref.ref(shard))

    def checked(*arguments: Any) -> list[bytes]:
        assert all(shard() is None for shard in written)
        return encode_piece(*arguments)

    monkeypatch.setattr(SplitWriter, "write_encoded", noted)
    monkeypatch.setattr(rewrite, "encode_piece", checked)
    tokenstore.recode(store, tmp_path / "out", codec="bitpack", shard_samples=64, jobs=1)
    assert len(written) == 5 + 1


def test_the_first_damage_in_the_order_of_samples_is_named(store: Path, tmp_path: Path) -> None:
    tokenstore.copy(store, tmp_path / "damaged")
    for shard in (1, 2):
        path = tmp_path / f"damaged/train/tokens/c/{shard}/0/0"
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    for jobs in (1, 5):
        with pytest.raises(DamageError, match=r"shard 1 chunk 0 \(samples 96 to 111\)"):
            tokenstore.recode(tmp_path / "damaged", tmp_path / f"out{jobs}", codec="zstd", jobs=jobs)


def test_codes_outside_their_codebook_are_named_by_their_place_in_the_shard(
    store: Path, tmp_path: Path
) -> None:
    opened = tokenstore.open(store)
    plan = same_codes(opened)
    wrong = type(plan)(plan.spec, lambda codes: np.where(codes == 576, 600, codes).astype(np.uint16))
    codes = wrong.renumber(opened["train"][:])
    with pytest.raises(CodecError) as plain:
        check_codes(codes[:192], (600,), (3, 3), "train shard 0")
    with (
        StoreWriter(open_storage(tmp_path / "out"), wrong.spec) as writer,
        pytest.raises(CodecError) as raised,
    ):
        rewrite_into(writer, opened, wrong, codec="zstd", shard_samples=192, executor=Threads(2))
    assert str(raised.value) == str(plain.value)


def test_jobs_below_one_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="jobs: expected 1 or more, found 0"):
        tokenstore.recode(store, tmp_path / "out", codec="zstd", jobs=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_are_in_order_and_few_items_are_taken_ahead(jobs: int) -> None:
    taken: list[int] = []

    def items() -> object:
        for item in range(40):
            taken.append(item)
            yield item

    for result, number in zip(in_order(lambda item: 2 * item, items(), jobs), range(40), strict=True):  # type: ignore[arg-type]
        assert result == 2 * number
        assert len(taken) <= number + 2 * jobs
