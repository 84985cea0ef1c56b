"""Autoencoder: a plain LightningModule, to show that any of them works as it is."""

from math import prod
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import AdamW, Optimizer


class Autoencoder(LightningModule):
    """Restore images (N, C, H, W) from noisy copies through a short code; Vincent et al., 2008.

    doi:10.1145/1390156.1390294. It needs nothing of this project, and every command works with it.

    Args:
        image_shape: (C, H, W) of the images.
        hidden_size: width of the layer on each side of the code.
        code_size: numbers in the code.
        noise: standard deviation of the noise added to training images, which have standard deviation 1.
        lr: learning rate.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        hidden_size: int = 128,
        code_size: int = 16,
        noise: float = 0.5,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        if min(*image_shape, hidden_size, code_size) < 1:
            raise ValueError(f"sizes must be at least 1, got {image_shape}, {hidden_size} and {code_size}")
        pixels, self.image_shape = prod(image_shape), tuple(image_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden_size), nn.GELU(), nn.Linear(hidden_size, code_size)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, pixels), nn.Unflatten(1, image_shape)
        )
        self.noise, self.lr = noise, lr

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def setup(self, stage: str) -> None:  # noqa: ARG002
        shape = tuple(getattr(self.trainer.datamodule, "shape", ()))  # type: ignore[attr-defined]
        if shape not in ((), self.image_shape):
            raise MisconfigurationException(f"image_shape must be {shape}, that of the data, got {self.image_shape}")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.log_loss("train", batch, self.noise)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.log_loss("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.log_loss("test", batch)

    def log_loss(self, stage: str, batch: Any, noise: float = 0.0) -> Tensor:
        images = batch if isinstance(batch, Tensor) else batch[0]  # with or without targets
        loss = mse_loss(self(images + noise * torch.randn_like(images) if noise else images), images)
        count: Any = torch.full((), float(len(images)), device=loss.device)  # Lightning averages integers wrongly
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss

    def loss_weight(self, batch: Any) -> int:
        """Return by what batches of several processes are weighed; see ``src.protocols.LossWeight``."""
        return len(batch if isinstance(batch, Tensor) else batch[0])

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the restored images, (N, C, H, W)."""
        return self(batch)

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), self.lr)
