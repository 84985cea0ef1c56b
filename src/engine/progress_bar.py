"""The progress bar of a terminal."""

import time
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar

from src.engine.progress import of_epochs


class ProgressBar(RichProgressBar):
    """Rich's bar, refreshed twice a second rather than every batch, which would cost as much as a small net's step."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=2)
        self.refreshed = 0.0  # time in seconds

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        if now - self.refreshed > 0.5 or batch_idx + 1 == self.total_train_batches:
            self.refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}{of_epochs(self.trainer)}".ljust(len(self.validation_description))
