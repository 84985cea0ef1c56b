"""BatchTransform: augment, normalize and mix, in this order."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from src import UserError
from src.data import AlternatingFlip, ProgressiveResize, RandomFlip
from src.data.loading.splits import Samples
from src.data.loading.transform import BatchTransform, Normalize

NORMALIZE = Normalize([10.0], [2.0])
IMAGES, TARGETS, INDEX = torch.arange(3.0).view(3, 1, 1, 1), torch.tensor([2, 0, 1]), torch.tensor([7, 8, 9])


class Add(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 4


class AddPosition(nn.Module):
    by_position = True

    def forward(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        return images * 100 + index.view(-1, 1, 1, 1) * 10 + epoch


class Swap(nn.Module):
    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return images.flip(0), targets.flip(0)


def test_transforms_run_in_order_and_get_positions_on_request():
    images, targets = BatchTransform(NORMALIZE, [Add(), AddPosition()])(IMAGES, TARGETS, INDEX, 5)
    assert images.flatten().tolist() == [(400 + 75 - 10) / 2, (500 + 85 - 10) / 2, (600 + 95 - 10) / 2]
    assert targets is TARGETS


def test_mixing_gets_normalized_images_and_one_hot_targets():
    images, targets = BatchTransform(NORMALIZE, mix=Swap(), num_classes=4)(IMAGES, TARGETS, INDEX, 0)
    assert images.flatten().tolist() == [-4, -4.5, -5]
    assert targets.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]


def test_without_targets_only_images_are_returned():
    (images,) = BatchTransform(NORMALIZE)(IMAGES, None, INDEX, 0)
    assert images.flatten().tolist() == [-5, -4.5, -4]


def test_an_alternating_flip_mirrors_each_image_every_other_epoch():
    flip, index = AlternatingFlip(), torch.arange(2000) + 30_000
    images = torch.rand(2000, 1, 1, 2)
    epochs = [flip(images, index, epoch) for epoch in range(4)]
    mirrored = [(shown != images).flatten(1).all(1) for shown in epochs]
    assert 850 < mirrored[0].sum() < 1150  # half of them, within 6.7 standard deviations
    assert mirrored[1].equal(~mirrored[0])
    assert epochs[2].equal(epochs[0])
    assert epochs[3].equal(epochs[1])
    assert flip(images[5:6], index[5:6], 0).equal(epochs[0][5:6])  # independent of the rest of the batch


def trial(augment: list[nn.Module], mix: nn.Module | None = None) -> tuple[int, ...]:
    images, targets = torch.zeros(4, 1, 8, 6, dtype=torch.uint8), torch.arange(4)
    return BatchTransform(NORMALIZE, augment, mix, 4).try_out(Samples(images, targets))


def test_a_trial_returns_the_smallest_shape_and_keeps_the_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert trial([RandomFlip()], Swap()) == (1, 8, 6)
    assert trial([RandomFlip(), ProgressiveResize([6, 4])]) == (1, 4, 3)
    assert torch.rand(1).equal(expected)


@pytest.mark.parametrize(
    ("augment", "mix", "message"),
    [
        ([Swap()], None, r"^data\.augment: Swap fails on images \(2, 1, 8, 6\): "),
        ([], RandomFlip(), r"^data\.mix: RandomFlip fails on images \(2, 1, 8, 6\): "),
        ([nn.Flatten()], None, r"^data\.augment: Flatten must keep the shape \(2, 1, 8, 6\), got \(1, 2, 48\)$"),
        ([v2.RandomRotation(9)], None, r"^data\.augment: RandomRotation uses .*; wrap it in src\.data\.PerSample$"),
    ],
)
def test_a_trial_names_a_transform_that_fails(augment, mix, message):
    with pytest.raises(UserError, match=message):
        trial(augment, mix)


def test_a_constant_channel_is_not_blown_up_in_other_splits() -> None:
    images = torch.full((4, 2, 3, 3), 77, dtype=torch.uint8)
    images[:, 1] = torch.arange(4)[:, None, None]
    normalize = Normalize.of(Samples(images, None))
    assert normalize(images)[:, 0].abs().max() == 0
    assert normalize(images + 2)[:, 0].unique().tolist() == [2]
    assert normalize(images)[:, 1].std(correction=0).item() == pytest.approx(1)
