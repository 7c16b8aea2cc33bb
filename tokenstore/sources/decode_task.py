"""The task of a decode process: requests for neighbouring samples in, pixels and the outcome of each out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import SampleError
from tokenstore.sources.base import FetchedRequest, ImageRequest, MaskRequest, PlacedRequest
from tokenstore.sources.images import Decoder, Pixels
from tokenstore.sources.masks import MaskDecoder

__all__ = ["DecodeTask", "Decoders", "ImageFacts", "Inputs", "Outcomes", "Records", "decode_task"]


@dataclass(frozen=True)
class ImageFacts:
    """The size of an upright image in pixels, and of its file in bytes."""

    width: int
    height: int
    nbytes: int


Inputs: TypeAlias = npt.NDArray[Any]
Outcomes: TypeAlias = list[ImageFacts | SampleError]
Records: TypeAlias = npt.NDArray[Any]
"""The results of decoding, (n,), with the fields `input` and, with label maps, `mask`."""


@dataclass(frozen=True)
class Decoders:
    """The decoders of one conversion."""

    images: Decoder
    masks: MaskDecoder | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of a record."""
        fields: list[Any] = [("input", self.images.dtype, self.images.shape)]
        if self.masks is not None:
            fields.append(("mask", np.uint8, self.masks.shape))
        return np.dtype(fields, align=True)


@dataclass(frozen=True)
class DecodeTask:
    """The requests for neighbouring samples [start, stop), small and picklable: the work of one process."""

    start: int
    stop: int
    images: ImageRequest
    masks: MaskRequest | None = None

    @property
    def is_remote(self) -> bool:
        """True if images or label maps come over a network."""
        requests = self.images, self.masks
        return any(isinstance(request, PlacedRequest) and request.is_remote for request in requests)

    @property
    def fetched_nbytes(self) -> int:
        """The bytes of images that were fetched already, and are in memory."""
        return self.images.nbytes if isinstance(self.images, FetchedRequest) else 0

    @property
    def is_shared(self) -> bool:
        """True if the images are best fetched together with those of the neighbouring tasks."""
        return isinstance(self.images, PlacedRequest) and self.images.is_shared


def decode_task(task: DecodeTask, decoders: Decoders, records: Records) -> Outcomes:
    """Decode a task's samples into `records` (n,), and return the outcome of each."""
    outcomes = _decode_images(task.images, decoders.images, records["input"])
    if task.masks is None or decoders.masks is None:
        return outcomes
    return _decode_masks(task.masks, decoders.masks, records["mask"], outcomes)


def _decode_images(request: ImageRequest, decoder: Decoder, inputs: Inputs) -> Outcomes:
    outcomes: Outcomes = []
    for position, data in enumerate(request.read()):
        if isinstance(data, SampleError):
            outcomes.append(data)
            continue
        try:
            width, height = decoder.decode(data, inputs[position])
        except SampleError as error:
            outcomes.append(error)
            continue
        outcomes.append(ImageFacts(width, height, len(data)))
    return outcomes


def _decode_masks(request: MaskRequest, decoder: MaskDecoder, masks: Pixels, outcomes: Outcomes) -> Outcomes:
    """Decode the label maps of the good images, and return the outcomes of both."""
    both: Outcomes = []
    for position, (data, outcome) in enumerate(zip(request.read(), outcomes, strict=True)):
        if isinstance(outcome, SampleError):
            both.append(outcome)
            continue
        try:
            if isinstance(data, SampleError):
                raise data
            decoder.decode(data, outcome.width, outcome.height, masks[position])
            both.append(outcome)
        except SampleError as error:
            both.append(SampleError(f"label map {request.where(position)}: {error}"))
    return both
