"""Images are encoded again and their codes compared with those of the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_image
from helpers.brightness_stores import Line, levels
from helpers.stores import Samples, write_store
from PIL import Image

import tokenstore
from tokenstore.audit.originals import evenly_spaced, open_images
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.audit.retokenization import retokenize
from tokenstore.errors import SourceError, TokenizerError
from tokenstore.format.manifest import Preprocessing, TokenizerIdentity
from tokenstore.tokenizers.store_tokenizer import tokenizer_of


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (9, 4), (9, 9), (9, 100), (0, 5), (10**6, 7)])
def test_evenly_spaced_indices_are_spaced_evenly(samples: int, count: int) -> None:
    found = evenly_spaced(samples, count)
    assert len(found) == min(samples, count)
    if len(found):
        assert found[0] == 0
        assert found[-1] < samples
        gaps = np.diff([*found, samples])
        assert gaps.max() - gaps.min() <= 1


def test_codes_encoded_again_are_equal(store: tokenstore.TokenStore) -> None:
    again = retokenize(store, BrightnessTokenizer(), open_images(store.manifest), 100)
    found = again.splits["train"]
    assert (found.samples, found.equal_samples, found.codes, found.equal_codes) == (9, 9, 36, 36)
    assert again.must_agree
    assert again.differences == []


def test_changed_images_are_reported_with_the_right_shares(
    store: tokenstore.TokenStore, images: Path
) -> None:
    half = np.zeros((16, 16, 3), np.uint8)
    half[8:] = 200  # the upper two codes of image 0 stay as they were
    Image.fromarray(half).save(images / "class-0" / "000.png")
    write_grey_image(images / "class-2" / "001.png", 99)
    (images / "class-1" / "000.png").unlink()
    again = retokenize(store, BrightnessTokenizer(), open_images(store.manifest), 100)
    values = json.loads(json.dumps(again.to_dict()))["splits"]["train"]
    assert (values["samples"], values["missing"], values["changed_files"]) == (8, 1, 1)
    assert values["equal_samples_share"] == 6 / 8
    assert values["equal_codes_share"] == (6 * 4 + 2) / (8 * 4)
    (difference,) = again.differences
    assert "split train: 2 of 8 samples have other codes" in difference
    assert "1 of the image files another size" in difference


class OnAnotherDevice(BrightnessTokenizer):
    """A tokenizer whose float arithmetic may differ elsewhere, here on the CPU."""

    dtype = torch.float32  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("device", "dtype", "must_agree"),
    [("cpu", "float32", True), ("cuda", "float32", False), ("cpu", "bfloat16", False), (None, None, False)],
)
def test_codes_have_to_agree_only_where_they_are_computed_as_they_were(
    images: Path, tmp_path: Path, device: str | None, dtype: str | None, must_agree: bool
) -> None:
    codes = np.zeros((1, 2, 2), np.uint8)
    write_store(
        tmp_path / "out",
        {"train": Samples(codes)},
        256,
        tokenizer=TokenizerIdentity("brightness", "b" * 64, device=device, dtype=dtype),
        preprocessing=Preprocessing(16, 16, "squash"),
    )
    (tmp_path / "one" / "train").mkdir(parents=True)
    write_grey_image(tmp_path / "one" / "train" / "0.png", 7)
    store = tokenstore.open(tmp_path / "out")
    again = retokenize(store, OnAnotherDevice(), open_images(store.manifest, tmp_path / "one"), 1)
    assert again.must_agree is must_agree
    assert len(again.differences) == 1
    assert again.arithmetic == "cpu float32"
    if not must_agree:
        assert f"in {again.stored_arithmetic} then and cpu float32 now" in again.differences[0]


def test_a_pruned_store_is_rebuilt_and_encoded_again_by_its_kept_codes(
    tmp_path: Path, brightness_by_name: None
) -> None:
    kept = (0, 2, 4, 6, 8)
    for number, level in enumerate(kept):
        write_grey_image(tmp_path / "images" / "train" / f"{number}.png", level)
    codes = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    write_store(
        tmp_path / "out",
        {"train": Samples(codes)},
        len(kept),
        tokenizer=TokenizerIdentity("brightness", "b" * 64, kept_codes=(kept,), spec="brightness"),
        preprocessing=Preprocessing(16, 16, "squash"),
        source_kind="imagefolder",
        source_location=str(tmp_path / "images"),
    )
    store = tokenstore.open(tmp_path / "out")
    tokenizer = tokenizer_of(store.manifest)
    assert tokenizer.codebook_sizes == (5,)
    assert levels(decode_samples(store, "train", range(5), tokenizer)) == [0, 2, 4, 6, 8]
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 5)["train"].psnr == 100
    assert retokenize(store, tokenizer, source, 5).splits["train"].equal_samples == 5


def test_nothing_to_compare_with_is_an_error_with_the_reason(
    store: tokenstore.TokenStore, images: Path
) -> None:
    source = open_images(store.manifest)
    shutil.rmtree(images)
    for compare in (measure_quality, retokenize):
        with pytest.raises(
            SourceError, match=r"found none: .*class-0/000\.png: cannot be read: No such file"
        ):
            compare(store, BrightnessTokenizer(), source, 4)


def test_a_tokenizer_with_another_grid_is_refused(store: tokenstore.TokenStore) -> None:
    with pytest.raises(TokenizerError, match=r"expected a grid \(2, 2\) as the store has, found \(4,\)"):
        retokenize(store, Line(), open_images(store.manifest), 1)
