"""Digits: real images without a download."""

import torch
from torch import Tensor

from src.data.base import DataModule


class Digits(DataModule):
    """1,797 digits of 8x8 pixels from scikit-learn, doi:10.24432/C50P49; a stratified fifth is the test set."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        from sklearn import datasets, model_selection  # slow to import

        pixels, classes = datasets.load_digits(return_X_y=True)  # 17 gray levels, 0 to 16
        images, targets = torch.tensor(pixels * 255 / 16).round().byte().view(-1, 1, 8, 8), torch.tensor(classes)
        self.class_names = [str(digit) for digit in range(10)]
        sets = model_selection.train_test_split(torch.arange(1797), test_size=0.2, random_state=0, stratify=targets)
        index = sets[0 if train else 1]
        return images[index], targets[index]
