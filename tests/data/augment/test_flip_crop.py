"""Each sample is shifted or flipped by its own draw, and not changed otherwise."""

from functools import partial

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
        (partial(RandomCrop, 1), 256, r"fill must be in \[0, 255\], got 256"),
    ],
)
def test_invalid_arguments_are_refused(augment, setting, message):
    with pytest.raises(ValueError, match=message):
        augment(setting)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_filled_with_a_value_is_a_window_of_the_padded_image(dtype):
    images = torch.randint(1, 256, (60, 2, 4, 5)).to(dtype)
    padded = pad(images, [2] * 4, value=7)
    windows = [padded[:, :, y : y + 4, x : x + 5] for y in range(5) for x in range(5)]
    cropped = RandomCrop(2, fill=7)(images)
    assert cropped.dtype == dtype
    matches = torch.stack([(cropped == window).flatten(1).all(1) for window in windows])
    assert matches.any(0).all()
    assert matches.any(1).sum() > 10  # many shifts occur


def test_a_filled_crop_gives_masks_class_0_outside():
    images = torch.full((50, 1, 4, 4), 9.0)
    moved, masks = RandomCrop(1, fill=5).with_masks(images, torch.ones(50, 4, 4, dtype=torch.long))
    assert (moved == 5).any()
    assert masks.equal((moved[:, 0] == 9).long())
