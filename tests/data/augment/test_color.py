"""Colors change as in torchvision, with one factor per sample; noise is Gaussian."""

from functools import partial

import pytest
import torch
from torchvision.transforms.v2 import functional

from src.data.augment import color
from src.data.augment.color import ColorJitter, GaussianNoise, adjust_hue, blend, mean_gray

CHANGES = [
    (partial(blend, torch.zeros_like), functional.adjust_brightness, (0, 2)),
    (partial(blend, mean_gray), functional.adjust_contrast, (0, 2)),
    (partial(blend, functional.rgb_to_grayscale), functional.adjust_saturation, (0, 2)),
    (adjust_hue, functional.adjust_hue, (-0.5, 0.5)),
]


def noise(channels: int) -> torch.Tensor:
    """Return images with gray, black, white and colorful pixels."""
    torch.manual_seed(0)
    images = torch.randint(256, (16, channels, 6, 9), dtype=torch.uint8)
    images[:, :, 0] = images[:, :1, 0]
    images[:, :, 1, :4], images[:, :, 1, 4:] = 0, 255
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("ours", "theirs", "bounds"), CHANGES)
def test_each_sample_changes_as_in_torchvision_by_its_own_factor(ours, theirs, bounds, channels):
    pixels = noise(channels).float()
    factors = torch.linspace(*bounds, len(pixels))
    expected = (
        torch.stack([theirs(image / 255, factor) for image, factor in zip(pixels, factors.tolist(), strict=True)]) * 255
    )
    torch.testing.assert_close(ours(pixels, factors), expected, atol=2e-3, rtol=0)


def test_uint8_results_are_rounded_float_results(monkeypatch):
    monkeypatch.setattr(color, "uniform", lambda images, low, high: torch.linspace(low, high, len(images)))
    images = noise(3)
    for name, (_, theirs, _), amount in zip(
        ("brightness", "contrast", "saturation", "hue"), CHANGES, (0.8, 1.5, 0.9, 0.3), strict=True
    ):
        low, high = (-amount, amount) if name == "hue" else (max(0, 1 - amount), 1 + amount)
        factors = torch.linspace(low, high, len(images)).tolist()
        expected = torch.stack([theirs(image / 255, factor) for image, factor in zip(images, factors, strict=True)])
        result = ColorJitter(**{name: amount})(images)
        assert result.dtype == torch.uint8
        assert (result - expected * 255).abs().max() < 0.501


def test_the_four_changes_are_applied_in_order(monkeypatch):
    monkeypatch.setattr(
        color, "uniform", lambda images, low, high: torch.full((len(images),), 0.75 * high + 0.25 * low)
    )
    images = noise(3).float()
    expected = images / 255
    for (_, theirs, _), factor in zip(CHANGES, (1.2, 1.25, 1.3, 0.05), strict=True):
        expected = torch.stack([theirs(image, factor) for image in expected])
    result = ColorJitter(0.4, 0.5, 0.6, 0.1)(images)
    torch.testing.assert_close(result, expected * 255, atol=0.01, rtol=0)


def test_factors_are_uniform_between_their_bounds():
    torch.manual_seed(0)
    images = torch.full((3000, 1, 1, 1), 100.0)
    for amount, low, high in ((0.4, 60, 140), (1.4, 0, 240)):
        position = (ColorJitter(brightness=amount)(images).flatten() - low) / (high - low)
        assert position.histc(10, 0, 1).div(300).sub(1).abs().max() < 0.26  # 4.7 standard deviations


def test_saturation_and_hue_leave_grayscale_images_unchanged():
    images = noise(1)
    assert ColorJitter(saturation=0.9, hue=0.5)(images).equal(images)


def test_noise_is_gaussian_with_the_given_std():
    torch.manual_seed(0)
    images = torch.full((20, 1, 50, 40), 128, dtype=torch.uint8)
    noisy = GaussianNoise(0.1)(images)
    added = (noisy - 128) / 25.5
    assert noisy.dtype == torch.float32
    assert (added.mean(), added.std()) == (
        pytest.approx(0, abs=0.025),
        pytest.approx(1, abs=0.02),
    )  # 5 and 5.6 standard deviations
    assert (added.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.012)


def test_noisy_pixels_are_clipped_to_0_and_255():
    noisy = GaussianNoise(2.0)(noise(3))
    assert (noisy.min(), noisy.max()) == (0, 255)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ColorJitter(brightness=-0.1), "brightness must be at least 0, got -0.1"),
        (lambda: ColorJitter(contrast=-1), "contrast must be at least 0, got -1"),
        (lambda: ColorJitter(saturation=-1), "saturation must be at least 0, got -1"),
        (lambda: ColorJitter(hue=0.6), r"hue must be in \[0, 0.5\], got 0.6"),
        (lambda: GaussianNoise(-0.1), "std must be at least 0, got -0.1"),
    ],
)
def test_invalid_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
