"""Segmenter: one class for each pixel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.utils import draw_segmentation_masks

from src import at_least_float32, require
from src.tasks.base import Task
from src.tasks.scores import segmentation_metrics
from src.tasks.setup import NetFactory, build_net, check_net
from src.tasks.targets import check_masks


class Segmenter(Task):
    """One class for each pixel. Test also logs intersection over union (IoU) per class.

    Args:
        net: class or function of a net that maps images to logits (N, K, H, W), such as ``src.nets.UNet``.
        num_classes: number of classes K, at least 2, the background included.
        loss: function or module of logits (N, K, H, W) and masks (N, H, W): torch.nn.CrossEntropyLoss, or one of
            ``src.losses`` such as SoftDice, SoftIoU and FocalLoss.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    monitor, predicts = ("val/iou", "max"), "masks"
    may_ignore = ()  # masks must have a class everywhere

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        num_classes: int,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        **kwargs: Any,
    ) -> None:
        require(num_classes <= 256, f"num_classes must be at most 256, which predict can write, got {num_classes}")
        require(kwargs.get("tta") != "mirror_shift", "tta must be plain or mirror for outputs per pixel")
        val, test = (segmentation_metrics(num_classes, per_class) for per_class in (False, True))
        super().__init__(net=build_net(net, num_classes), val_metrics=val, test_metrics=test, **kwargs)
        self.num_classes, self.loss = num_classes, loss

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_masks(self)
        check_net(self.net, data, self.num_classes, per_pixel=True)
        super().setup(stage)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        images, masks = batch
        logits = at_least_float32(self(images))
        return self.loss(logits, masks), logits.detach().argmax(1), masks

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the class of each pixel, (N, H, W), uint8."""
        return self(batch).argmax(1).byte()

    def soft_predictions(self, inputs: Tensor) -> Tensor:
        return at_least_float32(self(inputs)).softmax(1)

    def compare(self, soft: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return soft.argmax(1), targets

    def decide(self, soft: Tensor) -> Tensor:
        return soft.argmax(1).byte()

    def draw_predictions(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return pictures of predictions by name: the masks, and images (N, 3, H, W) with colored classes."""
        each = torch.arange(self.num_classes, device=masks.device)[:, None, None]
        pairs = zip(images.expand(-1, 3, -1, -1), masks, strict=True)
        drawn = [draw_segmentation_masks(image, (mask == each)[1:], alpha=0.5) for image, mask in pairs]
        return {"mask": masks, "overlay": torch.stack(drawn)}
