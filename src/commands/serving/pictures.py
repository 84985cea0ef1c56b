"""Pictures in the bodies of requests."""

import io
import logging
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from src.commands.serving.messages import Refused
from src.decoding import ImageSizeError, formats, load, to_8_bits

AT_ONCE = 32_768  # bytes of a file that is decoded at once, unless it has more than
FEW_PIXELS = 200_000
FEW_SCANS = 10  # of a progressive JPEG, as programs write them; each scan reads all pixels
JPEG2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")  # the starts of its files
JPEG2000_PIXELS = 4_000_000  # at most, because its decoder lets no other thread run


def prepare(max_pixels: int) -> None:
    """Load all decoders, and let none of them use more memory than the pixels may take."""
    formats()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    Image.MAX_IMAGE_PIXELS = max_pixels  # also of pictures inside others, as in ICO files; Pillow refuses twice as many
    PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK
    warnings.simplefilter("ignore")  # of Pillow about odd files


def file_in(body: bytes, media: str) -> bytes:
    """Return the picture file of a body, which may be a form with one file (multipart/form-data)."""
    if media.partition(";")[0].strip().lower() == "multipart/form-data":
        body = file_of_form(body, media)
    if not body:
        raise Refused(400, "no picture: post the bytes of a file, as with curl --data-binary @picture.png")
    return body


def file_of_form(body: bytes, media: str) -> bytes:
    boundary = re.search(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', media, re.I)
    if boundary is None:
        raise Refused(400, "multipart/form-data needs a boundary")
    mark = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")
    _, *parts = (b"\r\n" + body).split(mark, 20)
    entries = [part.partition(b"\r\n\r\n") for part in parts]
    files = [
        content for head, _, content in entries if re.search(rb"^content-disposition:.*filename", head, re.I | re.M)
    ]
    if len(files) != 1 or not parts[-1].startswith(b"--"):
        raise Refused(400, f"the form must hold one whole file, got {len(files)}: curl -F file=@picture.png")
    return files[0]


def decode(file: bytes, shape: tuple[int, ...], scale: Any, max_pixels: int) -> np.ndarray:
    """Return a picture as ``predict`` reads it, (C, H, W), uint8; see ``src.decoding``.

    Raises:
        ImageSizeError: it has more than ``max_pixels``, or would take longer than a picture of so many.
        Refused: it is of no known format, or damaged.
    """
    most, kind = most_pixels(file, max_pixels)
    try:
        return to_8_bits(load(io.BytesIO(file), shape, most), shape, scale)
    except UnidentifiedImageError:
        raise Refused(415, f"no picture of a known format: {', '.join(formats())}") from None
    except ImageSizeError:
        raise ImageSizeError(f"{kind} may have at most {most:,} pixels") from None
    except Exception as error:  # decoders raise any for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(422, f"the picture is damaged: {reason}") from None


def most_pixels(file: bytes, max_pixels: int) -> tuple[int, str]:
    """Return how many pixels a picture of this kind may have, and what the kind is called."""
    if file.startswith(JPEG2000):
        return min(max_pixels, JPEG2000_PIXELS), "a JPEG 2000"
    if not file.startswith(b"\xff\xd8"):
        return max_pixels, "the picture"
    if (count := scans(file)) > FEW_SCANS:
        return 2 * max_pixels * FEW_SCANS // count, f"a JPEG of {count} scans"
    return 2 * max_pixels, "a JPEG"  # which is reduced while it is decoded


def scans(jpeg: bytes) -> int:
    """Return how many scans may begin in a JPEG; faster than ``bytes.count``, which lets no other thread run."""
    pairs = (np.frombuffer(jpeg, "<u2", (len(jpeg) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(each == 0xDAFF)) for each in pairs)
