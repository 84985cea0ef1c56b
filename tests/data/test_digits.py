"""Digits: the images of scikit-learn, always with the same test set."""

from collections import Counter

import torch
from sklearn.datasets import load_digits

from src.data import Digits


def test_training_and_test_set_together_are_all_digits():
    sets = [Digits().load(train) for train in (True, False)]
    assert [tuple(images.shape) for images, _ in sets] == [(1437, 1, 8, 8), (360, 1, 8, 8)]
    assert all((images.dtype, targets.dtype) == (torch.uint8, torch.int64) for images, targets in sets)
    ours = Counter(
        (image.numpy().tobytes(), int(target))
        for images, targets in sets
        for image, target in zip(images, targets, strict=True)
    )
    theirs = Counter(
        (bytes(int(level * 255 / 16 + 0.5) for level in pixels), int(target))
        for pixels, target in zip(*load_digits(return_X_y=True), strict=True)
    )
    assert ours == theirs


def test_the_test_set_is_stratified_and_fixed():
    first, second = Digits(), Digits(split_seed=7)
    torch.manual_seed(3)
    (images, targets), (again, _) = first.load(train=False), second.load(train=False)
    assert images.equal(again)
    assert set(targets.bincount().tolist()) <= {34, 35, 36, 37}  # a fifth of 174 to 183
    assert first.class_names == [str(digit) for digit in range(10)]
