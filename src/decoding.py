"""Decode image files of known formats into arrays of one shape, without torch: training and the server share it."""

import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# PIL recognizes a file by its content and knows more formats: it starts Ghostscript for PostScript, for example
FORMATS: tuple[str, ...] = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM")
FORMATS = (*FORMATS, "QOI", "SGI", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000  # 400 MB while an image is decoded; a JPEG is reduced before that
Scale = tuple[float, float]  # the values of black and white in images with more than 8 bits per pixel


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats to read; HEIF (.heic) is one of them if pillow-heif is installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class ImageSizeError(ValueError):
    """An image that would take too much memory to decode."""


def decode(file: Any, shape: tuple[int, ...], scale: Scale | None = None) -> np.ndarray | str:
    """Return an image, of a path or stream, as (C, H, W), uint8, or an error message.

    The image is EXIF-rotated, composited on white, resized and center-cropped; of an animation, the first frame.
    ``scale`` has the values that become black and white if pixels have more than 8 bits; by default, the image's own.
    """
    pixels = read(file, shape)
    return pixels if isinstance(pixels, str) else to_8_bits(pixels, shape, scale)


def read(file: Any, shape: tuple[int, ...]) -> np.ndarray | str:
    """Return an image as (C, H, W), uint8, or as (1, H, W), float32, if its pixels are deep; or an error message."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return load(file, shape)
    except Exception as error:  # decoders raise any exception for damaged files, even MemoryError
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a readable image" if unknown else " ".join(str(error).split()) or type(error).__name__
        return f"cannot decode {file}: {reason[:200]}"


def load(file: Any, shape: tuple[int, ...], max_pixels: int | None = None) -> np.ndarray:
    """Return an image as ``read`` does, but raise what is wrong.

    Raises:
        PIL.UnidentifiedImageError: it is of no known format.
        ImageSizeError: it has more than ``max_pixels``, or more than MAX_PIXELS after a JPEG is reduced.
        Exception: any, because decoders raise any for damaged files.
    """
    try:
        with Image.open(file, formats=formats()) as image:
            if max_pixels:
                check_size(image, max_pixels)
            return fit(image, shape)
    except Image.DecompressionBombError as error:
        raise ImageSizeError(str(error)) from None


def check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageSizeError(f"{image.width} x {image.height} pixels are more than {max_pixels:,}: make it smaller")


def fit(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """Rotate an opened image as its EXIF data says, flatten, resize and crop it; see ``read``."""
    channels, height, width = shape
    image.draft(None, (2 * max(height, width),) * 2)  # type: ignore[arg-type]  # a JPEG decodes at a fraction of its size
    check_size(image, MAX_PIXELS)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(np.where(np.isfinite(pixels), pixels, np.float32(0)))
    else:
        image = flatten(image, "RGB" if channels == 3 else "L")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(np.array(image).reshape(height, width, -1).transpose(2, 0, 1), order="C")


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image of 8 bits to RGB or L, with transparency composited on white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("RGB", mode):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def find_scale(low: float, high: float) -> Scale:
    """Return the values of black and white for deep pixels between two values.

    Black is 0, or the lowest value if that is negative. White is 1, or 2^n - 1 for the fewest bits n >= 8 that hold the
    highest value, so that 12-bit values in 16-bit files keep their contrast.
    """
    white = 1.0 if high <= 1 else 2.0 ** max(8, int(high).bit_length()) - 1
    return min(0.0, float(low)), white


def to_8_bits(pixels: np.ndarray, shape: tuple[int, ...], scale: Scale | None = None) -> np.ndarray:
    """Return pixels as (C, H, W), uint8: deep ones (1, H, W) scaled so that black and white become 0 and 255."""
    if pixels.dtype == np.uint8:
        return pixels
    black, white = scale or find_scale(pixels.min(), pixels.max())
    gray = (pixels.astype(np.float64) - black) * (255 / (white - black))
    return np.broadcast_to(gray.round().clip(0, 255).astype(np.uint8), shape).copy()
