"""Autoencoder: a plain LightningModule, to show that any of them works as it is."""

from math import prod

import torch
from lightning import LightningModule
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
        pixels = prod(image_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden_size), nn.GELU(), nn.Linear(hidden_size, code_size)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, pixels), nn.Unflatten(1, image_shape)
        )
        self.noise, self.lr = noise, lr

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        images, _ = batch
        loss = mse_loss(self(images + self.noise * torch.randn_like(images)), images)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/loss", mse_loss(self(batch[0]), batch[0]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("test/loss", mse_loss(self(batch[0]), batch[0]))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the restored images, (N, C, H, W)."""
        return self(batch)

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), self.lr)
