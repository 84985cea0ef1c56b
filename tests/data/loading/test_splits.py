"""Samples: a subset of images and targets."""

from typing import Any

import numpy as np
import pytest
import torch

from src.data.loading.splits import Samples


@pytest.mark.parametrize(
    "positions",
    [torch.tensor([1, 3]), torch.tensor([False, True, False, True]), [1, 3], np.array([1, 3]), slice(1, 4, 2)],
    ids=["tensor", "mask", "list", "numpy", "slice"],
)
def test_samples_take_any_index_that_a_tensor_takes(positions: Any) -> None:
    samples = Samples(torch.arange(10).view(-1, 1, 1, 1), torch.arange(10) * 2, torch.tensor([9, 7, 5, 3]))
    index, images, targets = samples[positions]
    assert (index.tolist(), images.flatten().tolist(), targets.tolist()) == ([7, 3], [7, 3], [14, 6])
