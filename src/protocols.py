"""Names that the project looks up on other people's objects, as ``typing.Protocol``s."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class InitFromData(Protocol):
    """A module whose initial weights depend on training images, such as whitening filters."""

    def init_from_data(self, images: Tensor) -> None:
        """Set the weights from normalized training images (N, C, H, W)."""


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
    """A batch augmentation that leaves every pixel in its place, so that masks need no change."""

    moves_pixels: bool


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
class Resumable(Protocol):
    """A DataLoader that can resume in the middle of an epoch."""

    state_dict: Callable[[], dict[str, Any]]
    load_state_dict: Callable[[dict[str, Any]], None]
