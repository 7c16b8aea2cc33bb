"""Some samples of a segmenter as pictures: the image, the label map, and the predicted label map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seitpp_models.errors import ModelError
from tokenstore.audit import decode_samples, evenly_spaced
from tokenstore.audit.pictures import coloured_map
from tokenstore.audit.reconstruct import tokenizer_for
from tokenstore.format import MASKS
from tokenstore.reading import open_store

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MapPicture:
    """One sample of a segmenter."""

    row: int
    image: Images
    """The image that its codes decode to (H, W, 3)."""
    truth: Images
    """Its label map in colours (H, W, 3); pixels that do not count are white."""
    predicted: Images
    """The predicted label map in the same colours."""


def map_pictures(evaluation: dict[str, Any], predictions: Path, count: int) -> list[MapPicture]:
    """Draw some samples, evenly spaced, of the split that a segmenter was evaluated on.

    `predictions` is the file of label maps (N, h, w). Raises ModelError if it does not fit the store, and the
    errors of opening the store and its tokenizer.
    """
    if "store" not in evaluation:
        raise ModelError("label maps are drawn of a store, and the evaluation was on images")
    store = open_store(evaluation["store"])
    split = store[evaluation["split"]]
    maps = np.load(predictions, mmap_mode="r", allow_pickle=False)
    if len(maps) != len(split) or maps.ndim != 3:
        raise ModelError(f"{predictions}: expected {len(split)} label maps, found an array of {maps.shape}")
    rows = evenly_spaced(len(split), count)
    tokenizer = tokenizer_for(store.manifest, None, "cpu")
    images = decode_samples(store, split.name, rows, tokenizer, 8)
    size = (images.shape[1], images.shape[2])
    ignored = store.manifest.ignore_index
    truth = split.read(MASKS, rows)
    return [
        MapPicture(
            int(row),
            image,
            coloured_map(own, size, ignored),
            coloured_map(np.asarray(maps[row]), size, None),
        )
        for row, image, own in zip(rows.tolist(), images, truth, strict=True)
    ]
