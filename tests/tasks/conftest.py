"""Data, a classifier and a Trainer for the tests of tasks."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.optim import SGD

from src.data import DataModule
from src.nets import MLP
from src.tasks import Classifier


class Noise(DataModule):
    """Noisy images that are brighter for higher classes; batches of unequal size."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__(batch_size=29, folds=3)
        self.class_names = [f"class/{i}" for i in range(num_classes)]

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        targets = torch.randint(len(self.class_names or ()), (153,), generator=generator)
        images = torch.randint(200, (153, 1, 2, 3), generator=generator) + 8 * targets[:, None, None, None]
        return images.byte(), targets


def classifier(num_classes: int = 7, lr: float = 0.1, **settings: Any) -> Classifier:
    """Return a linear classifier of ``Noise`` with the same initial weights each time."""
    torch.manual_seed(0)
    net = partial(MLP, image_shape=(1, 2, 3), hidden_sizes=[])
    return Classifier(net, num_classes, **{"optimizer": partial(SGD, lr=lr), **settings})


def trainer(**settings: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, log_every_n_steps=1, **quiet, **settings)


def outputs(task: Classifier, loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and targets of all batches."""
    with torch.no_grad():
        batches = [(task(images), targets) for images, targets in loader]
    logits, targets = (torch.cat(values) for values in zip(*batches, strict=True))
    return logits, targets
