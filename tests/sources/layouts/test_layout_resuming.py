"""A conversion of a layout that was interrupted goes on to the same bytes, and not with another source."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layout_files import (
    commavq_members,
    put_json_lines,
    put_modality,
    put_tree,
    random_codes,
    tar_bytes,
)

import tokenstore
from tokenstore.errors import ConversionError

OPTIONS: dict[str, Any] = {"chunk_samples": 4, "shard_samples": 4, "workers": 0, "codebook_size": 1000}
CODES = random_codes(13, 10, 16)


def put_commavq(root: Path) -> Path:
    videos = {key: random_codes(6, 8, 16, seed=len(key)) for key in ("a", "bb", "ccc")}
    (root / "x.tar.gz").write_bytes(tar_bytes(commavq_members(videos), "w:gz"))
    return root / "x.tar.gz"


def put_four_m(root: Path) -> Path:
    keys = [f"{row:03}" for row in range(13)]
    put_modality(root / "x/tok_rgb", CODES, keys, 2)
    put_modality(root / "x/crop_settings", np.ones((13, 10, 5), np.int16), keys, 2)
    return root / "x"


LAYOUTS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "commavq": (put_commavq, {"window": 1, "columns": ["pose"]}),
    "jsonl": (lambda root: put_json_lines(root / "x.jsonl", CODES[:, 0], np.arange(13)), {}),
    "llamagen": (lambda root: put_tree(root / "ten_crop", CODES, np.arange(13)), {}),
    "4m": (put_four_m, {}),
}


def interrupted(place: Path, out: Path, options: dict[str, Any]) -> None:
    """Convert a place, and stop after the first shard."""

    def stop(progress: tokenstore.conversion.Progress) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenstore.convert(place, out, on_progress=stop, **OPTIONS, **options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_conversion_goes_on_to_the_same_bytes(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.conversion.codes._RANGE_CODES", 1)  # a sample a range
    put, options = LAYOUTS[layout]
    place = put(tmp_path)
    interrupted(place, tmp_path / "out", options)
    assert not (tmp_path / "out/zarr.json").exists()
    resumed = tokenstore.convert(place, tmp_path / "out", resume=True, **OPTIONS, **options)
    assert max(resumed.resumed_at.values()) >= 4
    tokenstore.convert(place, tmp_path / "whole", **OPTIONS, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_crops_of_another_size_do_not_go_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstore.conversion.codes._RANGE_CODES", 1)
    place = put_tree(tmp_path / "ten_crop", CODES, np.arange(13))
    interrupted(place, tmp_path / "out", {})
    shutil.move(place, tmp_path / "ten_crop_105")
    with pytest.raises(ConversionError, match=r"other"):
        tokenstore.convert(tmp_path / "ten_crop_105", tmp_path / "out", resume=True, **OPTIONS)
