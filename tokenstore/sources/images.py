"""The decoder of encoded images: any ordinary file in, RGB pixels of one size out.

Decoding runs in processes of its own, so this module imports only NumPy, Pillow and simplejpeg. The pixels
equal those of Pillow alone, bit for bit; simplejpeg is faster. With `fast_decode` libjpeg computes large JPEG
images at a fraction of their size, and the pixels are nearly those.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from typing_extensions import override

from tokenstore.errors import SampleError
from tokenstore.sources.ancillary import readings
from tokenstore.sources.options import MAX_PIXELS, ImageOptions, Resize
from tokenstore.sources.png_rows import check_rows

Pixels: TypeAlias = npt.NDArray[np.uint8]

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "DecodedImage",
    "Decoder",
    "ImageOptions",
    "PixelDecoder",
    "Pixels",
    "Placement",
    "Resize",
    "check_pixels",
    "decode_image",
    "decoding_reason",
    "load_image",
    "pillow_limits",
    "place",
    "resized",
    "upright",
]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The formats that are read, by Pillow's names. Others are refused: one of them (EPS) starts a program."""

EXTENSIONS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "avif"),
    )
)
"""The endings of file names, in lower case and without the dot, that make a file an image."""

_EIGHTHS = (1, 2, 3, 4)
"""The scales, in eighths, at which `fast_decode` decodes. Larger ones gain nothing."""
_SPARE = 2
"""The least ratio of the sides of an image that is decoded at a reduced scale to those of its input."""
_STRIP_PIXELS = 2**20
"""The pixels with transparency that are drawn at a time."""
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
_ON_THEIR_SIDE = (5, 6, 7, 8)
"""The orientations of images whose width is their height in the file."""
_TURNED = {
    **dict.fromkeys((2, 6), (True, False)),
    **dict.fromkeys((3, 7), (True, True)),
    **dict.fromkeys((4, 8), (False, True)),
}
"""The orientations of upright images whose columns, or rows, are those of the file in reverse."""


class Placement(NamedTuple):
    """The geometry of a resize: the part of an image that is drawn, and the part of an input under it."""

    box: tuple[float, float, float, float]
    """The left, top, right and bottom of the image's part, in pixels of the image."""
    corner: tuple[int, int]
    """The left and top of the input's part, in pixels of the input."""
    size: tuple[int, int]
    """The width and height of the input's part, in pixels of the input."""


@dataclass(frozen=True)
class DecodedImage:
    """An image as the input of a tokenizer, with the size of the file's image."""

    pixels: Pixels
    """The RGB pixels (H, W, 3) uint8 of the requested size, writable."""
    width: int
    """The width in pixels of the file's image, after its EXIF orientation."""
    height: int
    """The height in pixels of the file's image, after its EXIF orientation."""


class _Loaded(NamedTuple):
    """An upright RGB image, maybe at a reduced scale, and the upright size of the file's image."""

    image: Image.Image
    width: int
    height: int
    eighths: int = 8
    """The scale of `image`, in eighths."""
    corner: tuple[float, float] = (0, 0)
    """The left and top in `image` of the file's image, by parts of the last pixels of turned rows."""


class Decoder(Protocol):
    """A decoder of image files to a tokenizer's inputs.

    A decoder runs in decode processes, so it is small, picklable, and imports no torch.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an input."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of an input."""

    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        """Fill `out` with the input of an image file, and return the image's width and height in pixels.

        Raises SampleError for a file that cannot be decoded.
        """


@dataclass(frozen=True)
class PixelDecoder(Decoder):
    """The decoder of tokenizers that encode pixels: RGB (H, W, 3) uint8."""

    options: ImageOptions

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return (self.options.height, self.options.width, 3)

    @property
    @override
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @override
    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        image = decode_image(data, self.options)
        out[:] = image.pixels
        return image.width, image.height


def decode_image(data: bytes, options: ImageOptions) -> DecodedImage:
    """Decode an image file, turn it upright, make it RGB and resize it.

    Animations give their first frame. Transparency is drawn over white. 16-bit values lose their low byte.

    Raises SampleError with the reason, in one line, for anything that cannot be decoded in full.
    """
    loaded = _load(data, options.max_pixels, options if options.fast_decode else None)
    try:
        pixels = np.array(_resized(loaded, options))
    except Exception as error:
        raise SampleError(decoding_reason(error)) from error
    return DecodedImage(pixels, loaded.width, loaded.height)


def load_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file as an upright RGB image of its own size.

    Raises SampleError with the reason, in one line, for anything that cannot be decoded in full.
    """
    return _load(data, max_pixels).image


def _load(data: bytes, max_pixels: int, reduced: ImageOptions | None = None) -> _Loaded:
    """Decode an image file, a large JPEG image at a scale that is enough for inputs of options `reduced`."""
    last: Exception | None = None
    for reading in readings(data):
        try:
            return _decode(reading, max_pixels, reduced)
        except SampleError:
            raise
        except Exception as error:
            last = error
    assert last is not None
    is_unknown = isinstance(last, UnidentifiedImageError)
    raise SampleError(_unidentified(data) if is_unknown else decoding_reason(last)) from last


def _decode(data: bytes, max_pixels: int, reduced: ImageOptions | None) -> _Loaded:
    with pillow_limits(max_pixels):
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_pixels(image, max_pixels)
        if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
            image.load()
            check_rows(data, image)
            return _whole(_decode_with_pillow(image))
        orientation = _orientation(image)
    eighths = 8 if reduced is None else _enough_eighths(image.size, orientation, reduced)
    pixels = _decode_jpeg(data, image.height, image.width, eighths)
    if pixels is not None:
        return _scaled(_turn(Image.fromarray(pixels), orientation), image.size, orientation, eighths)
    with pillow_limits(max_pixels):
        return _whole(_decode_with_pillow(image))


def _whole(image: Image.Image) -> _Loaded:
    return _Loaded(image, image.width, image.height)


def _scaled(image: Image.Image, size: tuple[int, int], orientation: Any, eighths: int) -> _Loaded:
    """Return an upright image that was decoded at a scale, of a file's image of a size (width, height)."""
    size = size[::-1] if orientation in _ON_THEIR_SIDE else size
    # subtle: the last column has a part of a pixel to spare, and the first one has it once rows are turned
    spare = [image.size[axis] - size[axis] * eighths / 8 for axis in (0, 1)]
    turned = _TURNED.get(orientation, (False, False))
    return _Loaded(image, *size, eighths, (spare[0] * turned[0], spare[1] * turned[1]))


def _enough_eighths(size: tuple[int, int], orientation: Any, options: ImageOptions) -> int:
    """Return the least scale, in eighths, at which an image has `_SPARE` times the sides of its input."""
    width, height = size[::-1] if orientation in _ON_THEIR_SIDE else size
    box, _, (columns, rows) = place(width, height, options)
    least = _SPARE * max(columns / (box[2] - box[0]), rows / (box[3] - box[1]))
    return next((eighths for eighths in _EIGHTHS if eighths / 8 >= least), 8)


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    """Raise SampleError for an image, not yet decoded, of more pixels than allowed."""
    if image.width * image.height > max_pixels:
        raise SampleError(f"{image.width} x {image.height} is more than the {max_pixels} pixels allowed")


def _decode_jpeg(data: bytes, height: int, width: int, eighths: int = 8) -> Pixels | None:
    """Return RGB pixels (H, W, 3), or None if Pillow has to decide whether the file can be decoded."""
    rows, columns = (-(-side * eighths // 8) for side in (height, width))
    least = {} if eighths == 8 else {"min_height": rows, "min_width": columns}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, **least)
    except ValueError:
        return None
    return pixels if pixels.shape == (rows, columns, 3) else None


def _decode_with_pillow(image: Image.Image) -> Image.Image:
    # subtle: Pillow turns some formats upright while it loads them, and then drops the tag
    image.load()
    orientation = _orientation(image)
    # Pillow stretches grey PPM of more than 8 bits to 0..65535, in 32 bits
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise SampleError(
            f"pixels of 32 bits (Pillow mode {image.mode}) have no agreed range; save as 8 or 16 bits",
        )
    elif image.has_transparency_data:
        image = _over_white(image)
    return _turn(image if image.mode == "RGB" else image.convert("RGB"), orientation)


def _over_white(image: Image.Image) -> Image.Image:
    """Draw an image with transparency over white, as RGB; in strips, which bound the memory."""
    drawn = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        drawn.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return drawn


def upright(image: Image.Image) -> Image.Image:
    """Load an image and turn it upright, by its EXIF orientation."""
    image.load()  # subtle: some formats are turned while they load, which drops the tag
    return _turn(image, _orientation(image))


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation, 1 to 8, or None."""
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return None


def _turn(image: Image.Image, orientation: Any) -> Image.Image:
    """Turn an image upright.

    `PIL.ImageOps.exif_transpose` gives the same pixels, but only for an image that carries its tag: pixels
    that simplejpeg decoded have none. It also raises for damaged EXIF, and writes the EXIF block anew.
    """
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def place(width: int, height: int, options: ImageOptions) -> Placement:
    """Return the placement of an image of that size in an input."""
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


def resized(image: Image.Image, options: ImageOptions) -> Image.Image:
    """Bring an RGB image to the size of the options, exactly as a conversion does."""
    return _resized(_whole(image), options)


def _resized(loaded: _Loaded, options: ImageOptions) -> Image.Image:
    if loaded.image.size == (options.width, options.height):
        return loaded.image
    placed = place(loaded.width, loaded.height, options)
    left, top, right, bottom = (edge * loaded.eighths / 8 for edge in placed.box)
    x, y = loaded.corner
    box = (left + x, top + y, right + x, bottom + y)
    fitted = loaded.image.resize(placed.size, Image.Resampling.BICUBIC, box=box)
    if options.resize != "pad":
        return fitted
    padded = Image.new("RGB", (options.width, options.height))
    padded.paste(fitted, placed.corner)
    return padded


_pillow_lock = threading.Lock()


@contextmanager
def pillow_limits(max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings and set its pixel limit while the block runs.

    subtle: both are state of the whole process, hence the lock. Decoding JPEG and resizing happen outside of
    it.
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
    """Return one line that says why Pillow could not decode a file."""
    text = " ".join(str(error).split()) if error.args else type(error).__name__
    return f"cannot be decoded: {text}"
