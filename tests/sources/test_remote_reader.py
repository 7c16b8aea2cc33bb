"""A remote file as a stream: the bytes of the file, and each of them fetched once by a walk through it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.sources import remote_files
from tokenstore.sources.remote_files import RemoteFile, RemoteReader

CONTENT = os.urandom(300)


class Memory:
    """Remote storage with one file, which counts how often each of its bytes is fetched."""

    def __init__(self) -> None:
        self.fetched = Counter[int]()

    @property
    def storage(self) -> Memory:
        return self

    def read_ranges(
        self, requests: list[tuple[str, int, int]], concurrency: int, version: str
    ) -> list[bytes]:
        for _, start, stop in requests:
            assert 0 <= start <= stop <= len(CONTENT)
            self.fetched.update(range(start, stop))
        return [CONTENT[start:stop] for _, start, stop in requests]

    def reader(self, blocks: int = 1) -> RemoteReader:
        return RemoteReader(RemoteFile(self, "x", len(CONTENT), ""), blocks)  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="module")
def small_numbers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_files, "_PART_NBYTES", 16)
        patch.setattr(remote_files, "_NEAR_NBYTES", 20)
        yield


BLOCKS = st.tuples(st.integers(1, 8), st.integers(8, 40))
AHEAD = st.integers(1, 4)
EXPECTED = st.none() | st.integers(0, 320)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90), EXPECTED), min_size=1, max_size=12),
    BLOCKS,
    AHEAD,
    st.booleans(),
)
def test_a_remote_file_reads_like_its_bytes(
    steps: list[tuple[int, int, int | None]], blocks: tuple[int, int], ahead: int, here: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_files, "_BLOCK_NBYTES", blocks)
        with Memory().reader(ahead) as reader:
            for offset, size, expected in steps:
                if expected is not None:
                    reader.expect(expected, here=here)
                reader.seek(offset)
                assert reader.read(size) == CONTENT[offset : offset + size]
                assert reader.tell() == min(len(CONTENT), offset + size)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 90)), min_size=1, max_size=20),
    BLOCKS,
    AHEAD,
    EXPECTED,
)
def test_a_walk_fetches_no_byte_twice(
    steps: list[tuple[int, int]], blocks: tuple[int, int], ahead: int, expected: int | None
) -> None:
    memory = Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_files, "_BLOCK_NBYTES", blocks)
        with memory.reader(ahead) as reader:
            if expected is not None:
                reader.expect(expected, here=False)
            for gap, size in steps:
                reader.seek(reader.tell() + gap)
                at = min(reader.tell(), len(CONTENT))
                assert reader.read(size) == CONTENT[at : at + size]
    assert set(memory.fetched.values()) <= {1}


def test_a_step_over_the_end_of_a_block_keeps_what_is_fetched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "_BLOCK_NBYTES", (40, 40))
    memory = Memory()
    with memory.reader(4) as reader:
        reader.expect(len(CONTENT), here=False)
        assert b"".join(iter(lambda: reader.read(30), b"")) == CONTENT
    assert memory.fetched == Counter(range(len(CONTENT)))
