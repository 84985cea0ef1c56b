"""The contenders of the benchmark: the stock command, plain loops, stock Lightning, other ways to save and augment."""

import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from src.cli import keep_freed_memory, main
from src.runs.checkpoint import AtomicCheckpointIO
from tools.workloads import (
    DEVICE,
    NETS,
    RUNS,
    TURNS,
    Alternating,
    Batches,
    Clock,
    PerSample,
    Pixels,
    Plain,
    adam,
    loss_of,
    synchronize,
    wait_for_turn,
)

OURS = ("stock", "alternating")


def in_turns(turns: Connection, name: str, *args: Any) -> None:
    """Run a contender in this process; wait for a turn before each epoch, and send the times at the end."""
    if name in OURS:
        keep_freed_memory()
    TURNS.append(turns)
    turns.send(globals()[name](*args))


def bare(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the seconds per step in each epoch of a plain loop over tensors in memory."""
    return loop(NETS[net](10), Batches(*data.load(True), batch_size), loss_of, epochs)


def tutorial(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the same for a loop over images that are transformed one by one."""
    transforms = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.13], [0.31])]
    loader = DataLoader(PerSample(*data.load(True), transforms), batch_size, shuffle=True)
    return loop(NETS[net](10), loader, lambda net, images, targets: cross_entropy(net(images), targets), epochs)


def loop(net: nn.Module, loader: Any, loss: Callable[..., Tensor], epochs: int) -> list[float]:
    optimizer, seconds = adam(net.to(DEVICE)), []
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # the default without Lightning
    for _ in range(epochs):
        wait_for_turn()
        started = time.perf_counter()
        for images, targets in loader:
            optimizer.zero_grad()
            loss(net, images.to(DEVICE), targets.to(DEVICE)).backward()
            optimizer.step()
        synchronize()
        seconds.append((time.perf_counter() - started) / len(loader))
    return seconds


def barebones(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the same for Lightning with everything switched off."""
    return lightning(net, Batches(*data.load(True), batch_size), epochs, barebones=True)


def defaults(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the same for Lightning's defaults: progress bar, logger, checkpoint; nothing is logged."""
    return lightning(net, Batches(*data.load(True), batch_size), epochs, default_root_dir=RUNS)


def lightning(net: str, loader: Any, epochs: int, **settings: Any) -> list[float]:
    clock = Clock()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # Lightning's default
    trainer = Trainer(max_epochs=epochs, accelerator=DEVICE.type, callbacks=[clock], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Plain(NETS[net](10)), loader)
    return clock.seconds


def stock(net: str, batch_size: int, epochs: int, data: Pixels, clock: type[Clock] = Clock) -> list[float]:
    """Return the same for ``fit``: progress bar, CSV, TensorBoard, metrics, best and last checkpoint, exact resume."""
    settings = {
        "data.limit": data.limit,
        "data.size": data.size,
        "data.root": data.root,
        "data.batch_size": batch_size,
        "model.net.name": net,
        "model.optimizer.lr": 1e-3,
        "trainer.max_epochs": epochs,
        "trainer.default_root_dir": RUNS,
        "trainer.callbacks": f"tools.workloads.{clock.__name__}",
    }
    experiment = main(["fit", *fit_args(settings)], owns_process=True)
    return next(callback.seconds for callback in experiment.trainer.callbacks if isinstance(callback, Clock))


def fit_args(settings: dict[str, Any]) -> list[str]:
    """Return the arguments of a ``fit`` of ``Pixels`` without validation and test."""
    base = {
        "data": "tools.workloads.Pixels",
        "model": "src.tasks.Classifier",
        "model.num_classes": 10,
        "model.net": "tools.workloads.Net",
        "model.optimizer": "torch.optim.Adam",
        "trainer.accelerator": DEVICE.type,
        "trainer.limit_val_batches": 0,
        "best.monitor": "train/loss",
        "test": "false",
    }
    return [f"--{key}={value}" for key, value in (base | settings).items()]


def alternating(net: str, batch_size: int, epochs: int, data: Pixels) -> list[float]:
    """Return the same for ``fit`` without its protection in every other epoch."""
    return stock(net, batch_size, epochs, data, Alternating)


def peak_memory(epochs: int) -> tuple[float, float]:
    """Return the peak memory of this process in MiB after the first and the last epoch of ``fit``."""

    def stop(clock: Clock, trainer: Trainer) -> None:  # noqa: ARG001
        clock.seconds.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    keep_freed_memory()
    with patch.object(Clock, "stop", stop):
        peaks = stock("MLP", 256, epochs, Pixels(60_000))
    return peaks[1], peaks[-1]


def saves(count: int) -> dict[str, list[float]]:
    """Return the seconds per save of 40 MB over an older file, ``count`` times each way."""
    content = {"state_dict": {"weight": torch.rand(10_000_000)}}
    times: dict[str, list[float]] = {"atomic": [], "Lightning's": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for _ in range(count):
            for (name, found), way in zip(times.items(), (AtomicCheckpointIO(), TorchCheckpointIO()), strict=True):
                started = time.perf_counter()
                way.save_checkpoint(content, Path(folder) / f"{name}.ckpt")
                found.append(time.perf_counter() - started)
    return times


def unfolded(images: Tensor) -> Tensor:
    """Crop (4), flip and normalize a batch at random, by one index into a view of all windows."""
    n, _, h, w = images.shape
    padded = nn.functional.pad(images.float(), [4] * 4, mode="reflect")
    rows, columns = torch.randint(9, (2, n))
    cropped = padded.unfold(2, h, 1).unfold(3, w, 1)[torch.arange(n), :, rows, columns]
    flipped = torch.where(torch.rand(n, 1, 1, 1) < 0.5, cropped.flip(3), cropped)
    return (flipped - 120) / 64


def per_sample(images: Tensor) -> Tensor:
    """Do the same by torchvision, one image at a time."""
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.47] * 3, [0.25] * 3),
        ]
    )
    return torch.stack([transform(image) for image in images])
