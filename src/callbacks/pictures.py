"""Pictures: what a net predicts and how, drawn from what the validation computes anyway."""

import warnings
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from src import require
from src.analysis.training.layers import find_layers
from src.callbacks.seen import Seen, first_tensor


class Pictures(Callback):
    """Draw pictures of the best checkpoint when a run ends, into the folder ``pictures`` of the run and TensorBoard.

    Of classes: confusion matrix, recall per class, calibration, the worst and typical samples with probabilities, and
    the features before the last layer; of numbers: residuals and the worst samples; of masks: overlays and the worst
    classes; of embeddings: neighbors. Of every module: filters of the first layer and feature maps of one image, and in
    TensorBoard the graph. Samples are those of the validation split, at most 5,000, and of the first process. Nothing
    is computed in training steps, and no random numbers are drawn.

    Args:
        every_n_epochs: also draw in the validation of every n-th epoch; 0: only at the end.
        layers: regular expression for the full names of the modules whose feature maps are drawn, such as
            ``net\\.features\\.[03]``; by default four convolutions from the first to the last.
    """

    def __init__(self, every_n_epochs: int = 0, layers: str | None = None) -> None:
        require(every_n_epochs >= 0, f"every_n_epochs must be at least 0, got {every_n_epochs}")
        self.every_n_epochs, self.pattern = every_n_epochs, layers
        self.folder: Path | None = None
        self.logger: TensorBoardLogger | None = None
        self.seen: Seen | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if self.pattern is not None:
            find_layers(pl_module, self.pattern)  # refuses a pattern that matches nothing
        folders = [each.log_dir for each in trainer.loggers if each.log_dir]
        if trainer.is_global_zero and folders:
            self.folder = Path(folders[0], "pictures")
            self.logger = next((each for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ends, checkpoint = trainer.state.fn == "validate", Path(str(trainer.ckpt_path))
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if self.folder is None and ends and trainer.is_global_zero and checkpoint.parent.name == "checkpoints":
            self.folder = checkpoint.parents[1] / "pictures"  # of an earlier run
        if self.folder is not None and not trainer.sanity_checking and (ends or due):
            self.seen = Seen(trainer, pl_module, self.pattern)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ARG002
        if self.seen is not None and self.seen.example is None and (inputs := first_tensor(batch)) is not None:
            self.seen.example = inputs[:1] if len(inputs) else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seen is None or self.folder is None:
            return
        self.seen.close()
        seen, self.seen, fits = self.seen, None, trainer.state.fn == "fit"
        # during fit not a file of its own, to which TensorBoard would turn for good
        logger = self.logger if fits else TensorBoardLogger(self.folder.parent, name="", version="", log_graph=True)
        prefix = f"epoch_{trainer.current_epoch + 1:03}" if fits else "best" if trainer.ckpt_path else "last"
        for name, draw in seen.figures():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font lacks
                    draw().savefig(file := self.folder / f"{prefix}_{name}.png")
                if logger is not None:
                    pixels = np.asarray(Image.open(file).convert("RGB"))
                    logger.experiment.add_image(f"pictures/{name}", pixels, trainer.global_step, dataformats="HWC")
            except Exception as error:  # a picture is not worth a run
                rank_zero_warn(f"Pictures cannot draw {name}: {' '.join(str(error).split())[:200]}")
        if logger is not None and not fits:
            save_graph(logger, pl_module, seen.example)
            logger.experiment.close()

    def on_exception(self, *args: Any) -> None:  # noqa: ARG002
        if self.seen is not None:
            self.seen.close()
            self.seen = None


def save_graph(logger: TensorBoardLogger, module: LightningModule, example: Tensor | None) -> None:
    """Write the graph of ``forward`` for the inputs of a sample; nothing where torch cannot trace it."""
    if example is not None:
        with warnings.catch_warnings(), suppress(Exception), redirect_stdout(StringIO()), torch.random.fork_rng([]):
            warnings.simplefilter("ignore")
            logger.log_graph(module, example)
