"""Digits: real data without a download."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from src.data.base import DataModule


class Digits(DataModule):
    """1,797 digits of 8x8 pixels that come with scikit-learn, doi:10.24432/C50P49, a stratified fifth for testing."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        pixels, classes = load_digits(return_X_y=True)  # 17 levels of grey, 0 to 16
        images, targets = torch.tensor(pixels * 255 / 16).round().byte().view(-1, 1, 8, 8), torch.tensor(classes)
        self.class_names = [str(digit) for digit in range(10)]
        index = train_test_split(torch.arange(1797), test_size=0.2, random_state=0, stratify=targets)[0 if train else 1]
        return images[index], targets[index]
