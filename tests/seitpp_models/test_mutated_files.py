"""Mutated files of networks, adapters, states and recipes: the documented error or a result, soon and small.

`pytest -m slow tests/seitpp_models/test_mutated_files.py` tries 20,000 mutations of each kind.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import small_adapter
from helpers.network_runs import SmallRun, train
from helpers.network_stores import MASKED, VIT
from helpers.networks_to_evaluate import saved, trained
from helpers.value_mutations import mutated_safetensors, mutated_state, mutated_text

from seitpp_models.errors import ModelError
from seitpp_models.recipes import RECIPES
from seitpp_models.training.resolving import resolve
from seitpp_models.training.settings import FinetuneSettings
from seitpp_models.weights import load_model
from tokenstore.augment import load_adapter
from tokenstore.augment.adapters import save_adapter
from tokenstore.errors import AdapterError, ArgumentError, TokenizerError, TokenstoreError
from tokenstore.networks.runs import STATE

SECONDS, NBYTES = 2.0, 500 * 10**6
MANY = 20_000


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is mutated, read, and refused."""

    error: type[TokenstoreError]
    read: Callable[[Path], object]
    mutate: Callable[[random.Random], bytes]


def networks(folder: Path) -> Kind:
    files = [
        saved(trained(kind, arguments), folder / f"{kind}.safetensors").read_bytes()
        for kind, arguments in (
            ("vit", VIT),
            ("masked", MASKED),
            ("segmenter", {"backbone": VIT, "classes": 3}),
            ("vit", VIT | {"depth": 1}),
        )
    ]
    return Kind(ModelError, load_model, lambda rng: mutated_safetensors(rng.choice(files), rng))


def adapters(folder: Path) -> Kind:
    save_adapter(small_adapter(), folder / "adapter.safetensors")
    data = (folder / "adapter.safetensors").read_bytes()
    return Kind(AdapterError, load_adapter, lambda rng: mutated_safetensors(data, rng))


def states(folder: Path) -> Kind:
    train(SmallRun(folder / "run"))
    data = (folder / "run" / STATE).read_bytes()
    state: dict[str, Any] = torch.load(folder / "run" / STATE, weights_only=True)

    def read(path: Path) -> None:
        path.rename(path.with_name(STATE))
        run = SmallRun(path.parent)
        run.restore()
        for batch in range(2):  # what was read can be trained on
            run.train_on(batch)

    return Kind(TokenizerError, read, lambda rng: mutated_state(data, state, rng))


def recipes(_: Path) -> Kind:
    texts = [path.read_text() for path in sorted(RECIPES.glob("finetune-*.yaml"))]

    def read(path: Path) -> object:
        return resolve("finetune", FinetuneSettings, path, {})

    return Kind(
        ArgumentError, read, lambda rng: mutated_text(rng.choice(texts), rng).encode("utf-8", "replace")
    )


KINDS = {"networks": networks, "adapters": adapters, "states": states, "recipes": recipes}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


def check(kind: Kind, folder: Path, seeds: range) -> None:
    """Read a mutation of each seed; fail for another error, for one that takes long, and for much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = folder / "mutated.safetensors"
    refused = 0
    for seed in seeds:
        path.write_bytes(kind.mutate(random.Random(seed)))
        start = time.process_time()
        message = ""
        try:
            kind.read(path)
        except kind.error as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r:.300}") from error
        refused += bool(message)
        assert len(message) < 2000, seed
        assert time.process_time() - start < SECONDS, seed
        assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < NBYTES, seed
    assert refused > len(seeds) / 4


def test_a_mutated_file_is_read_or_refused_by_its_documented_error(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, range(100))


@pytest.mark.slow
def test_twenty_thousand_mutated_files_are_read_or_refused(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, range(MANY))
