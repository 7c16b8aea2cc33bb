"""The cache against a plain model, a dict that is ordered by use."""

from __future__ import annotations

import pickle
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers.cache_processes import POLICIES, disk_nbytes, files, holds
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenstore.storage.cache import Cache, Policy


class ModelledCache(RuleBasedStateMachine):
    """Any sequence of operations does what it does to a dict that is ordered by use."""

    keys = st.sampled_from(["a", "b", "b/a", "store/train/tokens/0/8-16", "ä b", "c" * 300])
    sizes = st.integers(0, 45) | st.integers(90, 110)

    @initialize(policy=st.sampled_from(POLICIES))
    def open(self, policy: Policy) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.cache = Cache(self.folder, 100, policy)
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for key in list(self.model):
                assert holds(self.cache, key, self.model[key])
            shutil.rmtree(self.folder)

    def use(self, key: str) -> bytes | None:
        if key in self.model and self.cache.policy == "lru":
            self.model[key] = self.model.pop(key)
        return self.model.get(key)

    def total(self) -> int:
        return sum(map(len, self.model.values()))

    @rule(key=keys, size=sizes, seed=st.integers(0, 255))
    def put(self, key: str, size: int, seed: int) -> None:
        data = random.Random(seed).randbytes(size)
        self.cache.put(key, data)
        self.model.pop(key, None)
        if size <= 100 and self.cache.policy == "lru" and self.total() + size > 100:
            while self.total() > min(100 - size, 90):
                del self.model[next(iter(self.model))]
        if self.total() + size <= 100:
            self.model[key] = data

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert holds(self.cache, key, self.use(key))

    @rule(key=keys)
    def discard(self, key: str) -> None:
        self.cache.discard(key)
        self.model.pop(key, None)
        assert holds(self.cache, key, None)

    @rule()
    def send_to_another_process(self) -> None:
        self.cache = pickle.loads(pickle.dumps(self.cache))

    @rule(total=st.sampled_from([None, b"", b"-1", b"rubbish", b"%20d\n" % -1]))
    def die_while_writing(self, total: bytes | None) -> None:
        (self.folder / "total").unlink(missing_ok=True)
        if total is not None:
            (self.folder / "total").write_bytes(total)
        for path in files(self.folder)[:1]:
            path.with_name(f"{path.name}.0123456789abcdef.tmp").write_bytes(b"half")

    @invariant()
    def takes_what_the_model_takes(self) -> None:
        if hasattr(self, "folder"):
            assert self.cache.nbytes == self.total() == disk_nbytes(self.folder)


TestModelledCache = ModelledCache.TestCase
TestModelledCache.settings = settings(deadline=None, max_examples=15, stateful_step_count=40)


@pytest.mark.thorough
class TestModelledCacheLonger(ModelledCache.TestCase):
    """The same with more and other histories."""

    settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
