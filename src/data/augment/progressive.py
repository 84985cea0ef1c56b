"""Images that are small while training begins."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.data.augment.batch import restored


class ProgressiveResize(nn.Module):
    """Shrink images in the first epochs, which then take less time; for nets that take images of any size.

    Progressive resizing, arXiv:2104.00298, section 4, without its growing regularisation.

    Args:
        sizes: pixels of the longer side in the first epoch, in the second and so on; then images are as they are.
    """

    by_position = True  # called with the indices of the samples in the data set, (N,), and the epoch too

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must be a list of numbers of at least 1, got {sizes}")
        self.sizes = sizes
        self.resizes = len(sizes)  # in so many epochs

    def forward(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:  # noqa: ARG002
        longer = max(images.shape[2:])
        if epoch >= len(self.sizes) or self.sizes[epoch] >= longer:
            return images
        size = [max(1, round(side * self.sizes[epoch] / longer)) for side in images.shape[2:]]
        return restored(interpolate(images.float(), size, mode="bilinear", antialias=True), images)
