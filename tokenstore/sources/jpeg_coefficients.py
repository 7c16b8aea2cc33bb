"""The quantised DCT coefficients of JPEG files, which the tokenizer `dct` reads instead of pixels.

This module runs in decode processes, so it imports no torch. Sections and tables are those of ITU-T T.81
(https://www.w3.org/Graphics/JPEG/itu-t81.pdf).

subtle: libjpeg does not defend itself against hostile files. So it reads only a copy without application data
and comments, and only after another decoder has decoded that copy to its end without a complaint.
"""

from __future__ import annotations

import io
import math
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jpeglib  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from typing_extensions import override

from tokenstore.errors import SampleError
from tokenstore.sources.images import Decoder, ImageOptions, Pixels, decode_image

Sampling: TypeAlias = Literal["420", "444"]
Blocks: TypeAlias = npt.NDArray[np.int16]
Tables: TypeAlias = npt.NDArray[np.uint16]
Planes: TypeAlias = npt.NDArray[Any]

BLOCK = 8
"""The side of a block in pixels."""
COEFFICIENTS = BLOCK * BLOCK
COMPONENTS = 3
LARGEST = 1023
SMALLEST = np.array([-1024] + [-1023] * (COEFFICIENTS - 1), np.int16)
"""The least value of each coefficient of a block of 8-bit JPEG, in zigzag order; the greatest is LARGEST. No
Huffman code exists for values outside (T.81, F.1.2)."""
LARGEST_SIDE = 65_500
"""The largest side in pixels of an image that libjpeg writes."""


def _zigzag() -> npt.NDArray[np.intp]:
    rows, columns = np.divmod(np.arange(COEFFICIENTS), BLOCK)
    diagonals = rows + columns
    return np.lexsort((np.where(diagonals % 2, rows, columns), diagonals))


ZIGZAG = _zigzag()
"""The row-major index of each coefficient of a block, from low to high frequencies (T.81, figure A.6)."""
_ROW_MAJOR = np.argsort(ZIGZAG)


@dataclass(frozen=True)
class Coefficients:
    """The quantised coefficients of an image and the tables they are multiples of, in zigzag order."""

    blocks: tuple[Blocks, ...]
    """Blocks (rows, columns, 64) of each component: Y alone, or Y, Cb and Cr."""
    tables: Tables
    """The quantisation tables (components, 64)."""


@dataclass(frozen=True)
class JpegFile:
    """A JPEG file whose coefficients can be read: 8 bits, Huffman-coded, sequential or progressive."""

    data: bytes
    """The file without application data, comments, and bytes after its end."""
    height: int
    width: int
    factors: tuple[tuple[int, int], ...]
    """The vertical and horizontal sampling factor of each of 1 or 3 components."""
    tables: Tables

    def is_sampled(self, sampling: Sampling) -> bool:
        """Return whether the blocks have the order of this sampling; grey images always have."""
        if len(self.factors) == 1:
            return True
        scale = {"420": 2, "444": 1}[sampling]
        luma, blue, red = self.factors
        return blue == red and luma == (scale * blue[0], scale * blue[1])

    def pixels(self) -> Pixels | None:
        """Decode RGB pixels (H, W, 3); return None if a strict decoder complains."""
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(self.data, "RGB", fastdct=False, fastupsample=False)
        except ValueError:
            return None
        return pixels if pixels.shape == (self.height, self.width, COMPONENTS) else None

    def coefficients(self) -> Coefficients:
        """Read the coefficients of the file; raise OSError if libjpeg cannot.

        subtle: only for files that `pixels` decodes.
        """
        colour = len(self.factors) == COMPONENTS
        jpeg = jpeglib.DCTJPEG(
            path=None,
            content=self.data,
            height=self.height,
            width=self.width,
            block_dims=np.array(self._blocks_per_side()),
            samp_factor=np.array(self.factors),
            markers=[],
            huffmans=[],
            jpeg_color_space=jpeglib.JCS_YCbCr if colour else jpeglib.JCS_GRAYSCALE,
            progressive_mode=None,
            num_scans=None,
            **dict.fromkeys(("Y", "Cb", "Cr", "K", "qt", "quant_tbl_no")),
        )
        luma, (blue, red), _ = jpeg.load()
        components = (luma, blue, red) if colour else (luma,)
        blocks = (component.reshape(*component.shape[:2], COEFFICIENTS) for component in components)
        return Coefficients(tuple(component[..., ZIGZAG] for component in blocks), self.tables)

    def _blocks_per_side(self) -> list[tuple[int, int]]:
        """Return each component's height and width in blocks, part-filled ones too (T.81, A.1.1, A.2.4)."""
        high, wide = (BLOCK * max(factors) for factors in zip(*self.factors, strict=True))
        return [
            (-(-self.height * down // high), -(-self.width * across // wide)) for down, across in self.factors
        ]


def parse_jpeg(data: bytes) -> JpegFile | None:
    """Parse a JPEG file's headers; return None for other or damaged files, and for rare features."""
    try:
        return _parse(data)
    except (IndexError, KeyError, ValueError):
        return None


_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_AFTER_A_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_SOI = b"\xff\xd8"
_EOI, _SOS, _DQT, _DHT, _DRI, _COM = 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xFE
_SOF = (0xC0, 0xC1, 0xC2)
_APP = range(0xE0, 0xF0)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the marker, parameters, and a scan's entropy-coded data of each segment (T.81, B.1)."""
    position = len(_SOI)
    while match := _MARKER.match(data, position):
        marker = match[1][0]
        if marker == _EOI:
            return
        start = match.end() + 2
        stop = position = match.end() + int.from_bytes(data[match.end() : start])
        if marker == _SOS:
            after = _AFTER_A_SCAN.search(data, stop)
            position = after.start() if after else len(data)
        yield marker, data[start:stop], data[stop:position]
    raise ValueError(f"expected a marker at byte {position}")


def _parse(data: bytes) -> JpegFile | None:
    if not data.startswith(_SOI):
        return None
    tables: dict[int, Tables] = {}
    codes: set[int] = set()
    parts, frame, scans = [_SOI], b"", 0
    for marker, parameters, scan in _segments(data):
        if marker in _APP or marker == _COM:
            continue
        if marker == _DQT and not scans:  # subtle: later tables would apply to later scans only
            tables |= _read_tables(parameters)
        elif marker == _DHT:
            codes |= _huffman_codes(parameters)
        elif marker in _SOF and not frame:
            frame = parameters
        elif marker == _SOS and _codes_of_scan(parameters) <= codes:
            scans += 1
        elif marker != _DRI:
            return None
        parts += [bytes((0xFF, marker)), (len(parameters) + 2).to_bytes(2), parameters, scan]
    precision, height, width = frame[0], int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    components = [frame[start : start + 3] for start in range(6, len(frame), 3)]
    if precision != 8 or len(components) != frame[5] or frame[5] not in (1, COMPONENTS) or not scans:
        return None
    factors = tuple((component[1] & 15, component[1] >> 4) for component in components)
    if not (height and width and all(down and across for down, across in factors)):
        return None
    of_components = np.stack([tables[component[2]] for component in components])
    return JpegFile(b"".join((*parts, bytes((0xFF, _EOI)))), height, width, factors, of_components)


def _read_tables(parameters: bytes) -> dict[int, Tables]:
    """Parse quantisation tables by their number (T.81, B.2.4.1)."""
    tables = {}
    while parameters:
        dtype = np.dtype((">u1", ">u2")[parameters[0] >> 4])
        end = 1 + COEFFICIENTS * dtype.itemsize
        values = np.frombuffer(parameters[1:end], dtype).astype(np.uint16)
        tables[parameters[0] & 15] = values.reshape(COEFFICIENTS)
        parameters = parameters[end:]
    return tables


def _huffman_codes(parameters: bytes) -> set[int]:
    """Return class (0 for DC, 16 for AC) + number of each table of Huffman codes (T.81, B.2.4.2)."""
    tables = set()
    while parameters:
        tables.add(parameters[0])
        parameters = parameters[17 + sum(parameters[1:17]) :]
    return tables


def _codes_of_scan(parameters: bytes) -> set[int]:
    """Return class + number of each table of Huffman codes that a scan uses (T.81, B.2.3)."""
    tables = parameters[2 : 2 + 2 * parameters[0] : 2]
    first, last = parameters[-3], parameters[-2]
    dc = {number >> 4 for number in tables if first == 0}
    return dc | {16 + (number & 15) for number in tables if last > 0}


def encode_jpeg(pixels: Pixels, quality: int, sampling: Sampling) -> JpegFile:
    """Encode RGB pixels (H, W, 3) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=":".join(sampling))
    jpeg = parse_jpeg(file.getvalue())
    assert jpeg is not None
    return jpeg


def write_jpeg(coefficients: Coefficients) -> bytes:
    """Encode the coefficients of Y, Cb and Cr, clipped to their range, as a baseline JPEG file."""
    luma, blue, red = (_in_rows(part.clip(SMALLEST, LARGEST)) for part in coefficients.blocks)
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        path = Path(folder, "image.jpeg")
        jpeglib.from_dct(luma, blue, red, qt=_in_rows(coefficients.tables)).write_dct(str(path))
        return path.read_bytes()


def _in_rows(zigzag: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values (..., 64) in zigzag order as blocks (..., 8, 8)."""
    rows: npt.NDArray[Any] = np.take(zigzag, _ROW_MAJOR, axis=-1)  # subtle: jpeglib wants it contiguous
    return rows.reshape(*rows.shape[:-1], BLOCK, BLOCK)


@dataclass(frozen=True)
class PlaneLayout:
    """The coefficients of an MCU that are encoded, each as one plane (H / stride, W / stride).

    The planes of each luma block come first, row by row, then those of Cb, then those of Cr; low frequencies
    come first.
    """

    y: int
    """The number of coefficients of a luma block."""
    cb: int
    """The number of coefficients of a block of Cb."""
    cr: int
    """The number of coefficients of a block of Cr."""
    sampling: Sampling

    @property
    def luma_side(self) -> int:
        """The number of luma blocks on a side of an MCU."""
        return 2 if self.sampling == "420" else 1

    @property
    def stride(self) -> int:
        """The side of an MCU in pixels."""
        return BLOCK * self.luma_side

    @property
    def planes(self) -> int:
        """The number of planes."""
        return sum(self._counts)

    @property
    def _counts(self) -> tuple[int, int, int]:
        """The number of planes of Y, Cb and Cr."""
        return self.luma_side**2 * self.y, self.cb, self.cr

    def places_in_tables(self) -> npt.NDArray[np.int64]:
        """Return the place of each plane's factor (n,) in flat quantisation tables (3 * 64,)."""
        luma = np.tile(np.arange(self.y), self.luma_side**2)
        return np.concatenate(
            [luma, COEFFICIENTS + np.arange(self.cb), 2 * COEFFICIENTS + np.arange(self.cr)]
        )

    def pack(self, blocks: tuple[Blocks, ...]) -> Planes:
        """Return the planes (n, h, w) of the blocks of one image."""
        sides, counts = (self.luma_side, 1, 1), (self.y, self.cb, self.cr)
        return np.concatenate(
            [_pack(part, side, count) for part, side, count in zip(blocks, sides, counts, strict=True)]
        )

    def unpack(self, planes: Planes) -> tuple[Blocks, ...]:
        """Return the blocks of one image from its planes (n, h, w); coefficients without a plane are 0."""
        parts = np.split(planes, np.cumsum(self._counts)[:-1])
        sides = (self.luma_side, 1, 1)
        return tuple(_unpack(part, side) for part, side in zip(parts, sides, strict=True))

    def tables(self, inputs: npt.NDArray[Any]) -> Tables:
        """Return the quantisation tables (B, 3, 64) of a batch of inputs that CoefficientDecoder made."""
        tables = inputs[:, self.planes :]
        flat = tables.reshape(len(tables), math.prod(tables.shape[1:]))[:, : COMPONENTS * COEFFICIENTS]
        return flat.reshape(len(tables), COMPONENTS, COEFFICIENTS).astype(np.uint16)


def _pack(blocks: Blocks, side: int, count: int) -> Planes:
    rows, columns, _ = blocks.shape
    mcus = blocks[..., :count].reshape(rows // side, side, columns // side, side, count)
    return mcus.transpose(1, 3, 4, 0, 2).reshape(side * side * count, rows // side, columns // side)


def _unpack(planes: Planes, side: int) -> Blocks:
    plane_count, height, width = planes.shape
    count = plane_count // side**2
    blocks = np.zeros((height * side, width * side, COEFFICIENTS), np.int16)
    mcus = planes.reshape(side, side, count, height, width).transpose(3, 0, 4, 1, 2)
    blocks[..., :count] = mcus.reshape(height * side, width * side, count)
    return blocks


@dataclass(frozen=True)
class CoefficientDecoder(Decoder):
    """The decoder of the tokenizer `dct`: coefficient planes, then planes that hold the tables.

    A JPEG file of the right sampling, whose pixels are those of the input, gives its own coefficients. The
    pixels of any other image are encoded as a JPEG file of `quality` first.
    """

    options: ImageOptions
    layout: PlaneLayout
    quality: int

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        height, width = (side // self.layout.stride for side in (self.options.height, self.options.width))
        table_planes = -(-COMPONENTS * COEFFICIENTS // (height * width))
        return (self.layout.planes + table_planes, height, width)

    @property
    @override
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32)

    @override
    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        image = decode_image(data, self.options)
        coefficients = self._as_in_file(data, image.pixels)
        if coefficients is None:
            coefficients = encode_jpeg(image.pixels, self.quality, self.layout.sampling).coefficients()
        _check_range(coefficients)
        coefficients = _in_colour(coefficients, self.layout)
        out[: self.layout.planes] = self.layout.pack(coefficients.blocks)
        tables = out[self.layout.planes :]
        tables[:] = np.resize(coefficients.tables, tables.shape)
        return image.width, image.height

    def _as_in_file(self, data: bytes, pixels: Pixels) -> Coefficients | None:
        """Return the file's own coefficients, or None if the file is no JPEG file of these pixels."""
        jpeg = parse_jpeg(data)
        if jpeg is None or (jpeg.height, jpeg.width) != pixels.shape[:2]:
            return None
        if not jpeg.is_sampled(self.layout.sampling):
            return None
        decoded = jpeg.pixels()
        # subtle: equal pixels rule out whatever else headers can ask for: EXIF turns, other colour spaces
        if decoded is None or not np.array_equal(decoded, pixels):
            return None
        try:
            return jpeg.coefficients()
        except OSError:
            return None


def _check_range(coefficients: Coefficients) -> None:
    for component in coefficients.blocks:
        if (component < SMALLEST).any() or (component > LARGEST).any():
            raise SampleError(
                f"expected DCT coefficients of 8-bit JPEG, {SMALLEST.min()} to {LARGEST}, found "
                f"{component.min()} to {component.max()}; save the image again"
            )


def _in_colour(coefficients: Coefficients, layout: PlaneLayout) -> Coefficients:
    """Add colours of zeros, with tables of ones, to the luma of a grey image."""
    if len(coefficients.blocks) == COMPONENTS:
        return coefficients
    luma = coefficients.blocks[0]
    rows, columns, _ = luma.shape
    no_colour = np.zeros((rows // layout.luma_side, columns // layout.luma_side, COEFFICIENTS), np.int16)
    ones = np.ones((COMPONENTS - 1, COEFFICIENTS), np.uint16)
    return Coefficients((luma, no_colour, no_colour), np.concatenate([coefficients.tables, ones]))
