"""Image files of any format are decoded alike; unreadable files are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.decoding import decode

PIXELS = np.random.default_rng(0).integers(256, size=(6, 4, 3), dtype=np.uint8)


def decoded(image: Image.Image, name: str = "a.png", channels: int = 3, size: tuple | None = None, **settings):
    """Save an image, decode it, and return its pixels (H, W, C) as integers."""
    image.save(name, **settings)
    result = decode(Path(name), (channels, *(size or image.size[::-1])))
    assert result.dtype == np.uint8
    return np.moveaxis(result, 0, 2).astype(int)


def constant(mode: str, value, size: tuple = (4, 4)) -> Image.Image:
    return Image.new(mode, size, value)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.PPM"])
def test_colors_are_kept(name):
    assert (decoded(Image.fromarray(PIXELS), name) == PIXELS).all()


def test_gray_becomes_three_equal_channels_or_stays_one():
    gray = PIXELS[:, :, :1]
    image = Image.fromarray(gray[:, :, 0])
    assert (decoded(image) == gray.repeat(3, axis=2)).all()
    assert (decoded(image, channels=1) == gray).all()


def test_color_becomes_gray_by_luminance():
    luminance = PIXELS @ np.array([[0.299], [0.587], [0.114]])
    assert np.abs(decoded(Image.fromarray(PIXELS), channels=1) - luminance).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_composited_on_white(mode):
    bands = PIXELS[:, :, [0] * (len(mode) - 1)]
    alpha = PIXELS[:, :, 1:2]
    alpha[0], alpha[1] = 0, 255
    expected = (bands * (alpha / 255.0) + 255 * (1 - alpha / 255.0))[:, :, [0] * 3]
    image = Image.fromarray(np.concatenate([bands, alpha], axis=2), mode=None)
    assert image.mode == mode
    assert np.abs(decoded(image) - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_becomes_rgb(name):
    image = constant("CMYK", (255, 0, 51, 0), (8, 8))  # full cyan, 20 % yellow
    assert np.abs(decoded(image, name) - [0, 255, 204]).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray_is_scaled_to_8_bits(name):
    levels = np.array([[0, 30000, 65535, 100]], dtype=np.uint16)
    assert decoded(Image.fromarray(levels), name, channels=1)[0, :, 0].tolist() == [0, 117, 255, 0]


def test_float_pixels_up_to_one_are_scaled_to_8_bits():
    levels = np.array([[0, 0.2, 1]], dtype=np.float32)
    assert decoded(Image.fromarray(levels), "a.tif", channels=1)[0, :, 0].tolist() == [0, 51, 255]


def test_palette_images_have_the_colors_of_their_palette():
    image = constant("P", 2)
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    pixels = decoded(image)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert (pixels[1:] == [40, 50, 60]).all()


@pytest.mark.parametrize(("transparency", "gray"), [(2, 255), (b"\xff\xff\x00", 255), (b"\xff\xff\x80", 127)])
def test_transparent_palette_entries_are_composited_on_white(transparency, gray):
    image = constant("P", 2)
    image.putpalette([0] * 9)
    image.putpixel((0, 0), 1)
    pixels = decoded(image, transparency=transparency)
    assert (pixels[0, 0] == 0).all()
    assert (pixels[1:] == gray).all()


def test_one_bit_images_are_black_and_white():
    image = constant("1", 1)
    image.putpixel((0, 0), 0)
    assert decoded(image, channels=1)[0, :, 0].tolist() == [0, 255, 255, 255]


def test_only_the_first_frame_of_an_animation_is_used():
    first, second = constant("RGB", (255, 0, 0)), constant("RGB", (0, 0, 255))
    assert (decoded(first, "a.gif", save_all=True, append_images=[second]) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (6, lambda upright: np.rot90(upright, 1)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_exif_orientation_is_applied(orientation, stored):
    upright = np.kron([[250, 150], [100, 0], [50, 200]], np.ones((8, 8))).astype(np.uint8)  # of JPEG blocks
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored(upright)))
    pixels = decoded(image, "a.jpg", channels=1, size=upright.shape, exif=exif, quality=95)
    assert np.abs(pixels[:, :, 0] - upright).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3)])
def test_images_of_any_size_are_fitted(size):
    pixels = decoded(constant("RGB", (1, 2, 3), size), size=(5, 8))
    assert pixels.shape == (5, 8, 3)
    assert (pixels == [1, 2, 3]).all()


def test_the_center_is_cropped_without_distortion():
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 200
    assert (decoded(Image.fromarray(wide), size=(8, 12)) == wide[:, 6:18]).all()
    tall = Image.fromarray(wide.swapaxes(0, 1))
    assert (decoded(tall, size=(12, 8)) == wide[:, 6:18].swapaxes(0, 1)).all()
    assert (decoded(tall, size=(4, 4)) >= 150).all()  # at half size, borders blend


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "bmp", "webp", "avif"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_truncated_file_is_named(suffix):
    file = Path(f"a.{suffix}")
    Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    content = file.read_bytes()
    for fraction in (0, 0.1, 0.5, 0.8):
        file.write_bytes(content[: int(fraction * len(content))])
        assert str(decode(file, (3, 8, 8))).startswith(f"cannot decode {file}: ")


def test_a_damaged_avif_is_named():  # PIL raises a RuntimeError for this format only
    constant("RGB", 0).save("a.avif")
    Path("a.avif").write_bytes(Path("a.avif").read_bytes().replace(b"iloc", b"free"))
    assert str(decode(Path("a.avif"), (3, 8, 8))).startswith("cannot decode a.avif: ")


@pytest.mark.parametrize("make", [lambda f: f.write_text("not an image", encoding="utf-8"), Path.mkdir, lambda _: None])
def test_a_path_that_is_no_image_is_named(make):
    make(Path("a.png"))
    result = decode(Path("a.png"), (3, 8, 8))
    assert isinstance(result, str)
    assert result.startswith("cannot decode a.png: ")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_12_bit_values_in_deep_files_keep_their_levels(kind):
    levels = (np.arange(256) * 16).astype(kind)[None]  # 0 to 4080
    got = decoded(Image.fromarray(levels), "a.tif", channels=1)[0, :, 0]
    assert np.abs(got - np.arange(256) * 16 / 4095 * 255).max() <= 0.5
    assert len(set(got.tolist())) > 250


def test_values_below_zero_and_not_finite_pixels_stay_in_the_range():
    levels = np.array([[-1, 0, 1, np.nan]], dtype=np.float32)
    assert decoded(Image.fromarray(levels), "a.tif", channels=1)[0, :, 0].tolist() == [0, 128, 255, 128]


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"<svg/>"])
def test_a_file_of_another_format_is_not_opened(content, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", None)  # PIL would start Ghostscript
    Path("a.png").write_bytes(content)
    assert decode(Path("a.png"), (3, 4, 4)) == "cannot decode a.png: not a readable image"


@pytest.mark.parametrize("error", [KeyError("exif"), MemoryError(), ZeroDivisionError("odd"), EOFError("x\ny")])
def test_any_exception_of_a_decoder_is_one_line_that_names_the_file(error, monkeypatch):
    def fail(*_args, **_settings):
        raise error

    constant("RGB", 0).save("a.png")
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    message = decode(Path("a.png"), (3, 4, 4))
    assert message.startswith("cannot decode a.png: ")
    assert "\n" not in message
    assert type(error).__name__ in message or "x y" in message or str(error) in message


def test_damaged_exif_of_a_webp_is_named_or_ignored():
    constant("RGB", 0).save("a.webp", exif=b"Exif\0\0II*\0" + b"\xff" * 8)
    result = decode(Path("a.webp"), (3, 4, 4))
    assert not isinstance(result, str) or result.startswith("cannot decode a.webp: ")


def test_a_huge_image_is_refused_by_its_size_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("src.decoding.MAX_PIXELS", 1000)
    constant("RGB", 0, (40, 30)).save("a.png")
    message = "cannot decode a.png: 40 x 30 pixels are more than 1,000: make it smaller"
    assert decode(Path("a.png"), (3, 4, 4)) == message


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    monkeypatch.setattr("src.decoding.MAX_PIXELS", 1000)
    blocks = np.kron([[0, 250], [100, 200]], np.ones((64, 64))).astype(np.uint8)
    pixels = decoded(Image.fromarray(blocks), "a.jpg", channels=1, size=(2, 2))[:, :, 0]
    full = np.asarray(Image.fromarray(blocks).resize((2, 2), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(pixels - full).max() <= 3
    assert isinstance(decode(Path("a.jpg"), (3, 64, 64)), str)
