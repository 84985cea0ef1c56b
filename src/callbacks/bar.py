"""Bar: the progress bar of a terminal."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class Bar(RichProgressBar):
    """Rich's bar, moved and drawn twice a second and not after each batch, which would cost a small net's step."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=2)
        self.moved = 0.0  # when

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.moved > 0.5 or batch_idx + 1 == self.total_train_batches:
            self.moved = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
