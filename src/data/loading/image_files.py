"""Image files of known formats as tensors of one shape."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from src import UserError

# PIL recognizes a file by its content and knows more formats: it starts Ghostscript for PostScript, for example
FORMATS: tuple[str, ...] = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM")
FORMATS = (*FORMATS, "QOI", "SGI", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000  # 400 MB while an image is decoded; a JPEG is reduced before that
Scale = tuple[float, float]  # the values of black and white in images with more than 8 bits per pixel


class ImageFiles:
    """Images (C, H, W) decoded on access: ``files[index]`` is (B, C, H, W), uint8; C is 1 or 3.

    ``num_workers`` processes decode ahead; by default one per core, at most 8. See ``decode`` for ``scale``.
    """

    def __init__(
        self, paths: Sequence[Path], shape: tuple[int, ...], num_workers: int | None = None, scale: Scale | None = None
    ) -> None:
        self.paths, self.shape, self.scale = paths, shape, scale
        self.num_workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = [decode(self.paths[i], self.shape, self.scale) for i in index.tolist()]
        for image in images:
            if isinstance(image, str):
                raise UserError(f"{image}; repair or remove it")
        return torch.stack(images)  # type: ignore[arg-type]

    def subset(self, index: Tensor) -> "ImageFiles":
        return ImageFiles([self.paths[i] for i in index.tolist()], self.shape, self.num_workers, self.scale)


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats to read; HEIF (.heic) is one of them if pillow-heif is installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the image files in a folder and its subfolders, and the number of other files by suffix.

    Links are followed, hidden names skipped.
    """
    allowed = formats()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in allowed}
    files: list[Path] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        visited = os.path.realpath(parent) in seen  # for instance through a link to a parent folder
        seen.add(os.path.realpath(parent))
        subfolders[:] = [] if visited else sorted(name for name in subfolders if name[0] != ".")
        files += [] if visited else [Path(parent, name) for name in names if name[0] != "."]
    others = Counter(file.suffix.lower() or "no suffix" for file in files if file.suffix.lower() not in known)
    return sorted(f for f in files if f.suffix.lower() in known and (f.is_file() or not f.exists())), others


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, following links and skipping hidden names."""
    return scan(folder)[0]


def decode(path: Any, shape: tuple[int, ...], scale: Scale | None = None) -> Tensor | str:
    """Return an image, of a path or stream, as (C, H, W), uint8, or an error message.

    The image is EXIF-rotated, composited on white, resized and center-cropped; of an animation, the first frame.
    ``scale`` has the values that become black and white if pixels have more than 8 bits; by default, the image's own.
    """
    pixels = read(path, shape)
    if isinstance(pixels, str) or pixels.dtype == np.uint8:
        return pixels if isinstance(pixels, str) else torch.from_numpy(pixels)
    return to_8_bits(pixels, shape, scale or find_scale(pixels.min(), pixels.max()))


def read(path: Any, shape: tuple[int, ...]) -> np.ndarray | str:
    """Return an image as (C, H, W), uint8, or as (1, H, W), float32, if its pixels are deep; or an error message."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as file:
            return fit(file, shape)
    except Exception as error:  # decoders raise any exception for damaged files, even MemoryError
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a readable image" if unknown else " ".join(str(error).split()) or type(error).__name__
        return f"cannot decode {path}: {reason[:200]}"


def fit(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """Rotate an opened image as its EXIF data says, flatten, resize and crop it; see ``read``."""
    channels, height, width = shape
    image.draft(None, (2 * max(height, width),) * 2)  # type: ignore[arg-type]  # a JPEG decodes at a fraction of its size
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}: make it smaller")
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


def to_8_bits(pixels: np.ndarray, shape: tuple[int, ...], scale: Scale) -> Tensor:
    black, white = scale
    gray = (torch.from_numpy(pixels).double() - black) * (255 / (white - black))
    return gray.round().clamp(0, 255).byte().expand(shape).contiguous()


def read_batch(paths: Sequence[Path], shape: tuple[int, ...]) -> list[np.ndarray | str]:
    return [read(path, shape) for path in paths]


def read_all(paths: Sequence[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray | str]:
    """Read files in parallel, with a progress bar on a terminal; arrays, unlike tensors, need no shared memory."""
    workers = min(os.cpu_count() or 1, len(paths) // 500)  # starting one takes as long as decoding a few hundred files
    settings: dict[str, Any] = {"num_workers": workers, "collate_fn": partial(read_batch, shape=shape)}
    batches: Any = DataLoader(paths, max(1, min(256, 2**23 // int(np.prod(shape)))), **settings)  # type: ignore[arg-type]
    for batch in track(batches, "decoding", console=Console(stderr=True)) if sys.stderr.isatty() else batches:
        yield from batch


def decode_all(
    paths: Sequence[Path], shape: tuple[int, ...], keep: bool = True, scale: Scale | None = None, into: Any = None
) -> dict[str, Any]:
    """Decode files with one scale for all of them: the given one, or one that fits all.

    Return ``images`` (N, C, H, W), the first rows of the tensor ``into`` if given, empty unless ``keep``; ``good``, the
    positions (N,) of files that can be decoded; ``bad``, the error messages of the others; ``digests`` (N,), equal for
    equal pixels; ``scale``, None if not used.
    """
    images = torch.empty(len(paths) if keep else 0, *shape, dtype=torch.uint8) if into is None else into
    good: list[int] = []
    bad: list[str] = []
    digests: list[int] = []
    extremes: list[float] = []
    deep: dict[int, Any] = {}  # pixels by row; memory does not hold those of images that are decoded into a file
    for i, pixels in enumerate(read_all(paths, shape)):
        if isinstance(pixels, str):
            bad.append(pixels)
            continue
        if pixels.dtype != np.uint8:
            extremes += [float(pixels.min()), float(pixels.max())]
            deep |= {len(good): pixels if into is None else None} if keep else {}
        elif keep:
            images[len(good)] = torch.from_numpy(pixels)
        digests.append(int.from_bytes(blake2b(pixels.tobytes(), digest_size=8).digest(), "little", signed=True))
        good.append(i)
    used = (scale or find_scale(min(extremes), max(extremes))) if extremes else None
    again = deep.values() if into is None or not deep else read_all([paths[good[row]] for row in deep], shape)
    for row, pixels in zip(deep, again, strict=True):
        images[row] = to_8_bits(pixels, shape, used)  # type: ignore[arg-type]
    found = {"good": torch.tensor(good, dtype=torch.long), "bad": bad, "scale": used and [*used]}
    return found | {"images": images[: len(good)], "digests": torch.tensor(digests, dtype=torch.long)}
