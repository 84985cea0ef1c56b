"""Corruptions agree with scipy and PIL, attacks with gradients written by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from src.analysis.report.robust import AMOUNTS, attack, corrupt

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (6, 3, 24, 20), dtype=torch.uint8, generator=DRAW)


@pytest.mark.parametrize("kind", AMOUNTS)
def test_a_corruption_keeps_shape_and_type_and_grows(kind: str) -> None:
    smooth = torch.arange(24.0).mul(10)[None, None, :, None].expand(6, 3, 24, 20).byte()
    found = [corrupt(smooth, kind, amount) for amount in AMOUNTS[kind]]
    assert all(each.shape == smooth.shape and each.dtype == torch.uint8 for each in found)
    gaps = [float((each.float() - smooth.float()).abs().mean()) for each in found]
    assert gaps[-1] > gaps[2] > gaps[0]
    assert torch.equal(found[2], corrupt(smooth, kind, AMOUNTS[kind][2]))


def test_noise_has_its_standard_deviation_in_pixel_values() -> None:
    gray = torch.full((300, 1, 16, 16), 128, dtype=torch.uint8)
    noise = corrupt(gray, "noise", 20).double() - 128
    assert noise.mean().abs() < 0.3
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert not torch.equal(noise[0], noise[256])


@pytest.mark.parametrize("amount", AMOUNTS["blur"])
def test_blur_is_the_gaussian_filter_of_scipy(amount: float) -> None:
    sigma = amount / 100 * 20
    expected = ndimage.gaussian_filter(
        IMAGES.double().numpy(), (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, 4, 4)
    )
    assert np.abs(corrupt(IMAGES, "blur", amount).numpy() - expected).max() < 2


def test_contrast_draws_pixels_to_the_mean_of_their_channel() -> None:
    found = corrupt(IMAGES, "contrast", 0.2)
    expected = [[c.mean() + 0.2 * (c - c.mean()) for c in image] for image in IMAGES.double().numpy()]
    assert np.abs(found.numpy() - np.array(expected)).max() <= 0.5001


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_a_file_that_was_saved_and_read(channels: int) -> None:
    images = IMAGES[:, :channels]
    for image, found in zip(images.numpy(), corrupt(images, "JPEG", 30).numpy(), strict=True):
        file = io.BytesIO()
        pixels = image.transpose(1, 2, 0).squeeze()
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        expected = np.asarray(Image.open(file)).reshape(24, 20, channels).transpose(2, 0, 1)
        assert np.abs(found.astype(int) - expected).max() == 0


def test_rotation_turns_every_other_image_the_other_way() -> None:
    smooth = torch.from_numpy(ndimage.gaussian_filter(IMAGES.numpy(), (0, 0, 2, 2)))
    found = corrupt(smooth, "rotation", 25).numpy().astype(int)
    for i, image in enumerate(smooth.double().numpy()):
        expected = ndimage.rotate(image, 25 if i % 2 == 0 else -25, axes=(1, 2), reshape=False, order=1)
        assert np.abs(found[i] - expected)[:, 8:16, 7:13].max() < 4
        assert found[i, :, 0, 0].max() == 0  # corners are black


def linear() -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (K, D), pixels (N, 1, 4, 4) and classes of a linear classifier."""
    weight = torch.randn(3, 16, generator=DRAW, dtype=torch.float64) / 50
    pixels = torch.randint(256, (40, 1, 4, 4), generator=DRAW).double()
    return weight, pixels, torch.arange(40) % 3


def closed_form(weight: Tensor, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy of softmax(W x): W^T (p - y)."""
    p = (pixels.flatten(1) @ weight.T).softmax(1)
    return ((p - torch.eye(len(weight))[targets]) @ weight).view_as(pixels)


def by_autograd(weight: Tensor, targets: Tensor, pixels: Tensor) -> Tensor:
    x = pixels.clone().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.cross_entropy(x.flatten(1) @ weight.T, targets), x)[0]


def test_fgsm_of_a_linear_classifier_is_its_closed_form() -> None:
    weight, pixels, targets = linear()
    found = attack(lambda x: by_autograd(weight, targets, x), pixels, 8)
    expected = (pixels + 8 * closed_form(weight, pixels, targets).sign()).clamp(0, 255)
    assert torch.equal(found, expected)
    assert (found - pixels).abs().max() == 8


def test_pgd_of_two_classes_reaches_the_worst_corner() -> None:
    weight, pixels, _ = linear()
    weight, targets = weight[:2], torch.zeros(40, dtype=torch.long)
    start = 16 * torch.rand(pixels.shape, generator=DRAW) - 8
    found = attack(lambda x: closed_form(weight, x, targets), pixels, 8, start)
    worst = (pixels + 8 * (weight[1] - weight[0]).sign().view(1, 1, 4, 4)).clamp(0, 255)
    assert torch.allclose(found, worst)


def test_pgd_stays_within_eps_and_the_range_of_pixels() -> None:
    weight, pixels, targets = linear()
    found = attack(lambda x: closed_form(weight, x, targets), pixels, 3, torch.full(pixels.shape, 3.0))
    assert (found - pixels).abs().max() <= 3
    assert found.min() >= 0
    assert found.max() <= 255
