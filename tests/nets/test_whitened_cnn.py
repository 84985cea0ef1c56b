"""Whitening filters whiten, convolutions start as the identity, and scales stay fixed."""

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from src.nets import WhitenedCNN
from src.nets.whitened_cnn import IdentityConv, PooledConv, Whitening


def test_whitened_patches_are_uncorrelated_with_variance_one():
    torch.manual_seed(0)
    noise = torch.randn(64, 3, 16, 16)
    images = (noise + noise.roll(1, 2) + noise.roll(1, 3)) @ torch.randn(16, 16) + noise.mean(1, keepdim=True)
    layer = Whitening(3)
    layer.init_from_data(images)
    out = conv2d(images, layer.weight).transpose(0, 1).flatten(1)  # (24, patches)
    second_moments = out @ out.T / out.shape[1]
    torch.testing.assert_close(second_moments[:12, :12], torch.eye(12), atol=0.02, rtol=0)
    torch.testing.assert_close(out[12:], -out[:12])


def test_the_first_filters_of_a_new_convolution_are_the_identity():
    images = torch.randn(2, 4, 6, 6)
    assert IdentityConv(4, 9)(images)[:, :4].equal(images)


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (7, 6), (6, 7)])
def test_skipping_pixels_that_pooling_discards_changes_nothing(size):
    conv, images = PooledConv(4, 9), torch.randn(2, 4, *size)
    torch.testing.assert_close(conv(images), max_pool2d(conv2d(images, conv.weight, padding=1), 2))


def test_whitening_filters_and_scales_of_norms_are_frozen():
    net = WhitenedCNN(10)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"whitening.weight"} | {
        f"features.{i}.{inner}.weight" for i in (1, 2, 3) for inner in ("pooled.1", "branch.1")
    }


def test_a_stage_of_depth_three_has_a_residual_branch():
    net = WhitenedCNN(10, widths=(8, 8), depth=3)
    stage = net.features[1].eval()
    images = torch.randn(2, 24, 12, 12)
    pooled = stage.pooled(images)
    assert stage(images).equal(torch.nn.functional.gelu(pooled + stage.branch(pooled)))
    assert net(torch.randn(2, 3, 12, 12)).shape == (2, 10)
