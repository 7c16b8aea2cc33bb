"""Real data, where it is at hand: the SeiT layout and photographs become stores that hold what they held."""

from __future__ import annotations

import gzip
import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer
from helpers.paths import SHARED

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source

DATA = SHARED / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside the repository")

SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""The argument that Python 3.11.4 and later want of those who unpack a tar file."""


def decode_seit(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode the layout by a plain loop, independently of the library."""
    stream = gzip.decompress((folder / f"imagenet1k-{split}-token.data.bin.gz").read_bytes())
    index = np.load(
        io.BytesIO(gzip.decompress((folder / f"imagenet1k-{split}-token.index.npy.gz").read_bytes())),
        allow_pickle=False,
    )
    samples = []
    for start, stop in itertools.pairwise(index):
        codes, escaped = [], False
        for byte in stream[start:stop]:
            if escaped:
                codes.append(255 + byte)
                escaped = False
            elif byte == 255:
                escaped = True
            else:
                codes.append(byte)
        samples.append(np.array(codes, np.uint16).reshape(32, 32))
    labels = np.loadtxt(folder / f"imagenet1k-{split}-label.txt", dtype=np.int64)
    return np.stack(samples), labels


def test_the_seit_layout_is_stored_as_an_independent_decoder_reads_it(tmp_path: Path) -> None:
    folder = DATA / "seit-sample"
    convert_source(open_source(folder), tmp_path / "out", options=ConvertOptions(shard_samples=512))
    store = tokenstore.open(tmp_path / "out")
    for split in ("train", "val"):
        codes, labels = decode_seit(folder, split)
        assert np.array_equal(store[split][:], codes)
        assert np.array_equal(store[split].labels, labels)
    codebook = torch.load(folder / "codebook.ckpt", weights_only=True).detach().numpy()
    assert np.array_equal(store.codebook, codebook)
    assert store.manifest.codebook_sizes == (391,)
    assert store.synonyms is not None
    assert store.synonyms[0].tolist()[:3] == [9, 201, 106]
    assert verify(str(tmp_path / "out")).problems == []


def test_photographs_in_a_folder_and_in_tar_shards_give_the_same_codes_and_labels(tmp_path: Path) -> None:
    with tarfile.open(DATA / "imagenet-sample.tar") as packed:
        packed.extractall(tmp_path, **SAFELY)
    options = ConvertOptions(image_size=64, limit=120, shard_samples=64)
    for name, path in (("folder", tmp_path / "imagenet-sample"), ("tar", DATA / "imagenet-sample.tar")):
        convert_source(open_source(path), tmp_path / name, tokenizer=BrightnessTokenizer(), options=options)
        assert verify(str(tmp_path / name)).problems == []
    folder, tar = (tokenstore.open(tmp_path / name)["train"] for name in ("folder", "tar"))
    assert len(folder) == 120
    assert np.array_equal(folder[:], tar[:])
    assert np.array_equal(folder.labels, tar.labels)
    assert folder.store.manifest.class_names == tar.store.manifest.class_names
    assert (
        folder.store.manifest.splits["train"].source_bytes == tar.store.manifest.splits["train"].source_bytes
    )
