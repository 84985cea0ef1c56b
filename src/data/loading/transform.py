"""BatchTransform: from the pixels of a batch to the inputs of a net."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from src import UserError
from src.data.loading.splits import Samples


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its standard deviation.

    Args:
        mean: mean of each channel (C,), in pixel values.
        std: standard deviation of each channel (C,), in pixel values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @classmethod
    def of(cls, samples: Samples) -> "Normalize":
        """Compute mean and std per channel, over all images in memory or 5,000 evenly spaced image files."""
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


class BatchTransform(nn.Module):
    """Augment, normalize and mix a batch, in this order; targets become int64 or float32.

    Args:
        normalize: applied to the augmented pixels.
        augment: applied in order to pixels in [0, 255]; see ``src.protocols.Augmentation`` and ``augment_batch`` below.
        mix: called with normalized images and one-hot targets (N, K); returns images and soft targets.
        num_classes: number of classes K, needed only by ``mix``.
    """

    def __init__(
        self,
        normalize: Normalize,
        augment: Sequence[nn.Module] = (),
        mix: nn.Module | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.normalize, self.augment, self.mix, self.num_classes = normalize, augment, mix, num_classes

    def forward(self, images: Tensor, targets: Tensor | None, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        for transform in self.augment:
            images, targets = augment_batch(transform, images, targets, index, epoch)
        images = self.normalize(images)
        if targets is None:
            return (images,)
        targets = as_loss_dtype(targets)
        return (images, targets) if self.mix is None else self.mix(images, one_hot(targets, self.num_classes).float())

    def try_out(self, samples: Samples) -> tuple[int, ...]:
        """Apply each transform alone to two samples, and return the shape of the smallest image, (C, H, W).

        Raises:
            UserError: if a transform fails, changes the shape of images, or cannot move masks with them.
        """
        index, images, *targets = samples[torch.arange(min(2, len(samples)))]
        batch = (images, targets[0] if targets else None, index)
        steps = [("augment", transform, BatchTransform(self.normalize, [transform])) for transform in self.augment]
        if self.mix is not None:
            steps.append(("mix", self.mix, BatchTransform(self.normalize, (), self.mix, self.num_classes)))
        shape = images.shape
        for argument, transform, alone in steps:
            name = f"data.{argument}: {type(transform).__name__}"
            if argument == "augment" and type(transform).__module__.startswith("torchvision."):
                raise UserError(
                    f"{name} uses the same random parameters for the whole batch; wrap it in src.data.PerSample"
                )
            smallest = smallest_output(name, alone, batch, getattr(transform, "resizes", 1))
            if hasattr(transform, "resizes"):
                shape = smallest
            elif smallest != images.shape:
                raise UserError(f"{name} must keep the shape {tuple(images.shape)}, got {tuple(smallest)}")
        return tuple(shape[1:])


def augment_batch(
    transform: nn.Module, images: Tensor, targets: Tensor | None, index: Tensor, epoch: int
) -> tuple[Tensor, Tensor | None]:
    """Return transformed images and their targets.

    Classes and numbers stay as they are. Masks move with the images: the transform has
    ``with_masks(images, masks) -> (images, masks)``, or says ``moves_pixels = False``.

    Args:
        transform: called with images alone; also with index and epoch if it says ``by_position = True``.
        images: (N, C, H, W), in [0, 255].
        targets: classes (N,), numbers (N,) or (N, D), masks (N, H, W), or None.
        index: positions of the samples in the dataset, (N,).
        epoch: current epoch, from 0.

    Raises:
        UserError: if the targets are masks and the transform cannot move them.
    """
    position = (index, epoch) if getattr(transform, "by_position", False) else ()
    if targets is None or targets.ndim < 3 or not getattr(transform, "moves_pixels", True):
        return transform(images, *position), targets
    with_masks = getattr(transform, "with_masks", None)
    if targets.ndim > 3 or with_masks is None:
        raise UserError(
            f"data.augment: {type(transform).__name__} cannot move masks {tuple(targets.shape)} with the images: "
            "remove it, or give it with_masks(images, masks)"
        )
    return with_masks(images, targets, *position)


def smallest_output(name: str, transform: BatchTransform, batch: tuple[Any, ...], epochs: int) -> torch.Size:
    """Return the shape of the smallest images (N, C, H, W) that a transform makes in its first epochs.

    Raises:
        UserError: with ``name``, if the transform fails.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return min((transform(*batch, epoch)[0] for epoch in range(epochs)), key=torch.numel).shape
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{name} fails on images {tuple(batch[0].shape)}: {reason}") from error


def as_loss_dtype(targets: Tensor) -> Tensor:
    """Return numbers as float32, classes and masks as int64, as losses expect."""
    return targets.float() if targets.is_floating_point() else targets.long()
