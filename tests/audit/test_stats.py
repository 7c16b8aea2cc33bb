"""The audit's numbers are those that plain counting gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit import StatsOptions, columns, register_column
from tokenstore.audit import codes as codes_module
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.stats import stats
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ArgumentError, TokenizerError
from tokenstore.sources import open_source
from tokenstore.tokenizers.quality import PSNR_CEILING, evaluate, psnr, ssim


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
    convert_source(open_source(folder / "codes.npy"), out, options=ConvertOptions(**options))  # type: ignore[arg-type]
    return tokenstore.open(out)


@pytest.mark.parametrize("dense_codes", [2**24, 10], ids=["counted in an array", "counted by distinct codes"])
def test_entropy_use_and_perplexity(
    tmp_path: Path, codes: np.ndarray, dense_codes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes_module, "DENSE_CODES", dense_codes)
    monkeypatch.setattr(codes_module, "BLOCK_CODES", 16 * 7)
    result = stats(store_of(tmp_path, codes, codebook_size=1024))
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


def test_bytes_add_up_to_what_is_on_disk(tmp_path: Path, codes: np.ndarray) -> None:
    store = store_of(tmp_path, codes)
    result = stats(store)
    root = store.files.storage.root
    assert root is not None
    assert result.nbytes == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert result.source_nbytes is None
    assert result.splits["train"].class_counts is None


def test_bytes_are_projected_to_like_samples_alone_and_from_enough_of_them(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images" / "train", 2)
    thumbnails = {"tokenizer": BrightnessTokenizer(), "workers": 0}
    tokenstore.convert(tmp_path / "images", tmp_path / "few", **thumbnails)
    assert stats(tmp_path / "few").million_nbytes is None
    np.save(tmp_path / "codes.npy", np.zeros((1000, 4, 4), np.uint8))
    tokenstore.convert(tmp_path / "codes.npy", tmp_path / "many", codebook_size=256)
    many = stats(tmp_path / "many")
    assert many.million_nbytes == many.nbytes * 1000
    for store, line in (("few", None), ("many", "such samples, about")):
        printed = CliRunner().invoke(cli, ["stats", str(tmp_path / store)]).output
        assert "ImageNet" not in printed
        assert ("1 million" in printed) == (line is not None)
        assert line is None or line in printed


def test_a_store_without_a_sample_left_in_a_split_can_be_audited(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images" / "train", 2)
    write_grey_folder(tmp_path / "images" / "val", 1)
    for path in (tmp_path / "images" / "val").rglob("*.png"):
        path.write_bytes(b"")
    options = ConvertOptions(workers=0, on_error="skip")
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    store = tokenstore.open(tmp_path / "out")
    result = stats(store)
    assert result.splits["val"].samples == 0
    assert result.splits["val"].skipped == 3
    assert len(store["val"]) == 0
    assert store["val"].labels is not None
    assert len(tokenstore.TokenDataset(store, "val")) == 0
    from tokenstore.audit.verify import verify

    assert verify(str(tmp_path / "out")).problems == []


def test_labels_far_apart_are_counted_by_distinct_labels(tmp_path: Path) -> None:
    labels = np.array([7, 2_000_000_000] * 20 + [0, 2**31 - 1], np.int32)
    write_store(tmp_path / "store", {"train": (random_codes(42, (4,), 16), labels)}, 16)
    audit = stats(tmp_path / "store", shuffle=True, batch_size=8)
    counts = {0: 1, 7: 20, 2_000_000_000: 20, 2**31 - 1: 1}
    assert audit.splits["train"].class_counts == counts
    assert json.loads(json.dumps(audit.to_dict()))["splits"]["train"]["class_counts"]["7"] == 20
    printed = CliRunner().invoke(cli, ["stats", str(tmp_path / "store")]).output
    assert "classes: labels up to 2,147,483,647, but only 4 distinct, with 1 to 20 samples" in printed


def test_progress_counts_up_to_all_samples(tmp_path: Path, codes: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    stats(store_of(tmp_path, codes), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)


# ---- quality of reconstructions


@pytest.mark.parametrize("count", [4, 100])
def test_quality_is_measured_against_the_images_as_they_are_now(tmp_path: Path, count: int) -> None:
    """Change every third image by 10 levels: PSNR is 28.13 dB there and, capped, 100 dB elsewhere."""
    write_grey_folder(tmp_path / "images", 3)
    source = open_source(tmp_path / "images")
    options = ConvertOptions(workers=0, image_size=16)
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    for label in range(3):
        write_grey_image(tmp_path / "images" / f"class-{label}" / "000.png", 3 * label + 10)
    (tmp_path / "images" / "class-2" / "002.png").unlink()
    quality = measure_quality(tokenstore.open(tmp_path / "out"), BrightnessTokenizer(), source, count)[
        "train"
    ]
    if count == 4:  # samples 0, 2, 4 and 6
        assert (quality.samples, quality.missing) == (4, 0)
        assert quality.psnr == pytest.approx((2 * 28.1308 + 2 * PSNR_CEILING) / 4, abs=1e-4)
    else:
        assert (quality.samples, quality.missing) == (8, 1)
        assert quality.reason is not None
        assert "class-2/002.png" in quality.reason
        assert quality.psnr == pytest.approx((3 * 28.1308 + 5 * PSNR_CEILING) / 8, abs=1e-4)
        c1 = 2.55**2  # flat images differ in luminance alone
        expected = [1.0] * 5 + [
            (2 * level * (level + 10) + c1) / (level**2 + (level + 10) ** 2 + c1) for level in (0, 3, 6)
        ]
        assert quality.ssim == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_split_without_samples_has_no_quality(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_grey_image(tmp_path / "images" / split / "a" / "0.png", 3)
    (tmp_path / "images" / "val" / "a" / "0.png").write_bytes(b"")
    source = open_source(tmp_path / "images")
    options = ConvertOptions(workers=0, image_size=16, on_error="skip")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    quality = measure_quality(tokenstore.open(tmp_path / "out"), BrightnessTokenizer(), source, 5)
    assert (quality["train"].samples, quality["train"].psnr) == (1, PSNR_CEILING)
    assert (quality["val"].samples, quality["val"].psnr, quality["val"].ssim) == (0, None, None)


def noise(seed: int) -> torch.Tensor:
    """Draw images (2, 3, 24, 32)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, 24, 32), np.uint8))


def test_psnr_and_ssim_are_those_of_the_definitions() -> None:
    x, y = noise(0), noise(1)
    error = ((x.double() - y.double()) ** 2).mean((1, 2, 3))
    assert psnr(x, y).tolist() == pytest.approx((10 * torch.log10(255**2 / error)).tolist(), rel=1e-5)
    assert ssim(x, y).tolist() == pytest.approx(
        [plain_ssim(*pair) for pair in zip(x, y, strict=True)], abs=1e-5
    )


def plain_ssim(image: torch.Tensor, rebuilt: torch.Tensor) -> float:
    """Compute equation 13 of Wang et al. 2004 at every pixel of every channel, borders mirrored."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (
        np.pad(channels.numpy().astype(np.float64), ((0, 0), (5, 5), (5, 5)), "reflect")
        for channels in (image, rebuilt)
    )

    def mean(values: np.ndarray) -> np.ndarray:
        views = np.lib.stride_tricks.sliding_window_view(values, (11, 11), (1, 2))
        return (views * window).sum((3, 4))

    variance_x, variance_y = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


def test_an_image_without_any_error_leaves_means_finite() -> None:
    images = noise(0)
    assert psnr(images, images).tolist() == [PSNR_CEILING, PSNR_CEILING]
    assert ssim(images, images).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("images", "rebuilt", "message"),
    [
        (noise(0), noise(0)[:, :, :16], r"found \(2, 3, 24, 32\) torch.uint8 and \(2, 3, 16, 32\)"),
        (noise(0), noise(0).float(), "found .* torch.uint8 and .* torch.float32"),
        (noise(0)[..., :5], noise(0)[..., :5], r"more than 5 pixels a side for SSIM, found \(24, 5\)"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(
    images: torch.Tensor, rebuilt: torch.Tensor, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        ssim(images, rebuilt)


class Digits(BrightnessTokenizer):
    """A tokenizer of brightness in two codes: sixteens, and what is left."""

    codebook_sizes = (16, 20)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        codes = super().encode(inputs)
        return torch.stack([codes // 16, codes % 16], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes[:, 0] * 16 + codes[:, 1])


def test_a_codebook_larger_than_memory_has_its_codes_counted() -> None:
    class Vast(BrightnessTokenizer):
        codebook_sizes = (2**48,)

    quality = evaluate(Vast(), [torch.full((3, 16, 16), level, dtype=torch.uint8) for level in (3, 9)])
    assert (quality.perplexity, quality.unused_codes) == (pytest.approx(2), 2**48 - 2)


def test_the_use_of_several_codebooks_is_the_mean_perplexity_and_all_their_unused_codes() -> None:
    """Sixteens 0 and 1 alike make a perplexity of 2, fours of the rest one of 4."""
    images = [
        torch.full((3, 16, 16), 16 * sixteens + rest, dtype=torch.uint8)
        for sixteens in range(2)
        for rest in range(4)
    ]
    quality = evaluate(Digits(), images)
    assert quality.perplexity == pytest.approx((2 + 4) / 2)
    assert quality.unused_codes == (16 - 2) + (20 - 4)
    assert (quality.images, quality.psnr) == (8, PSNR_CEILING)
    assert evaluate(BrightnessTokenizer(), images).perplexity == pytest.approx(8)


# ---- columns from outside the package


def test_a_column_can_be_registered_from_outside(
    tmp_path: Path, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "COLUMNS", dict(columns.COLUMNS))

    def largest(store: tokenstore.TokenStore, options: StatsOptions) -> dict[str, int]:
        return {name: int(store[name][:].max()) for name in store.splits}

    register_column("largest code", largest)
    result = stats(store_of(tmp_path, codes))
    assert result.splits["train"].columns == {"largest code": codes.max()}
    assert result.to_dict()["splits"]["train"]["largest code"] == codes.max()
    with pytest.raises(ValueError, match="'largest code', which is taken"):
        register_column("largest code", largest)


def test_arguments_without_use_are_refused(tmp_path: Path, codes: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match=r"images=\.\.\. goes with quality=\.\.\."):
        stats(store_of(tmp_path, codes), images=tmp_path)
