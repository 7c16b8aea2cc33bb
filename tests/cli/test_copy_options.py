"""The options of remote storage go to whichever side of a copy is remote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore


@pytest.mark.parametrize(
    ("source", "target", "given", "taken"),
    [
        ("STORE", "memory://copies/a.zarr", {"--storage-options": 1}, {"target_storage_options": 1}),
        ("STORE", "memory://copies/a.zarr", {"--target-storage-options": 2}, {"target_storage_options": 2}),
        ("memory://copies/a.zarr", "b.zarr", {"--storage-options": 1}, {"storage_options": 1}),
        (
            "s3://bucket/a",
            "gs://bucket/b",
            {"--storage-options": 1, "--target-storage-options": 2},
            {"storage_options": 1, "target_storage_options": 2},
        ),
        ("STORE", "b.zarr", {"--storage-options": 1}, None),
        ("STORE", "b.zip", {"--target-storage-options": 2}, None),
        ("s3://bucket/a", "b.zarr", {"--target-storage-options": 2}, None),
        ("STORE", "s3://bucket/b", {"--storage-options": 1, "--target-storage-options": 2}, None),
    ],
)
def test_options_go_to_the_remote_side_or_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    target: str,
    given: dict[str, int],
    taken: dict[str, int] | None,
) -> None:
    store = tmp_path / "store.zarr"
    write_store(store, {"train": (random_codes(3, (2, 2), 16),)}, 16)
    calls: list[dict[str, Any]] = []
    plain = tokenstore.copy(store, tmp_path / "plain.zarr")

    def copy(*places: str, **settings: Any) -> Any:
        calls.append({name: value for name, value in settings.items() if value and name.endswith("options")})
        return plain

    monkeypatch.setattr(tokenstore, "copy", copy)
    words = [str(store) if source == "STORE" else source, target]
    for option, number in given.items():
        words += [option, f'{{"key": {number}}}']
    done = CliRunner().invoke(cli, ["copy", *words])
    if taken is None:
        assert done.exit_code == 2, done.output
        assert "storage-options goes with a remote" in done.output
        assert calls == []
    else:
        assert done.exit_code == 0, done.output
        assert calls == [{name: {"key": number} for name, number in taken.items()}]
