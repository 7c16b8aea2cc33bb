"""The loaders that users train with: torch's DataLoader, torchdata, Lightning, Accelerate and torchrun."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG
from torch.utils.data import DataLoader, get_worker_info

from tokenstore import TokenDataset, TokenLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning"),
]

SAMPLES = 101
CODES = random_codes(SAMPLES, (4, 6), 391)
LABELS = np.arange(SAMPLES, dtype=np.int32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 101 samples whose labels are their row numbers, in shards of 16 and chunks of 4."""
    path = tmp_path_factory.mktemp("frameworks") / "store"
    write_store(path, {"train": (CODES, LABELS)}, chunk_samples=4, shard_samples=16)
    return path


@pytest.fixture
def dataset(store: Path) -> TokenDataset:
    return TokenDataset(store)


def positions(batches: Iterable[Any]) -> list[list[int]]:
    """Return the labels of every batch, which are row numbers in the store, once the codes match them."""
    found = []
    for tokens, labels in batches:
        assert tokens.dtype == labels.dtype == torch.int64
        np.testing.assert_array_equal(tokens.numpy(), CODES[labels.numpy()])
        found.append(labels.tolist())
    return found


def sorted_positions(batches: Iterable[list[int]]) -> list[int]:
    return sorted(position for batch in batches for position in batch)


def seeded(dataset: TokenDataset, kind: Any = DataLoader, **options: Any) -> Any:
    """Return a shuffling DataLoader; loaders made alike draw the same epochs."""
    return kind(dataset, 7, shuffle=True, generator=torch.Generator().manual_seed(3), **options)


ALL = list(range(SAMPLES))


@pytest.mark.parametrize(("num_workers", "persistent"), [(1, False), (4, True)])
def test_forked_workers_give_what_no_workers_give(
    dataset: TokenDataset, num_workers: int, persistent: bool
) -> None:
    loader = seeded(dataset, num_workers=num_workers, persistent_workers=persistent)
    first, second = positions(loader), positions(loader)
    assert first == positions(seeded(dataset))
    assert second != first
    assert sorted_positions(second) == ALL


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_four_workers_of_other_kinds_give_it_too(dataset: TokenDataset, method: str) -> None:
    assert dataset[0][1] == 0  # opened and read in the parent
    loader = seeded(dataset, num_workers=4, persistent_workers=True, multiprocessing_context=method)
    assert positions(loader) == positions(seeded(dataset))
    assert sorted_positions(positions(loader)) == ALL


def test_two_datasets_and_two_dataloaders_are_read_at_once(dataset: TokenDataset, store: Path) -> None:
    options = {"num_workers": 2, "persistent_workers": True}
    loaders = [
        DataLoader(dataset, 7, **options),
        DataLoader(TokenDataset(store).select(range(SAMPLES)), 7, **options),
        TokenLoader(TokenDataset(store), 7, num_threads=2),
    ]
    for _ in range(2):
        for batches in zip(*loaders, strict=True):
            first, second, third = positions(batches)
            assert first == second == third


def add_worker_to_labels(worker: int) -> None:
    get_worker_info().dataset.target_transform = lambda label: label + 1000 * (worker + 1)


def test_a_worker_init_fn_changes_the_workers_own_dataset(dataset: TokenDataset) -> None:
    loader = DataLoader(dataset, 7, num_workers=2, worker_init_fn=add_worker_to_labels)
    labels = torch.cat([labels for _, labels in loader])
    assert set((labels // 1000).tolist()) == {1, 2}
    assert (labels % 1000).tolist() == ALL
    assert dataset[3][1] == 3


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(("num_workers", "stops"), [(0, range(1, 15)), (2, [8])])
def test_a_stateful_dataloader_goes_on_where_it_was(
    dataset: TokenDataset, num_workers: int, stops: Iterable[int]
) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    for stop in stops:
        loader = seeded(dataset, StatefulDataLoader, num_workers=num_workers)
        batches = iter(loader)
        given = positions(next(batches) for _ in range(stop))
        state = pickle.dumps(loader.state_dict())
        rest = positions(batches)
        assert sorted_positions(given + rest) == ALL
        again = seeded(dataset, StatefulDataLoader, num_workers=num_workers)
        again.load_state_dict(pickle.loads(state))
        assert positions(again) == rest
        assert sorted_positions(positions(again)) == ALL


def model_of_labels() -> torch.nn.Module:
    """Return a network from tokens (B, 4, 6) to logits (B, 101)."""
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Embedding(391, 2), torch.nn.Flatten(), torch.nn.Linear(48, SAMPLES)
    )


@pytest.fixture(scope="module")
def lightning() -> Any:
    import pytorch_lightning

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pytorch_lightning


@pytest.fixture
def fit(lightning: Any, tmp_path: Path) -> Any:
    """Train on batches; return what each epoch was given, as `positions` does."""

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of_labels()
            self.given: dict[int, list[Any]] = {}

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.given.setdefault(self.current_epoch, []).append(batch)
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(
        batches: Any, epochs: int, checkpoint: Path | None = None, **options: Any
    ) -> dict[int, list[list[int]]]:
        module = Module()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options = {"enable_checkpointing": "callbacks" in options, **quiet, **options}
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, **options
        )
        trainer.fit(module, train_dataloaders=batches, ckpt_path=checkpoint, weights_only=True)
        return {epoch: positions(given) for epoch, given in module.given.items()}

    return fit


of_lightning = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:Be aware that when using `ckpt_path`, callbacks",
)


def token_loader_epochs(dataset: TokenDataset, epochs: int) -> dict[int, list[list[int]]]:
    loader = TokenLoader(dataset, 7, shuffle=True)
    return {epoch: positions(loader) for epoch in range(epochs)}


@of_lightning
@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_trains_on_a_dataloader(dataset: TokenDataset, fit: Any, num_workers: int) -> None:
    epochs = fit(seeded(dataset, num_workers=num_workers, persistent_workers=num_workers > 0), 2)
    assert [sorted_positions(epochs[epoch]) for epoch in (0, 1)] == [ALL, ALL]
    assert epochs[0] != epochs[1]


@of_lightning
def test_lightning_trains_on_the_epochs_of_a_token_loader(dataset: TokenDataset, fit: Any) -> None:
    epochs = fit(TokenLoader(dataset, 7, shuffle=True), 3)
    assert epochs == token_loader_epochs(dataset, 3)


@of_lightning
def test_lightning_draws_a_new_order_after_part_of_an_epoch(dataset: TokenDataset, fit: Any) -> None:
    epochs = fit(TokenLoader(dataset, 7, shuffle=True), 2, limit_train_batches=4)
    whole = token_loader_epochs(dataset, 2)
    assert epochs == {epoch: batches[:4] for epoch, batches in whole.items()}


@of_lightning
@pytest.mark.parametrize(
    ("stop", "when"), [(5, {"every_n_train_steps": 5}), (15, {"every_n_epochs": 1})], ids=["middle", "end"]
)
def test_lightning_resumes_a_token_loader_from_a_checkpoint(
    dataset: TokenDataset, fit: Any, lightning: Any, tmp_path: Path, stop: int, when: dict[str, int]
) -> None:
    save = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
    fit(TokenLoader(dataset, 7, shuffle=True), 1, callbacks=[save])
    epochs = fit(TokenLoader(dataset, 7, shuffle=True), 2, tmp_path / f"step={stop}.ckpt")
    whole = token_loader_epochs(dataset, 2)
    assert epochs.get(0, []) == whole[0][stop:]
    assert epochs[1] == whole[1]


def test_a_loop_that_counts_batches_gets_the_next_epoch_after_the_last(dataset: TokenDataset) -> None:
    loader = TokenLoader(dataset, 7, shuffle=True)
    counted = {
        epoch: positions(batch for _, batch in zip(range(len(loader)), loader, strict=False))
        for epoch in range(3)
    }
    assert counted == token_loader_epochs(dataset, 3)


@pytest.fixture
def accelerate() -> Iterator[Any]:
    """Give the module accelerate, with its process-wide state reset before and after."""
    import accelerate

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield accelerate
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("seedable", [False, True])
def test_accelerate_prepares_a_dataloader(
    dataset: TokenDataset, accelerate: Any, num_workers: int, seedable: bool
) -> None:
    options = accelerate.utils.DataLoaderConfiguration(use_seedable_sampler=seedable)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=options)
    loader = accelerator.prepare(seeded(dataset, num_workers=num_workers))
    replaced = isinstance(loader.batch_sampler.sampler, accelerate.data_loader.SeedableRandomSampler)
    assert replaced == seedable
    first, second = positions(loader), positions(loader)
    assert sorted_positions(first) == sorted_positions(second) == ALL
    assert first != second


def test_accelerate_shares_a_dataloader_out_among_ranks(dataset: TokenDataset, accelerate: Any) -> None:
    ranks = [
        positions(
            accelerate.data_loader.prepare_data_loader(
                seeded(dataset), num_processes=2, process_index=rank, even_batches=False
            )
        )
        for rank in range(2)
    ]
    assert sorted_positions(ranks[0] + ranks[1]) == ALL


def test_accelerate_saves_and_loads_where_a_token_loader_is(
    dataset: TokenDataset, accelerate: Any, tmp_path: Path
) -> None:
    def prepared() -> tuple[Any, TokenLoader]:
        accelerator = accelerate.Accelerator(cpu=True)
        loader = TokenLoader(dataset, 7, shuffle=True)
        assert accelerator.prepare(loader) is loader
        accelerator.prepare(model_of_labels())
        accelerator.register_for_checkpointing(loader)
        return accelerator, loader

    accelerator, loader = prepared()
    batches = iter(loader)
    given = positions(next(batches) for _ in range(6))
    accelerator.save_state(tmp_path / "state")
    rest = positions(batches)
    accelerator, loader = prepared()
    accelerator.load_state(tmp_path / "state")
    assert positions(loader) == rest
    assert sorted_positions(given + rest) == ALL


RANK = """
import datetime, json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tokenstore import TokenDataset, TokenLoader

store, state, out = sys.argv[1:]
torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
loader = TokenLoader(TokenDataset(store), 7, shuffle=True, seed=5)
if state:
    loader.load_state_dict(json.loads(state))
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Embedding(391, 3))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
batches, states = [], [loader.state_dict()]
for tokens, labels in loader:
    optimizer.zero_grad()
    model(tokens).square().mean().backward()
    optimizer.step()
    batches.append(labels.tolist())
    states.append(loader.state_dict())
accelerator = Accelerator(cpu=True)
shared = accelerator.prepare(DataLoader(TokenDataset(store), 7, shuffle=True))
gathered = [accelerator.gather_for_metrics(labels).tolist() for _, labels in shared]
found = {"batches": batches, "states": states, "gathered": gathered, "after": loader.state_dict(),
         "weights": model.module.weight.sum().item(), "world_size": loader.world_size}
Path(out, f"{loader.rank}.json").write_text(json.dumps(found))
torch.distributed.barrier()
# Taking gloo's group down aborts now and then on a busy machine (1 of 12 runs of torch alone, three ranks).
os._exit(0)
"""


def torchrun(processes: int, store: Path, folder: Path, state: str = "") -> list[dict[str, Any]]:
    """Run some ranks to their end; return the result of each."""
    folder.mkdir()
    (folder / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(folder / "rank.py"), str(store), state, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    assert {rank["world_size"] for rank in ranks} == {processes}
    assert len({len(rank["batches"]) for rank in ranks}) == 1, "equally many batches"
    assert all(rank[name] == ranks[0][name] for name in ("states", "weights") for rank in ranks)
    return ranks


def together(ranks: list[list[list[int]]]) -> list[int]:
    """Return the batches of all ranks in the order of the epoch."""
    return [position for step in zip(*ranks, strict=True) for batch in step for position in batch]


@pytest.fixture(scope="module")
def two_ranks(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return torchrun(2, store, tmp_path_factory.mktemp("two") / "ranks")


def whole_epoch(dataset: TokenDataset) -> list[int]:
    return together([positions(TokenLoader(dataset, SAMPLES, shuffle=True, seed=5))])


def states_of_two_ranks(dataset: TokenDataset) -> list[dict[str, Any]]:
    """Return the states of a loader of either of two ranks, before each batch and after the last."""
    loaders = [TokenLoader(dataset, 7, shuffle=True, seed=5, rank=rank, world_size=2) for rank in range(2)]
    first, second = ([loader.state_dict(), *(loader.state_dict() for _ in loader)] for loader in loaders)
    assert first == second
    return first


@pytest.mark.thorough
def test_two_ranks_of_torchrun_share_an_epoch(dataset: TokenDataset, two_ranks: Any) -> None:
    assert two_ranks[0]["states"] == states_of_two_ranks(dataset)
    assert together([rank["batches"] for rank in two_ranks]) == whole_epoch(dataset)
    assert all(rank["after"] == {**two_ranks[0]["states"][0], "epoch": 1} for rank in two_ranks)


@pytest.mark.thorough
def test_two_ranks_of_torchrun_share_a_dataloader_of_accelerate(two_ranks: Any) -> None:
    for rank in two_ranks:
        assert sorted_positions(rank["gathered"]) == ALL


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_state_of_two_ranks_is_gone_on_with_by_others(dataset: TokenDataset, world_size: int) -> None:
    whole = whole_epoch(dataset)
    for state in states_of_two_ranks(dataset):
        ranks = []
        for rank in range(world_size):
            loader = TokenLoader(dataset, 5, rank=rank, world_size=world_size)
            loader.load_state_dict(state)
            ranks.append(positions(loader))
        assert together(ranks) == whole[state["consumed"] :]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_state_of_two_ranks_is_gone_on_with_under_torchrun(
    store: Path, dataset: TokenDataset, two_ranks: Any, tmp_path: Path, world_size: int
) -> None:
    state = two_ranks[0]["states"][3]
    ranks = torchrun(world_size, store, tmp_path / "ranks", json.dumps(state))
    assert together([rank["batches"] for rank in ranks]) == whole_epoch(dataset)[state["consumed"] :]
