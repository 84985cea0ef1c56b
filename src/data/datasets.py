"""Digits, which needs no download, and classic image datasets, downloaded and verified by torchvision."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from src import UserError, require
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


class TorchvisionData(DataModule):
    """A dataset of torchvision; ``fit`` downloads it to ``root`` if it is missing."""

    dataset: ClassVar[Any]

    def prepare_data(self) -> None:
        try:
            for train in (True, False):
                self.dataset(self.root, train=train, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
            name, reason = self.dataset.__name__, " ".join(str(error).split())[:200]
            files = getattr(self.dataset, "filename", f"{name}/raw/*-ubyte")  # of CIFAR, of MNIST
            raise UserError(
                f"{name} is not in {self.root.absolute()} and the download failed ({reason}): put {files} there, "
                "set --data.root, or use configs/digits.yaml, which needs no download"
            ) from error

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        data = self.dataset(self.root, train=train)
        self.class_names = [name.split(" - ")[-1] for name in data.classes]
        images = torch.as_tensor(data.data)
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1).contiguous()  # (N, C, H, W)
        return images, torch.as_tensor(data.targets)


class MNIST(TorchvisionData):
    """60,000 + 10,000 handwritten digits, 1x28x28; LeCun et al., 1998, doi:10.1109/5.726791."""

    dataset, num_classes = datasets.MNIST, 10


class FashionMNIST(TorchvisionData):
    """60,000 + 10,000 images of clothes, 1x28x28; arXiv:1708.07747."""

    dataset, num_classes = datasets.FashionMNIST, 10


class CIFAR10(TorchvisionData):
    """50,000 + 10,000 photos of 10 classes, 3x32x32; Krizhevsky, 2009, "Learning multiple layers of features"."""

    dataset, num_classes = datasets.CIFAR10, 10


class CIFAR100(TorchvisionData):
    """50,000 + 10,000 photos of 100 classes, 3x32x32; Krizhevsky, 2009, "Learning multiple layers of features"."""

    dataset, num_classes = datasets.CIFAR100, 100
