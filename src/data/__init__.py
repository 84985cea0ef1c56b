"""Where data comes from. Add a dataset: subclass DataModule, implement ``load``, name the class in a YAML."""

from src.data.augment import RandomCrop, RandomFlip
from src.data.base import DataModule
from src.data.digits import Digits
from src.data.downloads import CIFAR10, CIFAR100, MNIST, FashionMNIST
from src.data.folder import ImageFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "RandomCrop",
    "RandomFlip",
]
