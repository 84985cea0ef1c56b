"""Digits, which needs no download."""

from typing import Any

import torch
from torch import Tensor

from src import require
from src.data.base import DataModule


class Digits(DataModule):
    """1,797 digits of 8x8 pixels from scikit-learn, doi:10.24432/C50P49; a stratified fifth is the test set.

    Args:
        root: not used; another value than the default is refused.
        kwargs: see ``src.data.DataModule``.
    """

    num_classes = 10

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        remedy = "for images of your own, use --config configs/folder.yaml"
        require(root == "data", f"root must stay data, because Digits come with scikit-learn, got {root}; {remedy}")

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits  # slow to import
        from sklearn.model_selection import train_test_split

        pixels, classes = load_digits(return_X_y=True)  # 17 gray levels, 0 to 16
        images, targets = torch.tensor(pixels * 255 / 16).round().byte().view(-1, 1, 8, 8), torch.tensor(classes)
        self.class_names = [str(digit) for digit in range(10)]
        sets = train_test_split(torch.arange(1797), test_size=0.2, random_state=0, stratify=targets)
        index = sets[0 if train else 1]
        return images[index], targets[index]
