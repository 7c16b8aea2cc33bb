"""The tokenizer of quantised DCT coefficients, straight from JPEG files.

A code is a coefficient + 1,024. One position of the grid is one MCU of the JPEG file, 16 x 16 pixels with
4:2:0 sampling and 8 x 8 with 4:4:4, and each coefficient that is kept is one plane of the grid, as
`tokenstore.sources.jpeg_coefficients.PlaneLayout` has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.format import Column
from tokenstore.sources.images import Decoder, ImageOptions, decode_image
from tokenstore.sources.jpeg_coefficients import (
    COEFFICIENTS,
    COMPONENTS,
    LARGEST_SIDE,
    CoefficientDecoder,
    Coefficients,
    PlaneLayout,
    Sampling,
    Tables,
    encode_jpeg,
    write_jpeg,
)
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, check_codes, weights_fingerprint

FORMAT = "tokenstore.dct.1"
CODES = 2048
"""Codes of a plane: coefficients lie in -1,024..1,023."""
QUANTIZATION = "quantization"
"""The column of quantisation tables: they differ from file to file."""


@dataclass(frozen=True)
class DctOptions:
    """The options after the colon of `dct:y=15,cb=6`; a number alone means y, cb and cr."""

    y: int = 15
    """Coefficients of a luma block that are kept, from the lowest frequency on."""
    cb: int = 6
    cr: int = 6
    quality: int = 75
    """The quality of the JPEG file that an image becomes first, unless it is already a fitting one."""
    sampling: int = 420
    size: int = 256
    """The side in pixels that images are brought to unless the user says otherwise."""

    def __post_init__(self) -> None:
        """Check the values; raise TokenizerError for an option out of its range."""
        for name, low, high in (
            ("y", 1, COEFFICIENTS),
            ("cb", 0, COEFFICIENTS),
            ("cr", 0, COEFFICIENTS),
            ("quality", 1, 100),
            ("size", 1, LARGEST_SIDE),
        ):
            if not low <= getattr(self, name) <= high:
                raise TokenizerError(
                    f"dct: expected {name} to be in {low}..{high}, found {getattr(self, name)}"
                )
        if self.sampling not in (420, 444):
            raise TokenizerError(f"dct: expected sampling to be 420 or 444, found {self.sampling}")
        if self.size % self.layout.stride:
            raise TokenizerError(
                f"dct: expected size to be a multiple of {self.layout.stride}, found {self.size}"
            )

    @property
    def layout(self) -> PlaneLayout:
        """The layout of coefficient planes."""
        sampling: Sampling = "420" if self.sampling == 420 else "444"
        return PlaneLayout(self.y, self.cb, self.cr, sampling)

    @classmethod
    def from_text(cls, text: str) -> DctOptions:
        """Parse options; raise TokenizerError if the text is not `NUMBER` or `OPTION=NUMBER,...`."""
        values: dict[str, int] = {}
        known = [field.name for field in fields(cls)]
        for item in text.split(","):
            name, _, value = item.rpartition("=")
            names = [name] if name else ["y", "cb", "cr"]
            if not set(names) <= set(known) or not (value.isascii() and value.isdigit()):
                raise TokenizerError(
                    f"dct: expected a number, or OPTION=NUMBER with an option of {', '.join(known)}; found "
                    f"{item!r} in {text!r}"
                )
            if values.keys() & set(names):
                raise TokenizerError(f"dct: expected each option once, found {item!r} again in {text!r}")
            values |= dict.fromkeys(names, int(value))
        return cls(**values)


class DctTokenizer(ImageTokenizer):
    """The FileTokenizer and NumberTokenizer over JPEG coefficients.

    It computes on the CPU, whatever device is asked for.
    """

    name = "dct"
    codebook = None
    compiles = False
    columns: Mapping[str, Column] = {QUANTIZATION: Column(np.dtype(np.uint16), (COMPONENTS, COEFFICIENTS))}

    def __init__(self, options: DctOptions) -> None:
        super().__init__(nn.Identity())
        self.options = options
        self.layout = options.layout
        self.stride = self.layout.stride
        self.image_size = options.size
        self.codebook_sizes = (CODES,) * self.layout.planes
        # subtle: not the size, which a store's preprocessing holds: codes of equal options are comparable
        decisive = {name: getattr(options, name) for name in ("y", "cb", "cr", "quality", "sampling")}
        self.fingerprint = weights_fingerprint(f"{FORMAT}\n{json.dumps(decisive, sort_keys=True)}", {})

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> None:
        """None, as codes are exact."""
        return None

    def to(self, device: str | torch.device) -> Self:
        """Return this tokenizer, which stays on the CPU."""
        torch.device(device)  # raises for what is no device
        return self

    @override
    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        positions = super().grid(input_shape)
        if max(input_shape) > LARGEST_SIDE:
            raise TokenizerError(f"dct: expected sides up to {LARGEST_SIDE}, found {tuple(input_shape[1:])}")
        return positions

    def decoder(self, options: ImageOptions) -> Decoder:
        """Return the decoder of JPEG files to coefficient planes."""
        return CoefficientDecoder(options, self.layout, self.options.quality)

    def column_values(self, inputs: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the quantisation tables of a batch of inputs."""
        return {QUANTIZATION: self.layout.tables(inputs)}

    def encode(self, inputs: Tensor) -> Tensor:
        """Encode inputs of the decoder, int32, or images (B, 3, H, W) uint8.

        Raises TokenizerError where inputs are neither.
        """
        if inputs.dtype != torch.int32:
            return super().encode(inputs)
        self._check_inputs(tuple(inputs.shape))
        return self._codes(inputs[:, : self.layout.planes].cpu())

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        rgb = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        jpegs = [encode_jpeg(pixels, self.options.quality, self.layout.sampling) for pixels in rgb]
        return self._codes(
            torch.from_numpy(np.stack([self.layout.pack(jpeg.coefficients().blocks) for jpeg in jpegs]))
        )

    def numbers(self, codes: Tensor, quantization: Tensor | None = None) -> Tensor:
        """Return the dequantised coefficients (B, n, h, w) float32 of codes (B, *grid), on their device.

        `quantization` are the tables as of `decode`. Raises TokenizerError where codes or tables do not fit.
        """
        count, planes = len(codes), self.layout.planes
        axes = 3 if planes == 1 else 4
        if codes.is_floating_point() or codes.ndim != axes or (planes > 1 and codes.shape[1] != planes):
            raise TokenizerError(f"dct: expected codes of {planes} planes, found {tuple(codes.shape)}")
        coefficients = codes.view(count, planes, *codes.shape[-2:]).to(torch.float32) - CODES // 2
        return coefficients * self._factors(count, quantization, codes.device)

    def nearest_codes(self, numbers: Tensor, quantization: Tensor | None = None) -> Tensor:
        """Return the codes (B, *grid) int64 of dequantised coefficients (B, n, h, w); they may be cut off.

        `quantization` are the tables as of `decode`. Raises TokenizerError where tables do not fit.
        """
        factors = self._factors(len(numbers), quantization, numbers.device).clamp(min=1)
        codes = (numbers / factors).round().long().add(CODES // 2).clamp(0, CODES - 1)
        return codes if len(self.codebook_sizes) > 1 else codes.squeeze(1)

    def _factors(self, count: int, quantization: Tensor | None, device: torch.device) -> Tensor:
        """Return the factor (B, n, 1, 1) float32 of each plane of `count` samples."""
        tables = self._own_tables(count) if quantization is None else quantization
        if tables.shape != (count, COMPONENTS, COEFFICIENTS):
            raise TokenizerError(
                f"dct: expected quantization {(count, COMPONENTS, COEFFICIENTS)}, found {tuple(tables.shape)}"
            )
        places = torch.from_numpy(self.layout.places_in_tables()).to(device)
        return tables.to(device, torch.float32).flatten(1)[:, places, None, None]

    def _own_tables(self, count: int) -> Tensor:
        black = np.zeros((self.stride, self.stride, 3), np.uint8)
        tables = encode_jpeg(black, self.options.quality, self.layout.sampling).tables
        return torch.from_numpy(tables.astype(np.int32)).expand(count, -1, -1)

    def _codes(self, planes: Tensor) -> Tensor:
        codes = planes.to(torch.int64) + CODES // 2
        return codes if len(self.codebook_sizes) > 1 else codes.squeeze(1)

    def _check_inputs(self, shape: tuple[int, ...]) -> None:
        expected = f"(B, {self.layout.planes} planes and those of the tables, h, w)"
        if len(shape) == 4 and min(shape[2:]):
            size = (shape[2] * self.stride, shape[3] * self.stride)
            if shape[1:] == self.decoder(ImageOptions(size)).shape:
                return
        raise TokenizerError(
            f"dct: expected inputs {expected} int32 as its decoder gives them, found {shape}"
        )

    def decode(self, codes: Tensor, quantization: Tensor | npt.NDArray[Any] | None = None) -> Tensor:
        """Images (B, 3, H, W) uint8 of codes (B, *grid): what a JPEG file of these coefficients decodes to.

        `quantization` (B, 3, 64) are the tables in zigzag order, or those of the tokenizer's quality where it
        is None. Raises TokenizerError where codes or tables do not fit.
        """
        check_codes(self.name, codes, self.codebook_sizes)
        if not codes.numel():
            return super().decode(codes)
        self.grid((COMPONENTS, codes.shape[-2] * self.stride, codes.shape[-1] * self.stride))
        if quantization is None:
            return super().decode(codes)
        tables = _checked_tables(quantization, len(codes))
        return self.in_passes(
            lambda index: self._images(codes[index], tables[index.numpy()]), torch.arange(len(codes))
        )

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return self._images(codes, self._own_tables(len(codes)).numpy().astype(np.uint16))

    def _images(self, codes: Tensor, tables: Tables) -> Tensor:
        height, width = codes.shape[-2:]
        planes = (
            codes.cpu().reshape(-1, self.layout.planes, height, width).numpy().astype(np.int32) - CODES // 2
        )
        options = ImageOptions((height * self.stride, width * self.stride), max_pixels=LARGEST_SIDE**2)
        files = [
            write_jpeg(Coefficients(self.layout.unpack(each), table))
            for each, table in zip(planes, tables, strict=True)
        ]
        pixels = np.stack([decode_image(file, options).pixels for file in files])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _checked_tables(quantization: Tensor | npt.NDArray[Any], samples: int) -> Tables:
    tables = quantization.cpu().numpy() if isinstance(quantization, Tensor) else np.asarray(quantization)
    expected = (samples, COMPONENTS, COEFFICIENTS)
    if tables.dtype.kind not in "iu" or tables.shape != expected:
        raise TokenizerError(
            f"dct: expected quantization {expected} of an integer dtype, found {tables.shape} {tables.dtype}"
        )
    low, high = int(tables.min()), int(tables.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise TokenizerError(f"dct: expected quantization in 0..65535, found {low}..{high}")
    return tables.astype(np.uint16)


def load(argument: str | None) -> DctTokenizer:
    """Make the tokenizer of options, `y=15,cb=6,cr=6,quality=75,sampling=420,size=256`, or of one number."""
    return DctTokenizer(DctOptions() if argument is None else DctOptions.from_text(argument))
