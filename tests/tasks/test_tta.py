"""Test-time augmentation: averages over mirrored and shifted images, against their definition."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import hflip, pad

from src import UserError
from src.tasks.tta import predict_with_tta

IMAGES = torch.rand(4, 2, 6, 5)
NET = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).requires_grad_(False)


def test_tta_plain_is_the_net_itself():
    assert predict_with_tta(NET, IMAGES, "plain").equal(NET(IMAGES))


def test_tta_mirror_averages_the_image_and_its_mirror_image():
    expected = (NET(IMAGES) + NET(hflip(IMAGES))) / 2
    torch.testing.assert_close(predict_with_tta(NET, IMAGES, "mirror"), expected)


def test_tta_mirror_shift_gives_shifts_the_weight_of_the_image():
    padded = pad(IMAGES, [1], padding_mode="reflect")
    shifted = [padded[..., :-2, :-2], padded[..., 2:, 2:]]
    views = [IMAGES, hflip(IMAGES)] * 2 + [view for s in shifted for view in (s, hflip(s))]
    expected = torch.stack([NET(view) for view in views]).mean(0)
    torch.testing.assert_close(predict_with_tta(NET, IMAGES, "mirror_shift"), expected)


def test_tta_mirrors_outputs_per_pixel_back():
    def brightness(images: Tensor) -> Tensor:
        return images * torch.arange(images.shape[3])  # depends on the column, so mirroring matters

    columns = torch.arange(IMAGES.shape[3])
    expected = IMAGES * (columns + columns.flip(0)) / 2
    torch.testing.assert_close(predict_with_tta(brightness, IMAGES, "mirror"), expected)
    with pytest.raises(UserError, match="tta must be plain or mirror for outputs per pixel, got mirror_shift"):
        predict_with_tta(brightness, IMAGES, "mirror_shift")
