"""Prepare: from the pixels of a batch to what a net is trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from src import UserError
from src.data.normalize import Normalize
from src.data.samples import Samples


class Prepare(nn.Module):
    """Augment, normalise and mix a batch, in this order.

    Args:
        normalize: centres and scales the pixels.
        augment: each called with images (N, C, H, W) in [0, 255]; one that has ``by_position`` also with the indices of
            the samples in the data set, (N,), and the epoch.
        mix: called with normalised images and one-hot targets (N, K), returns both: soft targets.
        num_classes: number of classes K, needed by ``mix`` alone.
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
        for augment in self.augment:
            positions = (index, epoch) if getattr(augment, "by_position", False) else ()
            images = augment(images, *positions)
        images = self.normalize(images)
        if targets is None:
            return (images,)
        if self.mix is None:
            return images, targets
        return self.mix(images, one_hot(targets, self.num_classes).float())

    def try_out(self, samples: Samples) -> tuple[int, ...]:
        """Call each transform with two samples and return the shape of the smallest image it makes, (C, H, W).

        Raises:
            UserError: for one that fails or does not return images of the shape that it was given.
        """
        first = torch.arange(min(2, len(samples)))
        index, images, targets = samples[first]
        shape = images.shape
        parts = [("augment", each, Prepare(self.normalize, [each])) for each in self.augment]
        if self.mix is not None:
            parts.append(("mix", self.mix, Prepare(self.normalize, (), self.mix, self.num_classes)))
        for name, each, alone in parts:
            if name == "augment" and type(each).__module__.startswith("torchvision."):
                raise UserError(
                    f"data.augment: {type(each).__name__} draws once a batch: wrap it in src.data.PerSample"
                )
            shown = f"data.{name}: {type(each).__name__}"
            try:
                with torch.random.fork_rng(devices=[]):
                    epochs = range(getattr(each, "resizes", 1))
                    made = min((alone(images, targets, index, epoch)[0] for epoch in epochs), key=torch.numel)
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:150]
                raise UserError(f"{shown} fails on images {tuple(images.shape)}: {reason}") from error
            if hasattr(each, "resizes"):
                shape = made.shape
            elif made.shape != images.shape:
                raise UserError(f"{shown} must keep the shape {tuple(images.shape)}, got {tuple(made.shape)}")
        return tuple(shape[1:])
