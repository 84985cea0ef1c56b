"""Augment, normalise, mix: in this order, with what each needs."""

import torch
from torch import Tensor, nn

from src.data import AlternatingFlip
from src.data.normalize import Normalize
from src.data.prepare import Prepare

PLAIN = Normalize([10.0], [2.0])
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


def test_augmentations_see_pixels_one_after_the_other_and_positions_if_they_ask():
    images, targets = Prepare(PLAIN, [Add(), AddPosition()])(IMAGES, TARGETS, INDEX, 5)
    assert images.flatten().tolist() == [(400 + 75 - 10) / 2, (500 + 85 - 10) / 2, (600 + 95 - 10) / 2]
    assert targets is TARGETS


def test_mixing_sees_normalised_images_and_one_hot_targets():
    images, targets = Prepare(PLAIN, mix=Swap(), num_classes=4)(IMAGES, TARGETS, INDEX, 0)
    assert images.flatten().tolist() == [-4, -4.5, -5]
    assert targets.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]


def test_without_targets_there_are_images_alone():
    (images,) = Prepare(PLAIN)(IMAGES, None, INDEX, 0)
    assert images.flatten().tolist() == [-5, -4.5, -4]


def test_an_alternating_flip_shows_each_image_both_ways_in_two_epochs():
    flip, index = AlternatingFlip(), torch.arange(2000) + 30_000
    images = torch.rand(2000, 1, 1, 2)
    epochs = [flip(images, index, epoch) for epoch in range(4)]
    mirrored = [(shown != images).flatten(1).all(1) for shown in epochs]
    assert 850 < mirrored[0].sum() < 1150  # half of them, to within 6.7 standard deviations
    assert mirrored[1].equal(~mirrored[0])
    assert epochs[2].equal(epochs[0])
    assert epochs[3].equal(epochs[1])
    assert flip(images[5:6], index[5:6], 0).equal(epochs[0][5:6])  # whatever else is in the batch
