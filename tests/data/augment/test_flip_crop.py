"""Each sample is shifted or flipped by its own draw, and not changed otherwise."""

import pytest
import torch
from torch.nn.functional import pad

from src.data import RandomCrop, RandomFlip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("padding", "height", "width"), [(1, 4, 4), (2, 5, 7), (3, 4, 6)])
def test_a_crop_is_a_shift_of_the_padded_image(padding, height, width):
    images = torch.randint(256, (600, 2, height, width), dtype=torch.uint8)
    cropped = RandomCrop(padding)(images)
    assert (cropped.dtype, cropped.shape) == (images.dtype, images.shape)
    padded = pad(images.float(), [padding] * 4, mode="reflect").byte()
    shifts = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    matches = torch.stack(
        [(padded[..., y : y + height, x : x + width] == cropped).flatten(1).all(1) for y, x in shifts], 1
    )
    assert matches.any(1).all()
    assert matches.any(0).all()  # every shift is drawn by some sample


def test_a_flip_returns_the_image_or_its_mirror_image():
    images = torch.rand(400, 3, 4, 5)
    flipped = RandomFlip(0.25)(images)
    kept, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(3)))
    assert (kept | mirrored).all()
    assert 60 < mirrored.sum() < 140  # 100 expected, 4.6 standard deviations either way


@pytest.mark.parametrize(("p", "width_axis"), [(0.0, []), (1.0, [3])])
def test_probabilities_of_0_and_1_never_and_always_flip(p, width_axis):
    images = torch.rand(50, 1, 3, 3)
    assert RandomFlip(p)(images).equal(images.flip(width_axis))


@pytest.mark.parametrize(
    ("augment", "setting", "message"),
    [
        (RandomFlip, -0.1, r"p must be in \[0, 1\], got -0.1"),
        (RandomFlip, 1.1, r"p must be in \[0, 1\], got 1.1"),
        (RandomCrop, 0, "padding must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_refused(augment, setting, message):
    with pytest.raises(ValueError, match=message):
        augment(setting)
