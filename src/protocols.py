"""Optional interfaces of user-defined classes, as ``typing.Protocol``s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class ImageData(Protocol):
    """What the project reads from a data module; ``src.data.DataModule`` has all of it, other modules need none."""

    class_names: list[str] | None  # None if targets are not classes
    splits: dict[str, Any]  # train, val, test, predict
    shape: tuple[int, ...]  # of one image, (C, H, W); empty until known
    smallest_shape: tuple[int, ...]  # of the smallest image that augmentation makes
    holds_images: bool  # False for a table, which cannot be drawn or read from image files
    files: dict[str, list[str]]  # file name of each image in a split; empty if not read from image files
    split_hash: str  # identifies the training and validation split
    seed: int  # of training
    tests: bool  # whether fit ends with a test
    mix: nn.Module | None
    normalize: Any


@runtime_checkable
class KnownClasses(Protocol):
    """A data module that knows its number of classes before it loads anything."""

    num_classes: int


@runtime_checkable
class Describes(Protocol):
    """A data module that prints rows, names and values, when training starts."""

    def describe_splits(self) -> list[tuple[str, str]]:
        """Return for example the number of images per class and split."""


class Augmentation(Protocol):
    """What a batch augmentation may have besides ``forward(images)``; each name is optional."""

    by_position: bool  # True: called with (images, index, epoch); index is the dataset index of each sample, (N,)
    resizes: int  # the number of first epochs in which images change their size
    moves_pixels: bool  # False: every pixel stays in its place, so masks need no change

    def with_masks(self, images: Tensor, masks: Tensor, *position: Any) -> tuple[Tensor, Tensor]:
        """Apply the same random transform to images (N, C, H, W) and masks (N, H, W)."""


@runtime_checkable
class InitFromData(Protocol):
    """A net or layer whose initial weights depend on training images, such as whitening filters."""

    def init_from_data(self, images: Tensor) -> None:
        """Set the weights from normalized training images (N, C, H, W)."""


@runtime_checkable
class Monitored(Protocol):
    """A LightningModule that chooses the metric for the best checkpoint."""

    monitor: tuple[str, Literal["max", "min"]]


@runtime_checkable
class WarmedUp(Protocol):
    """A LightningModule whose learning rate warms up."""

    warmup_steps: int


@runtime_checkable
class Pretrained(Protocol):
    """A LightningModule that loads ``weights`` before training, unless a checkpoint has replaced them by None."""

    weights: Any
    rename: Any
    note: str  # what was loaded, to print when training starts


@runtime_checkable
class LossWeight(Protocol):
    """A LightningModule that knows what its loss divides by, so that batches can be weighed exactly."""

    def loss_weight(self, batch: Any) -> Tensor | float | None:
        """Return the denominator of a batch's loss: its samples or summed class weights; None if the loss is a sum."""


@runtime_checkable
class HasEpochMeans(Protocol):
    """A LightningModule with running means of its training steps; repeating a step must first restore them."""

    train_means: Any


@runtime_checkable
class LoadsRuns(Protocol):
    """A LightningModule that loads other runs when training starts."""

    loads_runs: bool  # False for ``schedule``, which trains nothing
    trust_runs: bool  # whether their configs may name any code; ``fit --trust`` sets it


@runtime_checkable
class DrawsPredictions(Protocol):
    """A LightningModule whose predictions are pictures, such as masks."""

    def draw_predictions(self, images: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """Return pictures by name, uint8: of classes (N, H, W), or (N, 1 or 3, H, W).

        ``images`` are pixels (N, C, H, W), uint8; ``outputs`` is what ``predict_step`` returned for them.
        """


@runtime_checkable
class Averageable(Protocol):
    """A task whose predictions an ensemble averages. Not embeddings: the axes of two nets do not correspond."""

    def soft_predictions(self, inputs: Tensor) -> Tensor:
        """Return what is averaged: probabilities (N, K, ...), or numbers in the units of the data (N, D)."""

    def compare(self, soft: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions and targets that metrics compare."""

    def decide(self, soft: Tensor) -> Any:
        """Return what ``predict_step`` returns."""


@runtime_checkable
class Resumable(Protocol):
    """A DataLoader that resumes within an epoch from the position in its state."""

    state_dict: Any
    load_state_dict: Any
