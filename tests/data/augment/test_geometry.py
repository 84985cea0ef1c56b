"""Rotation, shift, scale, shear, crop and resizing agree with torchvision, with one draw per sample."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from src.data.augment.erasing import draw_boxes
from src.data.augment.geometry import (
    ProgressiveResize,
    RandomAffine,
    RandomResizedCrop,
    affine_matrices,
    identity_matrices,
    warp,
)


def noise(n: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(16, 16), (13, 20)])
def test_each_sample_equals_torchvisions_affine(size, mode):
    images = noise(12, *size).float()
    drawn = RandomAffine(170, 0.3, (0.5, 2), 50).make_params(images)
    results = warp(images, affine_matrices(*drawn), mode, "zeros")
    for image, result, angle, shift, scale, shear in zip(
        images, results, *(values.tolist() for values in drawn), strict=True
    ):
        args = {"angle": angle, "translate": shift, "scale": scale, "shear": [shear, 0.0]}
        expected = functional.affine(image, interpolation=InterpolationMode(mode), **args)
        differs = (result - expected).abs() > 0.1
        assert differs.float().mean() < (0.01 if mode == "nearest" else 1e-9)  # nearest neighbor: ties


def test_parameters_are_uniform_between_their_bounds():
    torch.manual_seed(0)
    angle, shift, scale, shear = RandomAffine(30, 0.25, (0.5, 1.5), 10).make_params(torch.empty(4000, 1, 200, 400))
    right, down = shift.unbind(1)
    for values, low, high in (
        (angle, -30, 30),
        (right, -100, 100),
        (down, -50, 50),
        (scale, 0.5, 1.5),
        (shear, -10, 10),
    ):
        position = (values - low) / (high - low)
        assert (
            position.histc(10, 0, 1).div(400).sub(1).abs().max() < 0.22
        )  # 4.6 standard deviations; shifts are rounded
        assert (position.min(), position.max()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    assert shift.equal(shift.round())
    correlation = torch.stack([angle, right, down, scale, shear]).corrcoef()
    assert (correlation - torch.eye(5)).abs().max() < 0.08  # 5 standard deviations


@pytest.mark.parametrize("padding_mode", ["reflection", "zeros", "border"])
def test_padding_mode_fills_what_is_outside_the_image(padding_mode):
    images = noise(1, 5, 6)
    matrix = identity_matrices(images)
    matrix[:, 0, 2], matrix[:, 1, 2] = 2, -1
    result = warp(images, matrix, padding_mode=padding_mode)
    columns = {"reflection": [2, 3, 4, 5, 5, 4], "border": [2, 3, 4, 5, 5, 5], "zeros": [2, 3, 4, 5]}[padding_mode]
    rows = [0, 0, 1, 2, 3]
    expected = images[:, :, rows][..., columns]
    if padding_mode == "zeros":
        expected = torch.nn.functional.pad(expected[:, :, 1:], (0, 2, 1, 0))
    assert result.equal(expected)


@pytest.mark.parametrize("size", [(8, 8), (7, 30), (33, 33), (224, 224)])
def test_identity_parameters_leave_images_exactly_unchanged(size):
    images, ratio = noise(2, *size), size[1] / size[0]
    assert RandomAffine()(images).equal(images)
    assert RandomResizedCrop((1, 1), (ratio, ratio))(images).equal(images)


def test_a_shift_alone_moves_images_by_full_pixels():
    images = noise(200, 8, 8)
    moved = RandomAffine(translate=0.25, padding_mode="zeros")(images)
    padded = torch.nn.functional.pad(images, [2] * 4)
    shifts = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    matches = torch.stack([(shift == moved).flatten(1).all(1) for shift in shifts])
    assert (matches.sum(0) == 1).all()
    assert matches.any(1).all()


@pytest.mark.parametrize("size", [(16, 16), (13, 20)])
def test_a_crop_equals_torchvisions_resized_crop(size):
    images = noise(30, *size).float()
    state = torch.get_rng_state()
    results = RandomResizedCrop((0.1, 1), (0.5, 2))(images)
    torch.set_rng_state(state)
    boxes = draw_boxes(images, (0.1, 1), (0.5, 2))
    for image, result, *box in zip(images, results, *(values.int().tolist() for values in boxes), strict=True):
        expected = functional.resized_crop(image, *box, size=list(size), antialias=True)
        # torchvision does not sample outside the crop, so results differ within one pixel of its border
        margins = [-(-length // (2 * side)) for length, side in zip(size, box[2:], strict=True)]
        inner = tuple(slice(margin, length - margin) for margin, length in zip(margins, size, strict=True))
        torch.testing.assert_close(result[:, *inner], expected[:, *inner], atol=0.02, rtol=0)


def test_crops_have_the_given_area():
    ramp = torch.arange(64.0).mul(4).view(1, 1, 1, 64).expand(500, 1, 64, 64)
    result = RandomResizedCrop((0.25, 0.25), (1, 1))(ramp)
    span = result[:, 0, 0, -1] - result[:, 0, 0, 0]
    torch.testing.assert_close(span, torch.full((500,), 31.5 * 4), atol=1.01, rtol=0)  # the border is sampled twice
    assert 15 < len(result[:, 0, 0, 32].round().unique()) < 34  # at one of 33 positions


def test_images_are_resized_as_in_torchvision_in_the_first_epochs():
    images = torch.randint(256, (2, 3, 32, 16), dtype=torch.uint8)
    resize = ProgressiveResize([20, 24])
    for epoch, size in ((0, [20, 10]), (1, [24, 12])):
        resized = resize(images, torch.arange(2), epoch)
        assert resized.dtype == torch.uint8
        torch.testing.assert_close(resized, functional.resize(images, size, antialias=True), atol=1, rtol=0)
    assert resize(images, torch.arange(2), 2).equal(images)


def test_images_are_never_enlarged():
    images = torch.rand(2, 1, 8, 8)
    assert ProgressiveResize([9])(images, torch.arange(2), 0).equal(images)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomAffine(-1), "degrees must be at least 0, got -1"),
        (lambda: RandomAffine(translate=1.5), r"translate must be in \[0, 1\], got 1.5"),
        (lambda: RandomAffine(scale=(0, 1)), r"scale must be two numbers 0 < low <= high <= inf, got \(0, 1\)"),
        (lambda: RandomAffine(shear=90), r"shear must be in \[0, 90\), got 90"),
        (lambda: RandomAffine(padding_mode="wrap"), "padding_mode must be one of reflection, zeros, border, got wrap"),
        (lambda: RandomResizedCrop((0.5, 1.1)), r"scale must be two numbers 0 < low <= high <= 1, got \(0.5, 1.1\)"),
        (lambda: ProgressiveResize([]), r"sizes must be a list of numbers of at least 1, got \[\]"),
        (lambda: ProgressiveResize([8, 0]), r"sizes must be a list of numbers of at least 1, got \[8, 0\]"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), r"ratio must be two numbers 0 < low <= high <= inf, got \(2, 1\)"),
    ],
)
def test_invalid_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
