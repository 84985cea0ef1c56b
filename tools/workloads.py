"""Nets, data, modules and callbacks that the contenders of the benchmark train with."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from src.data import MNIST, DataModule
from src.engine.checkpoints import LastCheckpoint
from src.engine.resume import Resume
from src.engine.signals import Signals
from src.engine.skip_non_finite import SkipNonFinite
from src.nets import MLP, SmallCNN

RUNS = "runs/benchmark"
GPU = "BENCHMARK_ON_GPU"  # environment variable, which the contenders' processes inherit
DEVICE = torch.device("cuda" if GPU in os.environ else "cpu")
TURNS: list[Connection] = []  # to the process that gives this one its turns
NETS: dict[str, Callable[[int], nn.Module]] = {
    "almost empty": lambda num_outputs: nn.Sequential(FirstPixel(), nn.Linear(1, num_outputs)),
    "MLP": lambda num_outputs: MLP(num_outputs, hidden_sizes=[64, 128, 64]),
    "SmallCNN": lambda num_outputs: SmallCNN(num_outputs, width=16),
}


class FirstPixel(nn.Module):
    """Images (N, C, H, W) -> (N, 1)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1]


class Net(nn.Sequential):
    """A net of ``NETS`` by its name, for configs."""

    def __init__(self, num_outputs: int, name: str) -> None:
        super().__init__(NETS[name](num_outputs))


class Pixels(DataModule):
    """The first ``limit`` images of MNIST; random images if it is not in ``root`` or ``size`` is not 28."""

    def __init__(self, limit: int = 60_000, size: int = 28, **kwargs: Any) -> None:
        super().__init__(folds=limit // 10, **kwargs)
        self.limit, self.size = limit, size
        self.class_names = [str(digit) for digit in range(10)]

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        if self.size == 28 and (self.root / "MNIST").is_dir():
            images, targets = MNIST(str(self.root)).load(train)
            return images[: self.limit], targets[: self.limit]
        generator = torch.Generator().manual_seed(0)
        shape = (self.limit, 1, self.size, self.size)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8), torch.arange(self.limit) % 10


def synchronize() -> None:
    """Wait until the GPU has done what the CPU asked of it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def wait_for_turn() -> None:
    for turns in TURNS:
        turns.send([])
        turns.recv()


class Clock(Callback):
    """Measure the mean seconds per step of each epoch, logging and saving at its end included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.stop(trainer)
        wait_for_turn()
        self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.stop(trainer)

    def stop(self, trainer: Trainer) -> None:
        if self.started is not None:
            synchronize()
            self.seconds.append((time.perf_counter() - self.started) / trainer.num_training_batches)
            self.started = None


class Alternating(Clock):
    """Measure only the steps; remove what protects a run from losses in every other epoch, from the second on."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.all = trainer.callbacks  # type: ignore[attr-defined]
        removed = (SkipNonFinite, Signals, Resume, LastCheckpoint) if trainer.current_epoch % 2 else ()
        trainer.callbacks = [callback for callback in self.all if not isinstance(callback, removed)]  # type: ignore[attr-defined]
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.stop(trainer)


class FirstStep(Callback):
    """End the process after the first step."""

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        os._exit(0)


class Batches:
    """The cheapest loader: batches of tensors on the device, in a new order each epoch."""

    def __init__(self, images: Tensor, targets: Tensor, size: int) -> None:
        self.images, self.targets, self.size = images.to(DEVICE), targets.to(DEVICE), size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.images), device=DEVICE).split(self.size):
            yield self.images.index_select(0, index), self.targets.index_select(0, index)


class Plain(LightningModule):
    """The smallest LightningModule: no logging, no metrics."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        return loss_of(self.net, *batch)

    def configure_optimizers(self) -> Any:
        return adam(self.net)


class PerSample(Dataset):
    """A data set as in tutorials: one image at a time, through torchvision's transforms."""

    def __init__(self, images: Tensor, targets: Tensor, transforms: Sequence[Any]) -> None:
        self.pictures = [F.to_pil_image(image) for image in images]
        self.targets, self.transform = targets.tolist(), v2.Compose(transforms)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[position]), self.targets[position]


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=1e-3)


def loss_of(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(net((images - 33.3) / 78.6), targets)
