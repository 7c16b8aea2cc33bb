"""A store written from the codes of your own loop: python tokens_from_a_loop.py codes.zarr."""

import sys
from collections.abc import Iterator

import numpy as np

import tokenstore

SAMPLES, GRID, CODES = 1000, (16, 16), 1024


def batches(skip: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yield codes (b, 16, 16), labels (b,) and captions of samples from `skip` on: put your model here."""
    for start in range(skip, SAMPLES, 128):
        number = np.arange(start, min(start + 128, SAMPLES))
        codes = (number[:, None, None] * 7 + np.arange(256).reshape(GRID)) % CODES
        yield codes, number % 10, [f"sample {n}" for n in number]


def main(path: str) -> None:
    """Write a store batch by batch; after a kill, the same call goes on after the samples that are safe."""
    names = [f"class {label}" for label in range(10)]
    with tokenstore.write(path, grid=GRID, codebook_size=CODES, class_names=names, resume=True) as writer:
        done = writer.samples.get("train", 0)
        for codes, labels, captions in batches(skip=done):
            writer.add(codes, labels, columns={"caption": captions})
    dataset = tokenstore.TokenDataset(path, columns=("tokens", "labels", "caption"))
    print(len(dataset), dataset[17][1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
