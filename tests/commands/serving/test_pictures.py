"""Pictures in the bodies of requests: forms, bombs and files that would start programs."""

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from src import decoding
from src.commands.serving.messages import Refused
from src.commands.serving.pictures import decode, file_in, prepare
from tests.served import picture

MIB = 2**20
MEDIA = "multipart/form-data; boundary=edge"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """Return a black picture of one bit per pixel."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((width // 8 + 2) * height), 9))
    return b"\x89PNG\r\n\x1a\n" + b"".join((head, *chunks, pixels, chunk(b"IEND", b"")))


def form(*files: bytes, name: str = 'filename="a.png"') -> bytes:
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; {name}\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + b"--edge--\r\n"


def status(function, *args) -> int:
    with pytest.raises(Refused) as refused:
        function(*args)
    return refused.value.status


def test_the_file_of_a_form_is_its_content_byte_by_byte():
    file = bytes(range(256)) + b"\r\n--edg\r\n\r\n"
    for media in (MEDIA, 'Multipart/Form-Data; charset=x; boundary="edge"'):
        assert file_in(form(file), media) == file
    assert file_in(file, "image/png") == file


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (form(b"a", b"b"), MEDIA),
        (form(), MEDIA),
        (form(b"a", name="x"), MEDIA),
        (form(b"a")[:-6], MEDIA),
        (form(b""), MEDIA),
        (form(b"a"), "multipart/form-data"),
        (b"\r\n--edge" * 10_000, MEDIA),
        (b"", "image/png"),
    ],
)
def test_what_is_not_one_file_is_refused(body, media):
    assert status(file_in, body, media) == 400


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_picture_is_decoded_as_predict_does(kind):
    file = picture(3, (20, 30, 3), kind)
    expected = decoding.decode(io.BytesIO(file), (1, 8, 8))
    np.testing.assert_array_equal(decode(file, (1, 8, 8), None, MIB), expected)


def test_postscript_starts_no_program(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    assert status(decode, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", (1, 8, 8), None, MIB) == 415


@pytest.mark.parametrize("name", ["zTXt", "iCCP"])
def test_a_small_file_that_grows_when_read_is_refused(name):
    prepare(MIB)
    parts = [chunk(name.encode(), b"k\0\0" + zlib.compress(bytes(MIB - 1), 9)) for _ in range(3)]
    parts = parts if name == "zTXt" else [chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(64 * MIB), 9))]
    assert status(decode, png(8, 8, *parts), (1, 8, 8), None, MIB) == 422


def test_a_picture_of_too_many_pixels_is_refused_also_inside_another():
    prepare(MIB)
    inner = png(1500, 1500)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    for file in (png(1025, 1024), png(20_000, 20_000), icon):
        with pytest.raises(decoding.ImageSizeError):
            decode(file, (1, 8, 8), None, MIB)


def test_a_jpeg_of_very_many_scans_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(file, "JPEG", progressive=True)
    scans = file.getvalue()
    assert decode(scans, (1, 8, 8), None, MIB).shape == (1, 8, 8)
    start = scans.rindex(b"\xff\xda")
    many = scans[:-2] + scans[start:-2] * 101 + scans[-2:]
    with pytest.raises(decoding.ImageSizeError, match=r"a JPEG of 1\d\d scans may have at most 1\d\d pixels"):
        decode(many, (1, 8, 8), None, 1000)


@pytest.mark.parametrize(("kind", "most"), [("PNG", 400), ("JPEG", 800), ("JPEG2000", 400)])
def test_a_picture_may_have_so_many_pixels(kind, most):
    assert decode(picture(0, (20, most // 20), kind), (1, 8, 8), None, 400).shape == (1, 8, 8)
    with pytest.raises(decoding.ImageSizeError, match=rf"may have at most {most} pixels"):
        decode(picture(0, (20, most // 20 + 1), kind), (1, 8, 8), None, 400)


def test_a_jpeg_2000_that_would_stop_all_threads_is_refused():
    file = io.BytesIO()
    Image.new("L", (2001, 2000)).save(file, "JPEG2000")
    with pytest.raises(decoding.ImageSizeError, match="a JPEG 2000 may have at most 4,000,000 pixels"):
        decode(file.getvalue(), (1, 8, 8), None, 25_000_000)
