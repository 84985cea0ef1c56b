"""Apply one transform to a batch: to its images, and to its targets where they are masks."""

from torch import Tensor, nn

from src import UserError


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
