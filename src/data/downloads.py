"""The classic image datasets, downloaded and verified by torchvision."""

from typing import Any, ClassVar

import torch
import torchvision.datasets as datasets
from torch import Tensor

from src import UserError
from src.data.base import DataModule


class TorchvisionData(DataModule):
    """A dataset of torchvision; ``fit`` downloads it to ``root`` if it is missing."""

    dataset: ClassVar[Any]
    required_files: ClassVar[str]  # below root

    def prepare_data(self) -> None:
        try:
            for train in (True, False):
                self.open(train, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
            name, reason = self.dataset.__name__, " ".join(str(error).split())[:200]
            raise UserError(
                f"{name} is not in {self.root.absolute()} and the download failed ({reason}): put "
                f"{self.required_files} there, set --data.root, or use configs/digits.yaml, which needs no download"
            ) from error

    def open(self, train: bool, download: bool = False) -> Any:
        return self.dataset(self.root, train=train, download=download)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        data = self.open(train)
        self.class_names = [name.split(" - ")[-1] for name in data.classes]
        images = torch.as_tensor(data.data)
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1).contiguous()  # (N, C, H, W)
        return images, torch.as_tensor(data.targets)


class MNIST(TorchvisionData):
    """60,000 + 10,000 handwritten digits, 1x28x28; LeCun et al., 1998, doi:10.1109/5.726791."""

    dataset = datasets.MNIST
    required_files = "MNIST/raw/*-ubyte"


class FashionMNIST(TorchvisionData):
    """60,000 + 10,000 images of clothes, 1x28x28; arXiv:1708.07747."""

    dataset = datasets.FashionMNIST
    required_files = "FashionMNIST/raw/*-ubyte"


class CIFAR10(TorchvisionData):
    """50,000 + 10,000 photos of 10 classes, 3x32x32; Krizhevsky, 2009, "Learning multiple layers of features"."""

    dataset = datasets.CIFAR10
    required_files = "cifar-10-python.tar.gz"


class CIFAR100(TorchvisionData):
    """50,000 + 10,000 photos of 100 classes, 3x32x32; Krizhevsky, 2009, "Learning multiple layers of features"."""

    dataset = datasets.CIFAR100
    required_files = "cifar-100-python.tar.gz"
