"""The classic image sets, downloaded and verified by torchvision."""

from typing import Any, ClassVar

import torch
import torchvision.datasets as sets
from torch import Tensor

from src import UserError
from src.data.base import DataModule


class Download(DataModule):
    """An image set of torchvision; ``fit`` downloads it to ``root`` where it is missing."""

    source: ClassVar[Any]
    needed: ClassVar[str]  # what must lie below root

    def prepare_data(self) -> None:
        try:
            for train in (True, False):
                self.open(train, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
            name, reason = self.source.__name__, " ".join(str(error).split())[:200]
            raise UserError(
                f"{name} is not in {self.root.absolute()} and cannot be downloaded ({reason}); "
                f"put {self.needed} there, name the folder with --data.root, or use configs/digits.yaml: no download"
            ) from error

    def open(self, train: bool, download: bool = False) -> Any:
        return self.source(self.root, train=train, download=download)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        data = self.open(train)
        self.class_names = [name.split(" - ")[-1] for name in data.classes]
        images = torch.as_tensor(data.data)
        images = images[:, None] if images.ndim == 3 else images.movedim(3, 1).contiguous()  # (N, C, H, W)
        return images, torch.as_tensor(data.targets)


class MNIST(Download):
    """60,000 + 10,000 handwritten digits, 1x28x28; LeCun et al., 1998, doi:10.1109/5.726791."""

    source = sets.MNIST
    needed = "MNIST/raw/*-ubyte"


class FashionMNIST(Download):
    """60,000 + 10,000 pictures of clothes, 1x28x28; arXiv:1708.07747."""

    source = sets.FashionMNIST
    needed = "FashionMNIST/raw/*-ubyte"


class CIFAR10(Download):
    """50,000 + 10,000 photographs of 10 classes, 3x32x32; Krizhevsky, 2009, «Learning multiple layers of features»."""

    source = sets.CIFAR10
    needed = "cifar-10-python.tar.gz"


class CIFAR100(Download):
    """50,000 + 10,000 photographs of 100 classes, 3x32x32; Krizhevsky, 2009, «Learning multiple layers of features»."""

    source = sets.CIFAR100
    needed = "cifar-100-python.tar.gz"
