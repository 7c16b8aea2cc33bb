"""Mutated Parquet files, labels files and label maps are read or refused with a SourceError, at once.

20,000 mutations of each kind: python -m pytest -m slow tests/sources -k fuzzing
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_folders import fill
from helpers.mutations import mutated, survive
from helpers.url_sources import outcomes
from PIL import Image

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.imagefolder import open_imagefolder
from tokenstore.sources.masks import MaskDecoder
from tokenstore.sources.options import ImageOptions
from tokenstore.sources.parquet import open_parquet

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = [range(200), pytest.param(range(20_000), marks=pytest.mark.slow, id="20,000")]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog", "é"]},
    "caption": {"dtype": "string", "_type": "Value"},
}


def parquet_file(number: int, features: bytes | None = None) -> bytes:
    """Return one of several Parquet files, with the metadata of the `datasets` library if given."""
    images = [b"image %d" % row * (row + 1) for row in range(8)]
    cells = pa.array([{"bytes": image, "path": "x.jpg"} for image in images])
    image = (cells, pa.array(images), pa.array([f"{row}.jpg" for row in range(8)]))[number % 3]
    label = (pa.array([0, 1, 2, 1] * 2), pa.array(list("abca") * 2), pa.array([0.0, 1.0, 2.0, 1.0] * 2))
    table = pa.table({"image": image, "label": label[number // 3 % 3], "caption": list("abcdefgh")})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": features})
    file = io.BytesIO()
    compression = ("none", "snappy", "zstd", "gzip")[number % 4]
    pq.write_table(table, file, row_group_size=3, compression=compression, store_schema=number % 2 == 0)
    return file.getvalue()


def mutated_parquet(rng: random.Random) -> bytes:
    """Return a mutated Parquet file, or one whose metadata were mutated before it was written."""
    if rng.random() < 0.2:
        info = json.dumps({"info": {"features": FEATURES}}).encode()
        return parquet_file(rng.randrange(36), mutated(info, rng))
    data = PARQUET[rng.randrange(len(PARQUET))]
    if rng.random() < 0.5:
        return mutated(data, rng)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return data[:-footer] + mutated(data[-footer:-8], rng, 2) + data[-8:]


PARQUET = [parquet_file(number) for number in range(36)]


def read_parquet(path: Path) -> None:
    source = open_parquet(path)
    for split in source.splits.values():
        count = len(split)
        assert count < 10**6
        split.fingerprint()
        split.labels(0, count)
        assert len(split.names(0, count)) == count
        images = split.request(0, count).read()
        assert len(images) == count
        assert all(isinstance(image, bytes | SampleError) for image in images)
    assert all(note.encode() for note in (*source.notes, *source.unused_labels))


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(2_000), marks=pytest.mark.slow, id="2,000")])
def test_fuzzing_parquet_files_at_a_url_gives_what_it_gives_locally(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "x.parquet"
    for seed in seeds:
        path.write_bytes(mutated_parquet(random.Random(seed)))
        local, remote = outcomes(path, "parquet")
        if isinstance(local, str):  # whose text Arrow words otherwise for a file object
            assert isinstance(remote, str), seed
        else:
            assert local == remote, seed


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_parquet_files(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "x.parquet"
    fill(tmp_path, "0.jpg")

    def read(content: object) -> None:
        assert isinstance(content, bytes)
        path.write_bytes(content)
        read_parquet(path)

    for data in PARQUET:
        read(data)
    refused = survive(mutated_parquet, read, SourceError, seeds)
    assert 0.1 * len(seeds) < refused < 0.95 * len(seeds)


ROWS = [["", "path", "label", "size"], *([str(n), f"{n}.jpg", f"class {n % 2}", "3"] for n in range(6))]
TABLES = [
    "\n".join(delimiter.join(row[first:last]) for row in ROWS[begin:]).encode(encoding)
    for delimiter in ",;\t"
    for first, last, begin in ((0, 4, 0), (1, 3, 0), (1, 3, 1))
    for encoding in ("utf-8", "utf-8-sig", "utf-16")
]


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_labels_files(tmp_path: Path, seeds: range) -> None:
    path, root = tmp_path / "labels.csv", tmp_path / "images"
    fill(root, *(f"{number}.jpg" for number in range(6)))

    def read(content: object) -> None:
        assert isinstance(content, bytes)
        path.write_bytes(content)
        source = open_imagefolder(root, path)
        assert source.splits["train"].labels(0, 6) is not None
        assert all(note.encode() for note in source.notes)

    for table in TABLES:
        read(table)
    refused = survive(lambda rng: mutated(rng.choice(TABLES), rng), read, SourceError, seeds)
    assert 0.2 * len(seeds) < refused < 0.95 * len(seeds)


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_annotations_beside_a_folder_of_images(tmp_path: Path, seeds: range) -> None:
    root = tmp_path / "root"
    fill(
        root,
        *(f"train/class {n}/images/{n}.jpg" for n in range(2)),
        *(f"val/images/{n}.jpg" for n in range(6)),
    )
    rows = b"".join(b"%d.jpg\tclass %d\t0\t0\t62\t62\n" % (number, number % 2) for number in range(6))

    def read(content: object) -> None:
        assert isinstance(content, bytes)
        (root / "val/val_annotations.txt").write_bytes(content)
        assert open_imagefolder(root).splits["val"].labels(0, 6) is not None

    read(rows)
    refused = survive(lambda rng: mutated(rows, rng), read, SourceError, seeds)
    assert 0.1 * len(seeds) < refused < 0.95 * len(seeds)


def mask_file(number: int) -> bytes:
    """Return one of several label maps of 12 x 10 pixels as PNG."""
    file, values = io.BytesIO(), np.random.default_rng(number).integers(0, 2, (10, 12))
    if number % 4 == 0:
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(bytes(768))
    elif number % 4 == 1:
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = Image.fromarray(values.astype(bool) if number % 4 == 2 else values.astype(np.uint8))
    image.save(file, "PNG")
    return file.getvalue()


MASKS = [mask_file(number) for number in range(4)]


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_label_maps(seeds: range) -> None:
    decoder = MaskDecoder(ImageOptions(8), 8)
    out = np.empty(decoder.shape, np.uint8)

    def read(content: object) -> None:
        assert isinstance(content, bytes)
        decoder.decode(content, 12, 10, out)

    for mask in MASKS:
        read(mask)
    refused = survive(lambda rng: mutated(rng.choice(MASKS), rng), read, SampleError, seeds)
    assert 0.1 * len(seeds) < refused
