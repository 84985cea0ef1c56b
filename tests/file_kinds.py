"""Image files of many kinds, as people send them: formats, modes, depths, orientations, animations, sizes."""

import io
from typing import Any

import numpy as np
from PIL import Image


def file_kinds() -> dict[str, bytes]:
    """Return the contents of more than 40 readable image files by name."""
    draw = np.random.default_rng(0)
    noise = draw.integers(256, size=(6, 5, 4), dtype=np.uint8)
    color = Image.fromarray(noise[..., :3]).resize((50, 60))
    alpha, gray = Image.fromarray(noise).resize((50, 60)), color.convert("L")
    gray_alpha, palette, bits = alpha.convert("LA"), color.quantize(16), gray.convert("1")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 16 + draw.integers(16, size=(60, 50), dtype=np.uint16))
    floats = Image.fromarray(np.asarray(gray) / np.float32(255))
    frames = {"save_all": True, "append_images": [color.rotate(90), color.rotate(180)], "duration": 50}
    photo = color.resize((640, 480))
    turned = []
    for orientation in range(2, 9):
        turned.append(Image.Exif())
        turned[-1][0x112] = orientation
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "gray.png": (gray, {}), "color.png": (color, {}), "alpha.png": (alpha, {}), "gray_alpha.png": (gray_alpha, {}),
        "palette.png": (palette, {}), "hole.png": (palette, {"transparency": 3}), "bits.png": (bits, {}),
        "deep.png": (deep, {}), "fast.png": (color, {"compress_level": 0}), "animated.png": (color, frames),
        "gray.jpg": (gray, {}), "color.jpg": (color, {}), "cmyk.jpg": (color.convert("CMYK"), {}),
        "progressive.jpg": (color, {"progressive": True}), "poor.jpg": (color, {"quality": 5}),
        "photo.jpg": (photo, {}), "exact.jpg": (photo, {"subsampling": 0}),
        "wide.jpg": (color.resize((900, 9)), {}),
        **{f"turned_{i}.jpg": (color, {"exif": exif}) for i, exif in enumerate(turned, 2)},
        "turned.webp": (color, {"exif": turned[4]}), "turned.tif": (color, {"exif": turned[1]}),
        "color.gif": (palette, {}), "animated.gif": (palette, frames), "hole.gif": (palette, {"transparency": 3}),
        "color.bmp": (color, {}), "bits.bmp": (bits, {}), "palette.bmp": (palette, {}), "color.dib": (color, {}),
        "color.tif": (color, {}), "deep.tif": (deep, {}), "floats.tif": (floats, {}), "bits.tif": (bits, {}),
        "lzw.tif": (color, {"compression": "tiff_lzw"}), "cmyk.tif": (color.convert("CMYK"), {}),
        "pages.tif": (color, frames),
        "lossy.webp": (color, {}), "exact.webp": (alpha, {"lossless": True}), "animated.webp": (color, frames),
        "color.avif": (color, {}), "alpha.avif": (alpha, {}), "color.jp2": (color, {}), "deep.jp2": (deep, {}),
        "color.ppm": (color, {}), "gray.pgm": (gray, {}), "bits.pbm": (bits, {}), "floats.pfm": (floats, {}),
        "color.tga": (color, {}), "palette.pcx": (palette, {}), "color.ico": (color, {}), "gray.sgi": (gray, {}),
        "color.qoi": (color, {}), "dot.png": (color.resize((1, 1)), {}), "tall.png": (color.resize((3, 700)), {}),
    }  # fmt: skip
    return {name: saved(name, image, settings) for name, (image, settings) in files.items()}


def saved(name: str, image: Image.Image, settings: dict[str, Any]) -> bytes:
    Image.init()
    file, suffix = io.BytesIO(), name[name.rindex(".") :]
    image.save(file, Image.registered_extensions()[suffix], **settings)
    return file.getvalue()
