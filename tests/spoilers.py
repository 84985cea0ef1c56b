"""Callbacks and a net that go wrong on purpose, and a plain LightningModule with plain DataLoaders."""

import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Trace(Callback):
    """Append a hash of the batch and the loss of each step to a file that outlives the process."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        digest = sha256(b"".join(part.detach().cpu().numpy().tobytes() for part in batch)).hexdigest()[:16]
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs).hex()
        with Path("trace.txt").open("a", encoding="utf-8") as file:
            file.write(f"{trainer.global_rank}.{trainer.current_epoch}.{batch_idx} {digest} {loss}\n")


class Spoil(Callback):
    """Make the pixels, loss or gradients of some steps NaN or infinite.

    Args:
        kind: ``pixels``, ``loss`` or ``gradient``.
        first: the first of the steps.
        count: the number of steps.
    """

    def __init__(self, kind: str, first: int, count: int) -> None:
        self.kind, self.steps = kind, range(first, first + count)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if self.kind == "pixels" and trainer.global_step in self.steps:
            batch[0][0] = float("nan")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:  # noqa: ARG002
        if self.kind == "loss" and trainer.global_step in self.steps:
            loss.data.fill_(float("inf"))
            loss.register_hook(lambda gradient: gradient * float("inf"))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.kind == "gradient" and trainer.global_step in self.steps:
            next(p.grad for p in pl_module.parameters() if p.grad is not None)[0] = float("-inf")


class Backward(torch.autograd.Function):
    """The identity, whose backward runs out of memory for a large batch."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, max_images: int) -> Tensor:
        ctx.max_images = max_images
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if len(gradient) > ctx.max_images:
            raise torch.OutOfMemoryError("out of memory (simulated)")
        return gradient, None


class Greedy(nn.Module):
    """A net that runs out of memory in training when a batch has more than a few images.

    Args:
        num_outputs: number of outputs.
        max_images: number of images that fit.
        where: whether memory runs out in ``forward`` or in ``backward``.
        after: number of training batches before that, all of which fit.
    """

    def __init__(self, num_outputs: int, max_images: int = 10**9, where: str = "forward", after: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, num_outputs)
        self.max_images, self.where, self.after = max_images, where, after

    def forward(self, images: Tensor) -> Tensor:
        self.after -= self.training
        limited = self.training and self.after < 0
        if limited and self.where == "forward" and len(images) > self.max_images:
            raise torch.OutOfMemoryError("out of memory (simulated)")
        hidden = self.first(images.flatten(1))
        if limited and self.where == "backward":
            hidden = Backward.apply(hidden, self.max_images)
        return self.last(hidden)


class Noisy(Dataset):
    """40 samples (4,) with noise from the generators of torch, Python and NumPy."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Tensor:
        return torch.full((4,), i / 40.0) + torch.rand(4) + random.random() + float(np.random.rand())


class Stream(IterableDataset):
    """20 random samples of ``Noisy``, as a stream without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (Noisy()[random.randrange(40)] for _ in range(20))


class OwnData(LightningDataModule):
    """Plain DataLoaders of ``Noisy``.

    Args:
        num_workers: number of worker processes.
        stream: whether to train on ``Stream``.
    """

    def __init__(self, num_workers: int = 0, stream: bool = False) -> None:
        super().__init__()
        self.num_workers, self.stream = num_workers, stream

    def train_dataloader(self) -> DataLoader:
        data: Any = Stream() if self.stream else Noisy()
        return DataLoader(data, 8, shuffle=None if self.stream else True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Noisy(), 8, num_workers=self.num_workers)  # type: ignore[type-var]


class OwnModule(LightningModule):
    """A plain LightningModule with dropout.

    Args:
        stop_at: the step in which it raises an error, as if the run were interrupted; by default none.
    """

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.net, self.stop_at = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1)), stop_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        if self.global_step == self.stop_at:
            raise OSError("interrupted")
        loss = self.net(batch).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/accuracy", self.net(batch).mean() + torch.rand(()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Sharded(LightningModule):
    """A classifier of digits whose weights are split among the processes of a ModelParallelStrategy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def configure_model(self) -> None:
        if self._device_mesh is not None and not hasattr(self.net, "unshard"):  # called once for each command
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        accuracy = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/accuracy", accuracy, sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("test/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
