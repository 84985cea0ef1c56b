"""Images are small in the first epochs."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F  # noqa: N812

from src.data import ProgressiveResize

INDEX = torch.arange(2)


def test_images_are_resized_as_in_torchvision_in_the_first_epochs() -> None:
    images = torch.randint(256, (2, 3, 32, 16), dtype=torch.uint8)
    resize = ProgressiveResize([20, 24])
    for epoch, size in ((0, [20, 10]), (1, [24, 12])):
        resized = resize(images, INDEX, epoch)
        assert resized.dtype == torch.uint8
        torch.testing.assert_close(resized, F.resize(images, size, antialias=True), atol=1, rtol=0)
    assert resize(images, INDEX, 2).equal(images)


def test_images_are_never_enlarged() -> None:
    images = torch.rand(2, 1, 8, 8)
    assert ProgressiveResize([9])(images, INDEX, 0).equal(images)


@pytest.mark.parametrize("sizes", [[], [8, 0]])
def test_invalid_sizes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="sizes must be a list of numbers of at least 1"):
        ProgressiveResize(sizes)
