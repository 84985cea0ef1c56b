"""Tests of the network for short runs."""

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from src.nets import WhitenedCNN
from src.nets.whitened_cnn import PassingConv, PooledConv, Whitening


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    torch.manual_seed(0)
    rough = torch.randn(64, 3, 16, 16)
    images = (rough + rough.roll(1, 2) + rough.roll(1, 3)) @ torch.randn(16, 16) + rough.mean(1, keepdim=True)
    layer = Whitening(3)
    layer.see(images)
    out = conv2d(images, layer.weight).transpose(0, 1).flatten(1)  # (24, patches)
    second_moments = out @ out.T / out.shape[1]
    torch.testing.assert_close(second_moments[:12, :12], torch.eye(12), atol=0.02, rtol=0)
    torch.testing.assert_close(out[12:], -out[:12])


def test_the_first_filters_of_a_new_convolution_pass_the_input_on() -> None:
    images = torch.randn(2, 4, 6, 6)
    assert PassingConv(4, 9)(images)[:, :4].equal(images)


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (7, 6), (6, 7)])
def test_leaving_out_what_pooling_leaves_out_changes_nothing(size: tuple[int, int]) -> None:
    conv, images = PooledConv(4, 9), torch.randn(2, 4, *size)
    torch.testing.assert_close(conv(images), max_pool2d(conv2d(images, conv.weight, padding=1), 2))


def test_filters_that_whiten_and_scales_of_norms_are_not_trained() -> None:
    net = WhitenedCNN(10)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"whitening.weight"} | {
        f"features.{i}.{inner}.weight" for i in (1, 2, 3) for inner in ("pooled.1", "branch.1")
    }


def test_three_convolutions_a_stage_are_a_residual_branch() -> None:
    net = WhitenedCNN(10, widths=(8, 8), depth=3)
    stage = net.features[1].eval()
    images = torch.randn(2, 24, 12, 12)
    pooled = stage.pooled(images)
    assert stage(images).equal(torch.nn.functional.gelu(pooled + stage.branch(pooled)))
    assert net(torch.randn(2, 3, 12, 12)).shape == (2, 10)
