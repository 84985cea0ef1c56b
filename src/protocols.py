"""Names that the project looks up on other people's objects, as ``typing.Protocol``s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class ImageData(Protocol):
    """What the project asks of a data module; ``src.data.DataModule`` has all of it, other data modules need none."""

    class_names: list[str] | None  # None if targets are not classes
    classes: Tensor | None  # class of each training sample, (N,)
    splits: dict[str, Any]  # train, val, test, predict
    shape: tuple[int, ...]  # of one image, (C, H, W); empty until known
    smallest_shape: tuple[int, ...]  # of the smallest image that augmentation makes
    mix: nn.Module | None
    normalize: Any


@runtime_checkable
class Monitored(Protocol):
    """A LightningModule that says which metric selects the best checkpoint."""

    monitor: tuple[str, Literal["max", "min"]]


@runtime_checkable
class InitFromData(Protocol):
    """A net or layer whose initial weights depend on training images, such as whitening filters."""

    def init_from_data(self, images: Tensor) -> None:
        """Set the weights from normalized training images (N, C, H, W)."""


@runtime_checkable
class LossWeight(Protocol):
    """A LightningModule whose loss is not a plain mean over samples."""

    def loss_weight(self, batch: Any) -> Tensor | float:
        """Return what the mean of the loss of a batch divides by, such as the summed class weights."""


@runtime_checkable
class HasEpochMeans(Protocol):
    """A LightningModule that keeps running means of its training steps, which a repeated step must restore."""

    train_means: Any


@runtime_checkable
class ByPosition(Protocol):
    """A batch augmentation that depends on the sample and the epoch, not on chance alone."""

    by_position: bool

    def __call__(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augment images (N, C, H, W), given their indices in the data set (N,) and the epoch."""


@runtime_checkable
class ChangesSize(Protocol):
    """A batch augmentation that returns images of another size in its first ``resizes`` epochs."""

    resizes: int


@runtime_checkable
class MovesMasks(Protocol):
    """A batch augmentation that moves pixels and can move a mask with them."""

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the same random transform to images (N, C, H, W) and masks (N, H, W)."""


@runtime_checkable
class KeepsPixels(Protocol):
    """A batch augmentation with ``moves_pixels = False``: every pixel stays in its place, so masks need no change."""

    moves_pixels: bool


@runtime_checkable
class Resumable(Protocol):
    """A DataLoader that resumes within an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position in the epoch."""
