"""The audit's numbers are those that plain counting gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tokenstore
from tokenstore import stats
from tokenstore.convert import ConvertOptions, convert
from tokenstore.sources import open_source
from tokenstore.stats import IMAGENET_SAMPLES, audit


def entropy(codes: np.ndarray) -> float:
    _, counts = np.unique(codes, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


@pytest.fixture
def codes() -> np.ndarray:
    return (np.random.default_rng(0).integers(0, 30, (100, 4, 4)) ** 2).astype(np.uint16)


def store_of(folder: Path, codes: np.ndarray, **options: object) -> tokenstore.TokenStore:
    np.save(folder / "codes.npy", codes)
    out = folder / f"out{len(list(folder.iterdir()))}"
    convert(open_source(folder / "codes.npy"), out, options=ConvertOptions(**options))  # type: ignore[arg-type]
    return tokenstore.open(out)


@pytest.mark.parametrize("dense_codes", [2**24, 10], ids=["counted in an array", "counted by distinct codes"])
def test_entropy_use_and_perplexity(
    tmp_path: Path, codes: np.ndarray, dense_codes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "_DENSE_CODES", dense_codes)
    monkeypatch.setattr(stats, "_BLOCK_CODES", 16 * 7)
    result = audit(store_of(tmp_path, codes, codebook_size=1024))
    split = result.splits["train"]
    (use,) = split.codebooks
    distinct, counts = np.unique(codes, return_counts=True)
    assert (use.size, use.used, use.dead) == (1024, len(distinct), 1024 - len(distinct))
    assert use.entropy_bits == pytest.approx(entropy(codes))
    assert split.entropy_bits == use.entropy_bits
    assert use.perplexity == pytest.approx(2 ** entropy(codes))
    assert use.top_codes[0][1] == counts.max()
    assert sum(use.rank_histogram) == pytest.approx(1)
    assert use.rank_histogram == sorted(use.rank_histogram, reverse=True)
    assert split.fixed_width_bits == 10
    assert split.bits_per_code == pytest.approx(8 * split.tokens_nbytes / codes.size)


def test_bytes_add_up_to_what_is_on_disk_and_scale_to_imagenet(tmp_path: Path, codes: np.ndarray) -> None:
    store = store_of(tmp_path, codes)
    result = audit(store)
    root = store.files.storage.root
    assert root is not None
    assert result.nbytes == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert result.imagenet_nbytes == pytest.approx(result.nbytes / 100 * IMAGENET_SAMPLES)
    assert result.source_nbytes is None
    assert result.splits["train"].class_counts is None


def test_a_store_without_a_sample_left_in_a_split_can_be_audited(tmp_path: Path) -> None:
    from brightness import BrightnessTokenizer, write_grey_folder

    write_grey_folder(tmp_path / "images" / "train", 2)
    write_grey_folder(tmp_path / "images" / "val", 1)
    for path in (tmp_path / "images" / "val").rglob("*.png"):
        path.write_bytes(b"")
    options = ConvertOptions(workers=0, on_error="skip")
    source = open_source(tmp_path / "images")
    convert(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    store = tokenstore.open(tmp_path / "out")
    result = audit(store)
    assert result.splits["val"].samples == 0
    assert result.splits["val"].skipped == 3
    assert len(store["val"]) == 0
    assert store["val"].labels is not None
    assert len(tokenstore.TokenDataset(store, "val")) == 0
    from tokenstore.verify import verify

    assert verify(str(tmp_path / "out")).problems == []


def test_progress_counts_up_to_all_samples(tmp_path: Path, codes: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    audit(store_of(tmp_path, codes), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)
