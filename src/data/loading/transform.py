"""BatchTransform: from the pixels of a batch to the inputs of a net."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from src import UserError, require
from src.data.loading.splits import Samples

MIN_SPREAD = 8.0  # training images that are all alike must not make others stand out by a few gray levels


class Normalize:
    """Subtract the mean of each channel and divide by its standard deviation, (C,) each, in pixel values.

    ``typical`` has the mean and std over images of their brightness, then of their contrast: an image's mean and std.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], typical: Sequence[float] = ()) -> None:
        self.mean, self.std = (torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (mean, std))
        self.typical = torch.tensor(typical, dtype=torch.float32)  # empty in older checkpoints

    @classmethod
    def of(cls, samples: Samples, given: dict[str, list[float]] | None = None) -> "Normalize":
        """Compute mean and std per channel, over all images in memory or up to 9,999 evenly spaced image files,
        those of the first shards.

        Those that are ``given`` replace them.
        """
        index = samples.index
        if not isinstance(samples.images, Tensor):
            index = samples.images.near(index, 5000) if hasattr(samples.images, "near") else index
            index = index[:: max(1, len(index) // 5000)]
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        each = []
        size = samples.images[index[:1]].numel()
        for chunk in index.split(max(1, min(1000, 2**20 // size))):  # doubles of 8 MB
            pixels = samples.images[chunk].double()
            count += pixels[:, 0].numel()
            total = total + pixels.sum((0, 2, 3))
            square = square + pixels.square().sum((0, 2, 3))
            each += brightness_and_contrast(pixels).tolist()  # small tensors would fragment memory
        mean, looks = total / count, torch.tensor(each)
        typical = torch.stack([looks.mean(0), looks.std(0, correction=0)], 1).flatten()
        variance = square / count - mean.square()
        std = variance.where(variance > 1e-8, 1).sqrt()  # a constant channel may differ in other splits
        scales = {"mean": mean.tolist(), "std": std.tolist()} | (given or {})
        valid = len(scales) == 2 and all(len(values) == len(mean) for values in scales.values())
        valid = valid and (not given or min(scales["std"]) >= 1)
        what = f"mean and std of {len(mean)} channels in pixel values [0, 255], std at least 1"
        require(valid, f"normalize must be {what}, got {given}; multiply those of pixels in [0, 1] by 255")
        return cls(**scales, typical=typical.tolist())

    def unlike(self, looks: Tensor) -> Tensor:
        """Tell which images are unlike the training images, (N,), given brightness and contrast of each, (N, 2)."""
        if not len(self.typical):
            return torch.zeros(len(looks), dtype=torch.bool)
        mean, std = self.typical.view(2, 2).T
        return ((looks - mean).abs() > 3 * std.clamp(min=MIN_SPREAD)).any(1)

    def __call__(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return (images - self.mean).div_(self.std)


def brightness_and_contrast(images: Tensor) -> Tensor:
    """Return the mean and the standard deviation of the pixels of each image, (N, 2), as floats."""
    pixels = images.float().flatten(1)
    return torch.stack([pixels.mean(1), pixels.std(1, correction=0)], 1)


@dataclass
class BatchTransform:
    """Augment, normalize and mix a batch, in this order; targets become int64 or float32."""

    normalize: Normalize
    augment: Sequence[nn.Module] = ()  # applied in order to pixels in [0, 255]; see src.protocols.Augmentation
    mix: nn.Module | None = None  # from normalized images and one-hot targets (N, K) to images and soft targets
    num_classes: int = 0  # K, needed only by mix

    def __call__(self, images: Tensor, targets: Tensor | None, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        for transform in self.augment:
            images, targets = augment_batch(transform, images, targets, index, epoch)
        images = self.normalize(images)
        if targets is None:
            return (images,)
        targets = targets.float() if targets.is_floating_point() else targets.long()  # as losses expect
        return (images, targets) if self.mix is None else self.mix(images, one_hot(targets, self.num_classes).float())

    def try_out(self, samples: Samples) -> tuple[int, ...]:
        """Apply each transform alone to two samples, and return the shape of the smallest image, (C, H, W).

        Refuse a transform that fails, changes the shape of images, or cannot move masks with them.
        """
        index, images, *targets = samples[torch.arange(min(2, len(samples)))]
        batch = (images, targets[0] if targets else None, index)
        steps = [("augment", transform, BatchTransform(self.normalize, [transform])) for transform in self.augment]
        if self.mix is not None:
            steps.append(("mix", self.mix, BatchTransform(self.normalize, (), self.mix, self.num_classes)))
        shape = images.shape
        for argument, transform, alone in steps:
            name, resizes = f"data.{argument}: {type(transform).__name__}", getattr(transform, "resizes", 0)
            per_batch = argument == "augment" and type(transform).__module__.startswith("torchvision.")
            same = "uses the same random parameters for the whole batch; wrap it in src.data.PerSample"
            require(not per_batch, f"{name} {same}")
            try:
                with torch.random.fork_rng(devices=[]):
                    results = [alone(*batch, epoch)[0] for epoch in range(resizes or 1)]
            except UserError:
                raise
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:150]
                raise UserError(f"{name} fails on images {tuple(images.shape)}: {reason}") from error
            smallest, expected = min(results, key=torch.numel).shape, tuple(images.shape)
            require(resizes or smallest == expected, f"{name} must keep the shape {expected}, got {tuple(smallest)}")
            shape = smallest if resizes else shape
        return tuple(shape[1:])


def augment_batch(
    transform: nn.Module, images: Tensor, targets: Tensor | None, index: Tensor, epoch: int
) -> tuple[Tensor, Tensor | None]:
    """Transform images (N, C, H, W), in [0, 255], and move masks (N, H, W) with them; other targets stay as they are.

    See ``src.protocols.Augmentation`` for what a transform may have; index holds dataset indices (N,).
    """
    position = (index, epoch) if getattr(transform, "by_position", False) else ()
    if targets is None or targets.ndim < 3 or not getattr(transform, "moves_pixels", True):
        return transform(images, *position), targets
    with_masks = getattr(transform, "with_masks", None) if targets.ndim == 3 else None
    if with_masks is None:
        problem = f"{type(transform).__name__} cannot move masks {tuple(targets.shape)} with the images"
        raise UserError(f"data.augment: {problem}: remove it, or give it with_masks(images, masks)")
    return with_masks(images, targets, *position)
