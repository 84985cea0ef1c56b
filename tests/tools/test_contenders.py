"""Each contender of the benchmark runs and returns one time per epoch."""

import pytest
import torch

from tools import contenders
from tools.workloads import Pixels

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("name", ["defaults", "barebones", "bare", "tutorial"])
@pytest.mark.filterwarnings("ignore")  # advice of stock Lightning
def test_a_contender_times_each_epoch(name: str) -> None:
    seconds = getattr(contenders, name)("almost empty", 64, 2, Pixels(640, size=4))
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_both_ways_to_save_are_timed() -> None:
    times = contenders.saves(1)
    assert [len(seconds) for seconds in times.values()] == [1, 1]


def test_both_other_augmentations_crop_flip_and_normalize_a_batch() -> None:
    images = torch.full((3, 3, 32, 32), 120, dtype=torch.uint8)
    assert torch.equal(contenders.unfolded(images), torch.zeros(3, 3, 32, 32))
    expected = torch.full((3, 3, 32, 32), (120 / 255 - 0.47) / 0.25)
    assert torch.allclose(contenders.per_sample(images), expected, atol=1e-6)
