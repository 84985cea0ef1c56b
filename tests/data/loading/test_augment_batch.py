"""augment_batch calls a transform with what it needs and never lets masks fall behind the images."""

import pytest
import torch
from torch import Tensor, nn

from src import UserError
from src.data.loading.transform import augment_batch

IMAGES = torch.arange(24.0).view(2, 1, 3, 4)
MASKS = torch.arange(24).view(2, 3, 4)
INDEX = torch.tensor([7, 8])


class Upend(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flip(2)


class UpendBoth(Upend):
    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return images.flip(2), masks.flip(1)


class Brighten(nn.Module):
    moves_pixels = False

    def forward(self, images: Tensor) -> Tensor:
        return images + 1


class AddPosition(nn.Module):
    by_position = True

    def forward(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        return images + index.view(-1, 1, 1, 1) * 10 + epoch

    def with_masks(self, images: Tensor, masks: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        return self(images, index, epoch), masks + index.view(-1, 1, 1) * 10 + epoch


@pytest.mark.parametrize(
    "targets", [None, torch.tensor([1, 0]), torch.rand(2), torch.rand(2, 5)], ids=["none", "classes", "numbers", "wide"]
)
@pytest.mark.parametrize("transform", [Upend(), UpendBoth()])
def test_targets_other_than_masks_stay_as_they_are(transform, targets):
    images, same = augment_batch(transform, IMAGES, targets, INDEX, 0)
    assert images.equal(IMAGES.flip(2))
    assert same is targets


def test_masks_move_with_the_images():
    images, masks = augment_batch(UpendBoth(), IMAGES, MASKS, INDEX, 0)
    assert images.equal(IMAGES.flip(2))
    assert masks.equal(MASKS.flip(1))


def test_masks_stay_where_pixels_do_not_move():
    images, masks = augment_batch(Brighten(), IMAGES, MASKS, INDEX, 0)
    assert images.equal(IMAGES + 1)
    assert masks is MASKS


@pytest.mark.parametrize("targets", [torch.tensor([1, 0]), MASKS], ids=["classes", "masks"])
def test_transforms_by_position_get_index_and_epoch(targets):
    images, moved = augment_batch(AddPosition(), IMAGES, targets, INDEX, 3)
    added = torch.tensor([73, 83])
    assert images.equal(IMAGES + added.view(2, 1, 1, 1))
    assert moved.equal(targets if targets.ndim == 1 else MASKS + added.view(2, 1, 1))


@pytest.mark.parametrize("targets", [MASKS, MASKS[:, None]])
def test_a_transform_that_cannot_move_masks_is_refused(targets):
    transform = Upend() if targets.ndim == 3 else UpendBoth()
    with pytest.raises(
        UserError, match=r"data.augment: Upend\w* cannot move masks \(2, .*3, 4\) with the images: remove"
    ):
        augment_batch(transform, IMAGES, targets, INDEX, 0)
