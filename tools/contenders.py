"""What scripts/benchmark.py compares: the stock commands, plain loops, stock Lightning, augmentation by sample."""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from src.callbacks import LastCheckpoint, Resume, Signals, SkipNonFinite
from src.checkpoint import Durable
from src.cli import main
from src.data import MNIST, DataModule
from src.nets import MLP, SmallCNN

RUNS = "runs/benchmark"
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
    """A net of ``NETS``, by its name, for a config."""

    def __init__(self, num_outputs: int, name: str) -> None:
        super().__init__(NETS[name](num_outputs))


OURS = ("stock", "alternately")
TURNS: list[Connection] = []


def in_turns(turns: Connection, name: str, *args: Any) -> None:
    """Run a contender in this process; send word before each epoch and wait for leave; in the end send its times."""
    TURNS.append(turns)
    turns.send(globals()[name](*args))


def wait_for_turn() -> None:
    for turns in TURNS:
        turns.send([])
        turns.recv()


class Pixels(DataModule):
    """The first ``limit`` images of MNIST if it is in ``root``, else, or if they are of another size, random ones."""

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


class Clock(Callback):
    """Seconds of each step, a mean for each epoch, with what is logged and saved at its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.note(trainer)
        wait_for_turn()
        self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.note(trainer)

    def note(self, trainer: Trainer) -> None:
        if self.started is not None:
            self.seconds.append((time.perf_counter() - self.started) / trainer.num_training_batches)
            self.started = None


class Alternately(Clock):
    """The steps alone; in every other epoch, from the second on, without what keeps a run from being lost."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.all = trainer.callbacks  # type: ignore[attr-defined]
        protections = (SkipNonFinite, Signals, Resume, LastCheckpoint) if trainer.current_epoch % 2 else ()
        trainer.callbacks = [each for each in self.all if not isinstance(each, protections)]  # type: ignore[attr-defined]
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.note(trainer)


class FirstStep(Callback):
    """Ends the process after the first step."""

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        os._exit(0)


class Batches:
    """The cheapest loader there is: whole batches of pixels, in a new order each epoch."""

    def __init__(self, images: Tensor, targets: Tensor, size: int) -> None:
        self.images, self.targets, self.size = images, targets, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.images)).split(self.size):
            yield self.images.index_select(0, index), self.targets.index_select(0, index)


class Plain(LightningModule):
    """What people write first: no logs, no metrics."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        return loss_of(self.net, *batch)

    def configure_optimizers(self) -> Any:
        return adam(self.net)


class ByOne(Dataset):
    """A data set as tutorials have it: a picture at a time, through torchvision's transforms."""

    def __init__(self, images: Tensor, targets: Tensor, transforms: Sequence[Any]) -> None:
        self.pictures = [F.to_pil_image(image) for image in images]
        self.targets, self.transform = targets.tolist(), v2.Compose(transforms)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[position]), self.targets[position]


def tensors() -> list[Any]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.13], [0.31])]


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=1e-3)


def loss_of(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(net((images - 33.3) / 78.6), targets)


def bare(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the seconds of a step in each epoch of a hand-written loop over tensors in memory."""
    return loop(NETS[net](10), Batches(*data.load(True), batch_size), loss_of, epochs)


def tutorial(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """The same over pictures, transformed one by one."""
    loader = DataLoader(ByOne(*data.load(True), tensors()), batch_size, shuffle=True)
    return loop(NETS[net](10), loader, lambda net, images, targets: cross_entropy(net(images), targets), epochs)


def loop(net: nn.Module, loader: Any, loss: Callable[..., Tensor], epochs: int) -> list[float]:
    optimizer, seconds = adam(net), []
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # as without Lightning
    for _ in range(epochs):
        wait_for_turn()
        started = time.perf_counter()
        for images, targets in loader:
            optimizer.zero_grad()
            loss(net, images, targets).backward()
            optimizer.step()
        seconds.append((time.perf_counter() - started) / len(loader))
    return seconds


def barebones(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Lightning with everything switched off."""
    return lightning(net, Batches(*data.load(True), batch_size), epochs, barebones=True)


def defaults(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Lightning as it comes: bar, logger, checkpoint; nothing is logged."""
    return lightning(net, Batches(*data.load(True), batch_size), epochs, default_root_dir=RUNS)


def lightning(net: str, loader: Any, epochs: int, **settings: Any) -> list[float]:
    clock = Clock()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as Lightning sets it
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[clock], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Plain(NETS[net](10)), loader)
    return clock.seconds


def stock(net: str, batch_size: int, epochs: int, data: Pixels, clock: type[Clock] = Clock) -> list[float]:
    """This template's ``fit``: bar, CSV and TensorBoard, loss and accuracy, best and last checkpoint, resume."""
    typed = {
        "data": "scripts.contenders.Pixels",
        "data.limit": data.limit,
        "data.size": data.size,
        "data.root": data.root,
        "data.batch_size": batch_size,
        "model": "src.tasks.Classifier",
        "model.num_classes": 10,
        "model.net": "scripts.contenders.Net",
        "model.net.name": net,
        "model.optimizer": "torch.optim.Adam",
        "model.optimizer.lr": 1e-3,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": epochs,
        "trainer.limit_val_batches": 0,
        "trainer.default_root_dir": RUNS,
        "trainer.callbacks": f"scripts.contenders.{clock.__name__}",
        "best.monitor": "train/loss",
        "test": "false",
    }
    cli = main(["fit", *(f"--{key}={value}" for key, value in typed.items())])
    return next(callback.seconds for callback in cli.trainer.callbacks if isinstance(callback, Clock))


def alternately(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    return stock(net, batch_size, epochs, data, Alternately)


def saves(count: int) -> dict[str, list[float]]:
    """Return the seconds that 40 MB take to be saved over an older file, ``count`` times each way."""
    content = {"state_dict": {"weight": torch.rand(10_000_000)}}
    times: dict[str, list[float]] = {"durable": [], "Lightning's": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for _ in range(count):
            for (name, found), way in zip(times.items(), (Durable(), TorchCheckpointIO()), strict=True):
                started = time.perf_counter()
                way.save_checkpoint(content, Path(folder) / f"{name}.ckpt")
                found.append(time.perf_counter() - started)
    return times


def unfolded(images: Tensor) -> Tensor:
    """Random crop (4), flip and normalisation of a batch as one index into a view of all windows."""
    n, _, h, w = images.shape
    padded = nn.functional.pad(images.float(), [4] * 4, mode="reflect")
    rows, columns = torch.randint(9, (2, n))
    cropped = padded.unfold(2, h, 1).unfold(3, w, 1)[torch.arange(n), :, rows, columns]
    flipped = torch.where(torch.rand(n, 1, 1, 1) < 0.5, cropped.flip(3), cropped)
    return (flipped - 120) / 64


def by_one(images: Tensor) -> Tensor:
    """The same by torchvision, one tensor at a time."""
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.47] * 3, [0.25] * 3),
        ]
    )
    return torch.stack([transform(image) for image in images])
