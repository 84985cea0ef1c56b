"""Datasets made from others: their targets are exact."""

from math import atan2, degrees
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.data import CIFAR10, MNIST, Digits, ImbalancedMNIST, MNISTScenes, RotatedDigits
from src.data.made import Rotated


class Dots(Digits):
    """Images with a bright dot right of the center."""

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        images = torch.zeros(20, 1, 41, 41, dtype=torch.uint8)
        images[:, :, 19:22, 34:37] = 255
        return images, torch.zeros(20)


class RotatedDots(Rotated, Dots):
    """The dots, turned."""


def test_the_target_is_the_angle_of_the_turn() -> None:
    images, angles = RotatedDots().load(train=True)
    places = torch.arange(41.0) - 20
    for image, angle in zip(images[:, 0].double(), angles.tolist(), strict=True):
        right, down = (image * places).sum() / image.sum(), (image * places[:, None]).sum() / image.sum()
        assert degrees(atan2(-down, right)) == pytest.approx(angle, abs=1)


def test_angles_cover_the_range_and_are_the_same_in_each_run() -> None:
    (images, angles), (again, same), (_, other) = (RotatedDigits().load(train) for train in (True, True, False))
    assert images.equal(again)
    assert angles.equal(same)
    assert angles.min() >= -45
    assert angles.max() < 45
    assert angles.std() == pytest.approx(90 / 12**0.5, rel=0.05)
    assert not angles[:360].equal(other)


@pytest.mark.parametrize("own", [True, False])
def test_digits_are_laid_on_pictures_of_ones_own_or_cifar10(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    digits[:, :, 10:18, 10:18] = 255
    monkeypatch.setattr(MNIST, "load", lambda *_: (digits, torch.arange(6)))
    monkeypatch.setattr(CIFAR10, "load", lambda *_: (torch.full((4, 3, 32, 32), 7, dtype=torch.uint8), None))
    Path("pictures/train").mkdir(parents=True)
    Image.new("RGB", (40, 40), (7, 7, 7)).save("pictures/train/a.png")
    images, masks = MNISTScenes("pictures" if own else None).load(train=True)
    assert images.shape == (6, 3, 32, 32)
    for image, mask, digit in zip(images, masks, range(6), strict=True):
        assert (mask == digit + 1).sum() == 64
        assert image[:, mask == 0].eq(7).all()
        assert image[:, mask > 0].ge(128).all()


def test_imbalance_falls_geometrically_to_1_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.arange(10).repeat(1000)
    images = torch.arange(10_000).view(-1, 1, 1, 1)
    monkeypatch.setattr(MNIST, "load", lambda *_: (images, classes))
    kept, targets = ImbalancedMNIST().load(train=True)
    assert targets.bincount().tolist() == [1000, 600, 360, 216, 130, 78, 47, 28, 17, 10]  # 1000 * 0.01 ** (k / 9)
    assert kept.flatten().tolist() == [i for i in range(10_000) if i // 10 < targets.bincount()[i % 10]]  # the first
    assert classes[kept.flatten()].equal(targets)
    assert ImbalancedMNIST().load(train=False)[0] is images
