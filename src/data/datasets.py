"""Classic image datasets, downloaded and verified by torchvision."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision import datasets

from src import UserError
from src.data.base import DataModule


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


class Imbalanced(DataModule):
    """Images of another dataset; of each class, the training set keeps a share, all of the first and 1 % of the last.

    The share falls geometrically, as in arXiv:1901.05555, section 5.1 (long-tailed); the first images of a class are
    kept. The test set stays as it is.
    """

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, classes = cast(tuple[Tensor, Tensor], super().load(train))
        if not train:
            return images, classes
        each = one_hot(classes.long())
        shares = 0.01 ** torch.linspace(0, 1, each.shape[1], dtype=torch.float64)
        kept = ((each * each.cumsum(0)).amax(1) <= (shares * each.sum(0)).ceil()[classes]).nonzero()[:, 0]
        return images[kept], classes[kept]


class ImbalancedMNIST(Imbalanced, MNIST):
    """``src.data.MNIST`` with 5,923 training images of 0, and fewer of each next digit, down to 60 of 9."""
