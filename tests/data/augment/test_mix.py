"""Images and targets are mixed as in the papers, with one draw per sample."""

import pytest
import torch
from scipy.stats import beta, kstest
from torch.nn.functional import one_hot

from src.data import CutMix, MixUp


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(n: int = 500, h: int = 6, w: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images filled with the sample's index, and targets one-hot at that index."""
    return torch.arange(n).float().view(-1, 1, 1, 1).expand(n, 2, h, w), one_hot(torch.arange(n), n).float()


def test_mixup_uses_one_lambda_and_one_partner_for_image_and_target():
    images, targets = batch()
    mixed, soft = MixUp(0.7)(images, targets)
    assert soft.sum(1).tolist() == pytest.approx([1] * 500, abs=1e-5)
    assert (soft > 0).sum(1).max() == 2
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx((soft @ torch.arange(500.0)).tolist(), rel=1e-4)
    assert (mixed == mixed[:, :1, :1, :1]).all()


def test_mixup_draws_lambda_from_the_beta_distribution_per_sample():
    _, soft = MixUp(0.7)(*batch(3000, 1, 1))
    assert kstest(soft.diagonal(), beta(0.7, 0.7).cdf).pvalue > 1e-3


def test_cutmix_pastes_one_rectangle_and_weights_targets_by_area():
    images, targets = batch()
    mixed, soft = CutMix()(images, targets)
    for i in range(500):
        pasted = mixed[i, 0] != i
        assert (mixed[i, 0] == mixed[i, 1]).all()
        assert len(mixed[i, 0][pasted].unique()) <= 1
        rows, columns = pasted.any(1), pasted.any(0)
        assert pasted.equal(rows[:, None] & columns[None])
        for side in (rows, columns):
            assert side.int().diff().abs().sum() <= 2  # no gap
        area = float(pasted.float().mean())
        if pasted.any():
            assert float(soft[i, i]) == pytest.approx(1 - area, abs=1e-6)
            assert float(soft[i, int(mixed[i, 0][pasted][0])]) == pytest.approx(area, abs=1e-6)


def test_cutmix_pastes_the_area_expected_of_uniform_lambda_and_center():
    images, targets = batch(4000, 64, 64)
    mixed, _ = CutMix(alpha=1)(images, targets)
    areas = (mixed[:, 0] != images[:, 0]).float().mean((1, 2))
    # a side s, with s * s uniform, overlaps the image by s - s * s / 4 on average, in both directions
    assert float(areas.mean()) == pytest.approx(2 * (1 / 4 - 1 / 10 + 1 / 96), abs=0.02)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_an_alpha_of_0_is_refused(kind):
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        kind(0)
