"""Pictures of samples, decoded from their codes, as the bytes of image files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError, Parameter, TokenizerError, did_you_mean
from tokenstore.format import Manifest
from tokenstore.tokenizers import FileTokenizer, Tokenizer
from tokenstore.tokenizers.decoded import decoded_images

__all__ = ["FORMATS", "Pictures"]

FORMATS: Mapping[str, Mapping[str, Any]] = {"jpeg": {"quality": 90}, "png": {}}
"""The formats of pictures, and how each is saved."""
_BATCH = 32
_NBYTES = 2**14
"""The bytes of a picture, about."""


class Pictures:
    """A drawer of samples' pictures by the tokenizer that made the codes.

    `side` is the longer side of a picture in pixels, by default that of the decoded image. Raises
    ArgumentError for an unknown format, and TokenizerError for a tokenizer that decodes from more than codes.
    """

    nbytes = _NBYTES

    def __init__(self, tokenizer: Tokenizer, format: str = "jpeg", side: int | None = None) -> None:
        if format not in FORMATS:
            named = Parameter("picture_format", format)
            raise ArgumentError(
                f"{named}: expected {' or '.join(FORMATS)}{did_you_mean(format, FORMATS)}", parameters=[named]
            )
        if isinstance(tokenizer, FileTokenizer) and tokenizer.columns:
            raise TokenizerError(
                f"{tokenizer.name}: decodes its codes with the columns {', '.join(tokenizer.columns)}, so "
                "that pictures cannot be drawn of the codes alone"
            )
        self._tokenizer = tokenizer
        self.format = format
        self.side = side

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        tokenizer: str | Tokenizer | None,
        device: str,
        format: str,
        side: int | None,
    ) -> Pictures:
        """Return the drawer for a store; raise TokenizerError if its tokenizer is not known."""
        from tokenstore.tokenizers.store_tokenizer import fitted, tokenizer_of

        if tokenizer is None or isinstance(tokenizer, str):
            return cls(tokenizer_of(manifest, tokenizer, device), format, side)
        return cls(fitted(manifest, tokenizer, trusted=True), format, side)

    def draw(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the pictures of codes (n, *grid) as bytes (n,)."""
        pictures: npt.NDArray[Any] = np.empty(len(codes), object)
        for start in range(0, len(codes), _BATCH):
            images = decoded_images(self._tokenizer, codes[start : start + _BATCH])
            if images.ndim == 5:  # of a video, the frame in its middle
                images = images[:, images.shape[1] // 2]
            for place, image in enumerate(images, start):
                pictures[place] = self._saved(image)
        return pictures

    def _saved(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        from PIL import Image

        image = Image.fromarray(pixels)
        if self.side is not None:
            image.thumbnail((self.side, self.side))
        file = io.BytesIO()
        image.save(file, self.format.upper(), **FORMATS[self.format])
        return file.getvalue()
