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
MOST_SCANS = 100  # of a progressive JPEG; programs write about ten, and each takes as long as a whole picture


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
    """Return a picture as ``predict`` reads it, (C, H, W), uint8; see ``src.decoding``."""
    if file.startswith(b"\xff\xd8") and scans(file) > MOST_SCANS:
        raise Refused(422, f"a JPEG of more than {MOST_SCANS} scans takes too long")
    try:
        return to_8_bits(load(io.BytesIO(file), shape, max_pixels), shape, scale)
    except UnidentifiedImageError:
        raise Refused(415, f"no picture of a known format: {', '.join(formats())}") from None
    except ImageSizeError:
        raise
    except Exception as error:  # decoders raise any for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(422, f"the picture is damaged: {reason}") from None


def scans(jpeg: bytes) -> int:
    """Return how many scans may begin in a JPEG; faster than ``bytes.count``, which lets no other thread run."""
    pairs = (np.frombuffer(jpeg, "<u2", (len(jpeg) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(each == 0xDAFF)) for each in pairs)
