"""Normalize: the pixels of a training part, centred and scaled."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.data.samples import Samples


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its deviation.

    Args:
        mean: of each channel, (C,), in units of the pixels.
        std: of each channel, (C,), in units of the pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @classmethod
    def of(cls, samples: Samples) -> "Normalize":
        """Measure the pixels of a part: all of those in memory, of image files 5,000 spread evenly."""
        index = samples.index if isinstance(samples.images, Tensor) else samples.index[:: max(1, len(samples) // 5000)]
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for chunk in index.split(1000):
            pixels = samples.images[chunk].double()
            count += pixels[:, 0].numel()
            total = total + pixels.sum((0, 2, 3))
            square = square + pixels.square().sum((0, 2, 3))
        mean = total / count
        return cls(mean.tolist(), (square / count - mean.square()).clamp(min=1e-12).sqrt().tolist())

    def as_lists(self) -> dict[str, list[float]]:
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.to(images.device)
        return (images - self.mean).div_(self.std)
