"""Augmentations of kornia, an optional package."""

from torch import Tensor, nn

from src import UserError
from src.data.augment.batch import cast_like


class Kornia(nn.Module):
    """Apply augmentations of ``kornia.augmentation`` in order, each sample with its own draw; masks move with images.

    Install kornia with ``make extras``; docs/augmentation.md says what it adds and what to watch for.

    Args:
        transforms: kornia augmentations that keep the image size, called with float32 images in [0, 1].
    """

    def __init__(self, transforms: list[nn.Module]) -> None:
        super().__init__()
        try:
            from kornia.augmentation import AugmentationSequential
            from kornia.constants import DataKey
        except ImportError as error:
            raise UserError("kornia is not installed: make extras installs it") from error
        # Replaces a default of align_corners=None, with which RandomElasticTransform warns
        self.transforms = AugmentationSequential(*transforms, extra_args={DataKey.MASK: {"resample": "nearest"}})

    def forward(self, images: Tensor) -> Tensor:
        return cast_like(self.transforms(images.float() / 255, data_keys=["input"]) * 255, images)

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Transform images (N, C, H, W) and masks (N, H, W) together, masks with nearest neighbor.

        Raises:
            UserError: if one of the transforms does not support masks.
        """
        inputs = images.float() / 255, masks[:, None]
        try:
            moved, moved_masks = self.transforms(*inputs, data_keys=["input", "mask"])
        except NotImplementedError as error:
            names = ", ".join(type(transform).__name__ for transform in self.transforms)
            raise UserError(f"data.augment: Kornia: one of {names} does not support masks: remove it") from error
        return cast_like(moved * 255, images), moved_masks[:, 0]
