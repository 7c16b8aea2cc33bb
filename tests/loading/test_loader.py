"""TokenLoader: every sample once, in an order that ranks, threads and batch sizes do not change; resuming."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from helpers.waiting import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstore import TokenDataset, TokenLoader
from tokenstore.errors import DamageError, ResumeError

SAMPLES = 101
CODES = random_codes(SAMPLES, (4, 6), 391)
LABELS = np.arange(SAMPLES, dtype=np.int32)
MASKS = np.random.default_rng(0).integers(0, 9, (SAMPLES, 5)).astype(np.uint8)


@pytest.fixture(scope="module", params=["bitpack", "context", "zstd"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 101 samples whose labels are their row numbers, in shards of 16 and chunks of 4."""
    return written(tmp_path_factory.mktemp("loader") / "store", codec=request.param)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("loader") / "store")


def written(path: Path, codec: str = "bitpack") -> Path:
    splits = {"train": (CODES, LABELS, {"masks": MASKS})}
    write_store(path, splits, codec=codec, chunk_samples=4, shard_samples=16)
    return path


def positions(loader: TokenLoader) -> list[list[int]]:
    """Return the labels of every batch, which are row numbers in the store, once the codes match them."""
    found = []
    for tokens, labels in loader:
        assert tokens.dtype == labels.dtype == torch.int64
        np.testing.assert_array_equal(tokens.numpy(), CODES[labels.numpy()])
        found.append(labels.tolist())
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [position for batch in batches for position in batch]


@pytest.mark.parametrize("resident", [None, "ram"])
@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True, "block", "lanes"])
def test_every_sample_comes_once_an_epoch(store: Path, shuffle: Any, num_threads: int, resident: Any) -> None:
    loader = TokenLoader(TokenDataset(store), 8, shuffle, num_threads=num_threads, resident=resident)
    epochs = [positions(loader) for _ in range(3)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [8] * 12 + [5]
        assert sorted(flat(batches)) == list(range(SAMPLES))
    assert len(loader) == 13
    assert loader.epoch == 3
    if shuffle:
        assert len({tuple(flat(batches)) for batches in epochs}) == 3
    else:
        assert flat(epochs[2]) == list(range(SAMPLES))


def test_without_a_column_of_labels_a_batch_is_its_tokens(packed: Path) -> None:
    (batch,) = TokenLoader(TokenDataset(packed, columns=["tokens"]), SAMPLES)
    assert isinstance(batch, Tensor)
    np.testing.assert_array_equal(batch, CODES)


def test_other_columns_come_as_they_are(packed: Path) -> None:
    loader = TokenLoader(TokenDataset(packed, columns=["masks", "tokens"]), 50, True, seed=4)
    for masks, tokens in loader:
        assert masks.dtype == torch.uint8
        assert masks.shape[1:] == (5,)
        for mask, codes in zip(masks, tokens, strict=True):
            (where,) = np.flatnonzero((codes.numpy() == CODES).all(axis=(1, 2)))
            np.testing.assert_array_equal(mask, MASKS[where])


@settings(deadline=None, max_examples=60)
@given(
    world_size=st.integers(1, 16),
    batch_size=st.integers(2, 40),
    seed=st.integers(0, 2**63),
    shuffle=st.sampled_from([True, "block", False]),
    num_threads=st.integers(0, 2),
)
def test_all_ranks_together_give_the_global_order(
    packed: Path, world_size: int, batch_size: int, seed: int, shuffle: Any, num_threads: int
) -> None:
    dataset = TokenDataset(packed)
    alone = flat(positions(TokenLoader(dataset, SAMPLES, shuffle, seed)))
    ranks = [
        positions(
            TokenLoader(
                dataset, batch_size, shuffle, seed, rank=r, world_size=world_size, num_threads=num_threads
            )
        )
        for r in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1, "as many batches on every rank"
    together = [position for step in zip(*ranks, strict=True) for batch in step for position in batch]
    assert together == alone
    assert all(batch for batches in ranks for batch in batches)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_loader_goes_on_with_any_number_of_ranks(packed: Path, data: st.DataObject) -> None:
    dataset = TokenDataset(packed)
    shuffle = data.draw(st.sampled_from([True, "block"]))
    before = TokenLoader(dataset, data.draw(st.integers(1, 30)), shuffle, seed=5, rank=0, world_size=1)
    before.set_epoch(3)
    given_out: list[int] = []
    state = before.state_dict()
    stop = data.draw(st.integers(0, len(before)))
    for (_, labels), _ in zip(before, range(stop), strict=False):
        given_out += labels.tolist()
        state = before.state_dict()
    world_size = data.draw(st.integers(1, 6))
    batch_size = data.draw(st.integers(2, 30))
    ranks = []
    for rank in range(world_size):
        after = TokenLoader(dataset, batch_size, seed=99, rank=rank, world_size=world_size)
        after.load_state_dict(json.loads(json.dumps(state)))
        after.set_epoch(3)
        ranks.append(positions(after))
        assert after.epoch == 4
    rest = [position for step in zip(*ranks, strict=True) for batch in step for position in batch]
    left = SAMPLES - len(given_out)
    assert sorted(given_out + rest[:left]) == list(range(SAMPLES))
    assert left >= world_size or not left or len(rest) == world_size
    fresh = TokenLoader(dataset, 9, shuffle, seed=5)
    fresh.set_epoch(3)
    assert given_out + rest[:left] == flat(positions(fresh))


def test_resuming_at_every_batch_gives_the_rest(packed: Path) -> None:
    dataset = TokenDataset(packed)
    whole = flat(positions(TokenLoader(dataset, 10, True)))
    for stop in range(1, 12):
        loader = TokenLoader(dataset, 10, True)
        for _, _ in zip(loader, range(stop), strict=False):
            state = loader.state_dict()
        again = TokenLoader(dataset, 10, True)
        again.load_state_dict(state)
        assert flat(positions(again)) == whole[10 * stop :]
        assert flat(positions(again)) == flat(positions(with_epoch(TokenLoader(dataset, 10, True), 1)))


def with_epoch(loader: TokenLoader, epoch: int) -> TokenLoader:
    loader.set_epoch(epoch)
    return loader


def test_what_was_read_ahead_is_not_counted_as_consumed(packed: Path) -> None:
    loader = TokenLoader(TokenDataset(packed), 5, True, num_threads=3, prefetch=4)
    batches = iter(loader)
    assert loader.state_dict()["consumed"] == 0
    for taken in range(1, 4):
        next(batches)
        assert loader.state_dict()["consumed"] == 5 * taken
    batches.close()  # type: ignore[attr-defined]


def test_a_state_of_other_samples_is_refused(packed: Path, tmp_path: Path) -> None:
    dataset = TokenDataset(packed)
    state = TokenLoader(dataset, 5).state_dict()
    codes = CODES.copy()
    codes[0, 0, 0] ^= 1
    write_store(tmp_path / "other", {"train": (codes, LABELS)}, chunk_samples=4, shard_samples=16)
    for other in (TokenDataset(tmp_path / "other"), dataset.select(range(50)), dataset.select(range(51))):
        with pytest.raises(ResumeError, match="cannot go on with other samples"):
            TokenLoader(other, 5).load_state_dict(state)
    for wrong in (None, {}, {**state, "version": 2}, {**state, "more": 1}, {**state, "consumed": 1e3}):
        with pytest.raises(ResumeError, match="expected a TokenLoader's state such as"):
            TokenLoader(dataset, 5).load_state_dict(wrong)


def test_a_store_that_was_moved_is_gone_on_with(packed: Path, tmp_path: Path) -> None:
    import shutil

    loader = TokenLoader(TokenDataset(packed), 5, True)
    next(iter(loader))
    shutil.copytree(packed, tmp_path / "moved")
    moved = TokenLoader(TokenDataset(tmp_path / "moved"), 7)
    moved.load_state_dict(loader.state_dict())
    assert flat(positions(moved)) == flat(positions(TokenLoader(TokenDataset(packed), 5, True)))[5:]


def test_drop_last_and_pad_give_whole_batches_alone(packed: Path) -> None:
    dataset = TokenDataset(packed)
    for rank in range(3):
        place = {"rank": rank, "world_size": 3}
        assert [len(b) for b in positions(TokenLoader(dataset, 10, True, drop_last=True, **place))] == [
            10
        ] * 3
        assert [len(b) for b in positions(TokenLoader(dataset, 10, True, pad=True, **place))] == [10] * 4
    padded = flat(positions(TokenLoader(dataset, 10, True, pad=True)))
    assert padded[SAMPLES:] == padded[:9]


def test_tensors_that_are_held_never_change(packed: Path) -> None:
    """Buffers are used again, but not while anything made of them lives: batches, views, parts."""
    loader = TokenLoader(TokenDataset(packed), 8, True, num_threads=2)
    held: list[tuple[Tensor, Tensor]] = []
    for epoch in range(6):
        for number, (tokens, labels) in enumerate(loader):
            kinds = [tokens, tokens[1:3].reshape(-1), tokens.detach().numpy(), tokens.unbind(0)[0]]
            kept = kinds[(number + epoch) % 4]
            held.append((torch.as_tensor(kept), torch.as_tensor(kept).clone()))
            del tokens, kinds, kept, labels
    assert all(torch.equal(kept, copied) for kept, copied in held)


def test_buffers_are_used_again(packed: Path) -> None:
    loader = TokenLoader(TokenDataset(packed), 8, True, num_threads=0)
    places = {tokens.data_ptr() for tokens, _ in loader}
    assert len(places) <= 2


def test_an_error_comes_where_its_batch_would(tmp_path: Path) -> None:
    path = written(tmp_path / "store")
    shard = path / "train/tokens/c/3/0/0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    for num_threads in (0, 2):
        batches = iter(TokenLoader(TokenDataset(path), 8, num_threads=num_threads))
        assert [next(batches)[1].tolist() for _ in range(6)] == np.arange(48).reshape(6, 8).tolist()
        with pytest.raises(DamageError, match=r"shard 3 chunk 0 \(samples 48 to 51\).*CRC"):
            next(batches)
    wait_for_threads()


def wait_for_threads() -> None:
    """Wait until no loader's thread is left, which is soon."""
    wait_until(
        lambda: not any(thread.name.startswith("tokenstore-loader") for thread in threading.enumerate())
    )


def test_leaving_a_loop_ends_its_threads(packed: Path) -> None:
    batches = iter(TokenLoader(TokenDataset(packed), 4, num_threads=3))
    next(batches)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("tokenstore")]
    del batches
    wait_for_threads()


def test_transforms_of_the_dataset_and_collate_fn_work_sample_by_sample(packed: Path) -> None:
    dataset = TokenDataset(packed, transform=lambda tokens: tokens[:2] + 1)
    for tokens, labels in TokenLoader(dataset, 8, True):
        np.testing.assert_array_equal(tokens, CODES[labels][:, :2].astype(np.int64) + 1)
    for samples in TokenLoader(dataset, 8, True, collate_fn=list):
        for tokens, label in samples:
            np.testing.assert_array_equal(tokens, CODES[label, :2].astype(np.int64) + 1)
    resident = TokenLoader(dataset, 8, True, resident="ram", collate_fn=len)
    assert list(resident) == [8] * 12 + [5]


def noised(tokens: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    return tokens, labels, torch.rand(len(tokens), generator=generator)


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_a_batch_transform_draws_the_same_whatever_the_threads(packed: Path, num_threads: int) -> None:
    def drawn(num_threads: int, epoch: int, seed: int = 1) -> list[Tensor]:
        loader = TokenLoader(
            TokenDataset(packed), 8, True, seed, num_threads=num_threads, batch_transform=noised
        )
        loader.set_epoch(epoch)
        return [noise for _, _, noise in loader]

    same, other, reseeded = drawn(num_threads, 2), drawn(num_threads, 3), drawn(num_threads, 2, seed=2)
    reference = drawn(0, 2)
    assert all(map(torch.equal, same, reference))
    assert not any(map(torch.equal, same, other))
    assert not any(map(torch.equal, same, reseeded))
    assert len({float(noise[0]) for noise in same}) == len(same), "every batch draws its own"


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_tokens_resident_on_a_device_are_the_same(tmp_path: Path, codec: str) -> None:
    path = written(tmp_path / "store", codec)
    dataset = TokenDataset(path)
    for view in (dataset, dataset.select(range(90, 10, -2)), dataset.filter(labels=range(5, 60, 3))):
        plain = [labels.tolist() for _, labels in TokenLoader(view, 7, "full")]
        resident = TokenLoader(view, 7, True, resident="gpu", device="cpu")
        assert positions(resident) == plain


def test_the_place_among_ranks_is_what_torchrun_set(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = TokenLoader(TokenDataset(packed), 10)
    assert (loader.rank, loader.world_size, len(loader)) == (0, 1, 11)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (loader.rank, loader.world_size, len(loader)) == (2, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 1}, "rank, world_size: expected both"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to world_size - 1"),
        ({"num_threads": -1}, "num_threads"),
        ({"prefetch": 0}, "prefetch"),
        ({"resident": "disk"}, "resident"),
        ({"shuffle": "weak"}, "shuffle"),
        ({"seed": -(2**70), "shuffle": True}, "expected whole numbers"),
        ({"shuffle_window": -1}, "shuffle_window"),
        ({"device": "gpu"}, "device: expected one that torch knows"),
        ({"drop_last": True, "pad": True}, "drop_last, pad"),
        ({"collate_fn": list, "batch_transform": list}, "collate_fn, batch_transform"),
    ],
)
def test_arguments_that_cannot_be_are_refused(packed: Path, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(TokenLoader(TokenDataset(packed), **arguments))


def test_what_is_no_dataset_is_refused(packed: Path) -> None:
    with pytest.raises(ValueError, match="expected a TokenDataset, found str"):
        TokenLoader(str(packed))  # type: ignore[arg-type]


def test_an_empty_selection_has_no_batches(packed: Path) -> None:
    loader = TokenLoader(TokenDataset(packed).select([]), 4, True)
    assert len(loader) == 0
    assert list(loader) == []


@pytest.mark.parametrize("pad", [False, True])
def test_the_rows_of_the_last_batch_are_known(packed: Path, pad: bool) -> None:
    for rank in range(2):
        loader = TokenLoader(
            TokenDataset(packed), 7, True, seed=3, rank=rank, world_size=2, pad=pad, num_threads=2
        )
        assert len(loader.last_rows) == 0
        states = []
        for _, labels in loader:
            assert loader.last_rows.tolist() == labels.tolist()
            states.append(loader.state_dict())
        loader.load_state_dict(states[1])
        for _, labels in loader:
            assert loader.last_rows.tolist() == labels.tolist()
