"""What faults are made of: callbacks, a net, a module and loaders that go wrong, or that keep no rule of ours."""

import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Trace(Callback):
    """Notes what each step was trained on, and its loss, in a file that outlives the process."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        seen = sha256(b"".join(part.detach().cpu().numpy().tobytes() for part in batch)).hexdigest()[:16]
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs).hex()
        with Path("trace.txt").open("a") as file:
            file.write(f"{trainer.global_rank}.{trainer.current_epoch}.{batch_idx} {seen} {loss}\n")


class Spoil(Callback):
    """Makes pixels, loss or gradients of some steps NaN or infinite.

    Args:
        kind: pixels, loss or gradient.
        first: the first of the steps.
        count: how many they are.
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
    """The identity; memory runs out in backward if the batch is large."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, most: int) -> Tensor:
        ctx.most = most
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if len(gradient) > ctx.most:
            raise torch.OutOfMemoryError("out of memory, as if")
        return gradient, None


class Greedy(nn.Module):
    """A net that has memory for a few images alone.

    Args:
        num_outputs: number of outputs.
        most: how many images fit.
        where: whether memory runs out in forward or in backward.
        begin: how many batches all fit before.
    """

    def __init__(self, num_outputs: int, most: int = 10**9, where: str = "forward", begin: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, num_outputs)
        self.most, self.where, self.begin = most, where, begin

    def forward(self, images: Tensor) -> Tensor:
        self.begin -= self.training
        hungry = self.training and self.begin < 0
        if hungry and self.where == "forward" and len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory, as if")
        hidden = self.first(images.flatten(1))
        if hungry and self.where == "backward":
            hidden = Backward.apply(hidden, self.most)
        return self.last(hidden)


class Noisy(Dataset):
    """Samples that three generators change each time."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Tensor:
        return torch.full((4,), i / 40.0) + torch.rand(4) + random.random() + float(np.random.rand())


class Stream(IterableDataset):
    """The same without a length or an order of its own."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (Noisy()[random.randrange(40)] for _ in range(20))


class OwnData(LightningDataModule):
    """Plain DataLoaders."""

    def __init__(self, num_workers: int = 0, stream: bool = False) -> None:
        super().__init__()
        self.num_workers, self.stream = num_workers, stream

    def train_dataloader(self) -> DataLoader:
        data: Any = Stream() if self.stream else Noisy()
        return DataLoader(data, 8, shuffle=None if self.stream else True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Noisy(), 8, num_workers=self.num_workers)  # type: ignore[type-var]


class OwnModule(LightningModule):
    """A net with dropout, which stops the process as if it were cut off."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.net, self.stop_at = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1)), stop_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        if self.global_step == self.stop_at:
            raise OSError("cut off")
        loss = self.net(batch).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/accuracy", self.net(batch).mean() + torch.rand(()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)
