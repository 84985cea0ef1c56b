"""Averages over views are those of a loop over them."""

import torch
from torch import nn
from torchvision.transforms.functional import hflip, pad

from src.tasks.views import averaged

IMAGES = torch.rand(4, 2, 6, 5)
NET = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).requires_grad_(False)


def test_plain_is_the_net_itself():
    assert averaged(NET, IMAGES, "plain").equal(NET(IMAGES))


def test_mirror_is_the_mean_of_both():
    torch.testing.assert_close(averaged(NET, IMAGES, "mirror"), (NET(IMAGES) + NET(hflip(IMAGES))) / 2)


def test_shifts_weigh_as_much_as_the_image():
    padded = pad(IMAGES, [1], padding_mode="reflect")
    shifted = [padded[..., :-2, :-2], padded[..., 2:, 2:]]
    views = [IMAGES, hflip(IMAGES)] * 2 + [view for s in shifted for view in (s, hflip(s))]
    expected = torch.stack([NET(view) for view in views]).mean(0)
    torch.testing.assert_close(averaged(NET, IMAGES, "mirror_shift"), expected)
