"""Encoded images to pixels: any ordinary file in, RGB of one size out.

Decoding runs in processes of its own, so this module imports only numpy, Pillow and simplejpeg. The
pixels are those that Pillow alone would give, bit for bit; JPEG just gets there faster.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from tokenstore.errors import SampleError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Resize: TypeAlias = Literal["squash", "crop", "pad"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read. Others are refused: one of them (EPS) starts a program."""

EXTENSIONS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "avif"),
    )
)
"""File name endings, in lower case and without the dot, that say a file is an image."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageOptions:
    """How images are brought to one size; together with the file it decides every pixel.

    `squash` brings both sides to the size, `crop` takes the largest centred part of the size's shape,
    `pad` fits the whole image inside and fills up with black. All use Pillow's bicubic filter, and
    none touches an image that has the size already.
    """

    size: int | tuple[int, int]
    """Pixels: one number for a square, or (height, width)."""
    resize: Resize = "squash"
    max_pixels: int = 89_478_485
    """Images with more pixels are refused before they are decoded."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"image size: expected at least 1 pixel a side, got {self.size}")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize: expected one of {', '.join(get_args(Resize))}, got {self.resize!r}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels: expected at least 1, got {self.max_pixels}")

    @property
    def height(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[1]


class Placement(NamedTuple):
    """The geometry of a resize: which part of an image covers which part of an input."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the image's part, in its own pixels."""
    corner: tuple[int, int]
    """Left and top of the input's part, in pixels."""
    size: tuple[int, int]
    """Width and height of the input's part."""


@dataclass(frozen=True)
class DecodedImage:
    """An image as a tokenizer wants it, and the size that it had."""

    pixels: Pixels
    """RGB (H, W, 3) uint8 of the size asked for, writable."""
    width: int
    """Pixels of the file's image, as it is looked at: after its EXIF orientation."""
    height: int


class Decoder(Protocol):
    """Turns an image file into a tokenizer's input.

    It is small and picklable and knows no torch, for it runs in decode processes.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an input."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of an input."""

    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        """Fill `out` with the input and return the image's width and height; raises SampleError."""


@dataclass(frozen=True)
class PixelDecoder:
    """The Decoder of tokenizers that take pixels: RGB (H, W, 3) uint8."""

    options: ImageOptions

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.options.height, self.options.width, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        image = decode_image(data, self.options)
        out[:] = image.pixels
        return image.width, image.height


def decode_image(data: bytes, options: ImageOptions) -> DecodedImage:
    """Decode an image file, turn it upright, make it RGB and resize it.

    Animations give their first frame, transparency lies over white, 16-bit values lose their low byte.
    Raises SampleError with the reason, in one line, for anything that cannot be decoded in full.
    """
    image = load_image(data, options.max_pixels)
    try:
        pixels = np.array(_resize(image, options))
    except Exception as error:
        raise SampleError(decoding_reason(error)) from error
    return DecodedImage(pixels, image.width, image.height)


def load_image(data: bytes, max_pixels: int = ImageOptions(1).max_pixels) -> Image.Image:
    """An image file as an upright RGB image of its own size.

    Raises SampleError with the reason, in one line, for anything that cannot be decoded in full.
    """
    try:
        return _decode(data, max_pixels)
    except SampleError:
        raise
    except UnidentifiedImageError:
        raise SampleError(_unidentified(data)) from None
    except Exception as error:
        raise SampleError(decoding_reason(error)) from error


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    with pillow_to_ourselves(max_pixels):
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise SampleError(
                f"{image.width} x {image.height} is more than the {max_pixels} pixels allowed",
            )
        if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
            return _decode_with_pillow(image)
        orientation = _orientation(image)
    pixels = _decode_jpeg(data, image.height, image.width)
    if pixels is not None:
        return _turn(Image.fromarray(pixels), orientation)
    with pillow_to_ourselves(max_pixels):
        return _decode_with_pillow(image)


def _decode_jpeg(data: bytes, height: int, width: int) -> Pixels | None:
    """RGB pixels (H, W, 3), or None where Pillow has to decide whether the file can be decoded."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _decode_with_pillow(image: Image.Image) -> Image.Image:
    # subtle: Pillow turns some formats upright while it loads them and then drops the tag.
    image.load()
    orientation = _orientation(image)
    # Pillow stretches grey PPM of any depth above 8 bits to 0..65535 and holds it in 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise SampleError(
            f"pixels of 32 bits (Pillow mode {image.mode}) have no agreed range; save as 8 or 16 bits",
        )
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return _turn(image.convert("RGB"), orientation)


def upright(image: Image.Image) -> Image.Image:
    """An image, loaded, as it is looked at."""
    image.load()  # subtle: before the tag is read, as for images
    return _turn(image, _orientation(image))


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return None


def _turn(image: Image.Image, orientation: Any) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def place(width: int, height: int, options: ImageOptions) -> Placement:
    """Where an image of that size lands in an input."""
    whole = (0.0, 0.0, float(width), float(height))
    if options.resize == "squash":
        return Placement(whole, (0, 0), (options.width, options.height))
    if options.resize == "crop":
        scale = min(width / options.width, height / options.height)
        left, top = (width - scale * options.width) / 2, (height - scale * options.height) / 2
        return Placement((left, top, width - left, height - top), (0, 0), (options.width, options.height))
    scale = min(options.width / width, options.height / height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    corner = ((options.width - fitted[0]) // 2, (options.height - fitted[1]) // 2)
    return Placement(whole, corner, fitted)


def _resize(image: Image.Image, options: ImageOptions) -> Image.Image:
    if image.size == (options.width, options.height):
        return image
    placed = place(image.width, image.height, options)
    resized = image.resize(placed.size, Image.Resampling.BICUBIC, box=placed.box)
    if options.resize != "pad":
        return resized
    padded = Image.new("RGB", (options.width, options.height))
    padded.paste(resized, placed.corner)
    return padded


_pillow_lock = threading.Lock()


@contextmanager
def pillow_to_ourselves(max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings and lend it our pixel limit: both are state of the whole process.

    subtle: hence the lock. Decoding JPEG and resizing happen outside it.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _unidentified(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return f"not an image of a known format ({', '.join(FORMATS)}): it begins with {data[:12]!r}"


def decoding_reason(error: Exception) -> str:
    """One line that says why Pillow could not decode a file."""
    text = " ".join(str(error).split()) if error.args else type(error).__name__
    return f"cannot be decoded: {text}"
