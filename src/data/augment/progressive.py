"""Train on smaller images at first."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.data.augment.batch import cast_like


class ProgressiveResize(nn.Module):
    """Shrink images in the first epochs to speed them up; for nets that accept any image size.

    Progressive resizing, arXiv:2104.00298, section 4, without its growing regularization.

    Args:
        sizes: longer side of the images, in pixels, in epochs 0, 1, ...; later epochs use the original size.
    """

    by_position = True  # also called with the samples' indices in the dataset, (N,), and the epoch

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must be a list of numbers of at least 1, got {sizes}")
        self.sizes = sizes
        self.resizes = len(sizes)  # number of epochs with another size

    def forward(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:  # noqa: ARG002
        longer = max(images.shape[2:])
        if epoch >= len(self.sizes) or self.sizes[epoch] >= longer:
            return images
        size = [max(1, round(side * self.sizes[epoch] / longer)) for side in images.shape[2:]]
        return cast_like(interpolate(images.float(), size, mode="bilinear", antialias=True), images)

    def with_masks(self, images: Tensor, masks: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Resize images (N, C, H, W) and masks (N, H, W), the masks with nearest neighbor."""
        images = self(images, index, epoch)
        resized = interpolate(masks[:, None].float(), images.shape[2:], mode="nearest-exact")
        return images, resized[:, 0].to(masks.dtype)
