"""Datasets made from MNIST, with exact targets of another kind."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import require
from src.data.datasets import CIFAR10, MNIST
from src.data.loading.image_files import ImageFiles, find_images
from src.data.made import Rotated, Scenes, UnseenClasses


class RotatedMNIST(Rotated, MNIST):
    """``src.data.MNIST``, turned."""


class UnseenMNIST(UnseenClasses, MNIST):
    """``src.data.MNIST``, with 7 to 9 only in the test set."""


class MNISTScenes(Scenes, MNIST):
    """``src.data.MNIST`` on the pictures of CIFAR-10, 3x32x32, which is downloaded too.

    Args:
        pictures: folder of other pictures to use, resized; those in its subfolder ``test``, if any, for the test set.
        kwargs: see ``src.data.DataModule``.
    """

    def __init__(self, pictures: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pictures = CIFAR10(root=str(self.root)) if pictures is None else Path(pictures).expanduser()

    def prepare_data(self) -> None:
        super().prepare_data()
        if isinstance(self.pictures, CIFAR10):
            self.pictures.prepare_data()

    def backgrounds(self, train: bool, count: int) -> Tensor:
        if isinstance(self.pictures, CIFAR10):
            found = self.pictures.load(train)[0]
        else:
            own = self.pictures / ("train" if train else "test")
            files = find_images(own if own.is_dir() else self.pictures)[:count]
            require(files, f"pictures {self.pictures} has no image files")
            found = ImageFiles(files, (3, 32, 32))[torch.arange(len(files))]
        return found[torch.arange(count) % len(found)]
