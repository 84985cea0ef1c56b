"""What a validation computes anyway, for pictures of it."""

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from src.analysis.model.subject import tensors
from src.analysis.outputs import as_array
from src.analysis.training.layers import find_layers
from src.analysis.training.predictions import Predictions
from src.analysis.training.sheets import draw_filters, draw_maps
from src.protocols import ImageData

SAMPLES = 5000  # whose predictions are kept, evenly spread over the split
PIXELS = 2**26  # bytes of their images that are kept


class Seen:
    """Predictions, targets, features and images of samples, as a task's ``evaluate`` computes them.

    Of any module, also the feature maps (C, H, W) of the first image and the filters of the first layer.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, pattern: str | None) -> None:
        self.data, self.module = getattr(trainer, "datamodule", None), module
        self.batches = sum(trainer.num_val_batches)
        self.evaluate: Any = getattr(module, "evaluate", None)
        if callable(self.evaluate):
            module.evaluate = self.keep  # type: ignore[assignment]
        self.kept: dict[str, list[Tensor]] = {"predicted": [], "targets": [], "features": []}
        self.images: dict[int, Any] = {}
        self.maps: dict[str, Any] = {}
        self.example: Tensor | None = None  # inputs of one sample, (1, ...)
        self.samples, self.stride, self.image_stride = 0, 0, 1
        self.latest: Tensor | None = None  # features of the current batch
        mapped = find_layers(module, pattern) if pattern is not None else four_convolutions(module)
        self.hooks = [each.register_forward_hook(partial(self.keep_map, name)) for name, each in mapped.items()]
        linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
        self.hooks += [each.register_forward_pre_hook(self.keep_features) for each in linear[-1:]]

    def keep_map(self, name: str, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        if name not in self.maps and isinstance(output, Tensor) and output.ndim == 4 and len(output):
            self.maps[name] = as_array(output[0])

    def keep_features(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        self.latest = args[0].detach() if args and isinstance(args[0], Tensor) and args[0].ndim == 2 else None

    def keep(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's ``evaluate``, and keep some samples of what it returns."""
        self.latest = None
        result = self.evaluate(*args, **kwargs)
        if isinstance(result, tuple) and len(result) == 3 and all(isinstance(each, Tensor) for each in result):
            _, predicted, targets = result
            if targets.ndim and len(targets) == len(predicted) > 0 and self.samples < SAMPLES * max(1, self.stride):
                self.keep_samples(first_tensor(args[0]) if args else None, predicted, targets)
        return result

    def keep_samples(self, inputs: Tensor | None, predicted: Tensor, targets: Tensor) -> None:
        n = len(targets)
        pixels = self.pixels(inputs) if inputs is not None and len(inputs) == n else None
        if not self.stride:
            total = self.batches * n if isfinite(self.batches) else SAMPLES
            self.stride = max(1, round(total / SAMPLES))
            size = 3 * prod(inputs.shape[2:]) if pixels is not None and inputs is not None else 1
            self.image_stride = max(1, round(total / self.stride * size / PIXELS))
            if predicted.ndim > 2:  # masks are as large as images
                self.stride, self.image_stride = self.stride * self.image_stride, 1
        take = slice(-self.samples % self.stride, None, self.stride)
        first = sum(map(len, self.kept["targets"]))
        features = self.latest if self.latest is not None and len(self.latest) == n else targets.new_zeros(n, 0)
        for name, each in (("predicted", predicted), ("targets", targets), ("features", features)):
            self.kept[name].append(each[take].detach().cpu())
        for i, j in enumerate(range(n)[take], first):
            if pixels is not None and i % self.image_stride == 0:
                self.images[i] = pixels(j)
        self.samples += n

    def pixels(self, inputs: Tensor) -> Callable[[int], Any] | None:
        """Return a function from a position in the batch to its image (H, W) or (H, W, 3), uint8, if it has any."""
        if inputs.ndim != 4 or min(inputs.shape[2:]) < 2:
            return None
        normalize: Any = self.data.normalize if isinstance(self.data, ImageData) else None

        def image(i: int) -> Any:
            x = inputs[i].detach().float().cpu()
            x = x * normalize.std.cpu() + normalize.mean.cpu() if hasattr(normalize, "std") else stretched(x)
            x = x if len(x) == 3 else x.mean(0, keepdim=True)
            return x.round().clamp(0, 255).byte().permute(1, 2, 0).numpy().squeeze()

        return image

    def close(self) -> None:
        vars(self.module).pop("evaluate", None)
        for each in self.hooks:
            each.remove()

    def figures(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield the names of figures and functions that draw them."""
        if (filters := self.filters()) is not None:
            yield "filters", partial(draw_filters, as_array(filters))
        if self.maps:
            yield "maps", partial(draw_maps, self.maps)
        if self.kept["targets"]:
            predicted, targets, features = (torch.cat(each) for each in self.kept.values())
            known = as_array(features) if features.numel() else None
            names = self.data.class_names if isinstance(self.data, ImageData) else None
            yield from Predictions(as_array(predicted), as_array(targets), self.images, known, names).figures()

    def filters(self) -> Tensor | None:
        """Return the filters of the first layer (M, C, H, W), if C is 1 or 3; of a linear one by the data's shape."""
        layers = (each for each in self.module.modules() if isinstance(each, nn.Conv2d | nn.Linear))
        layer, shape = next(layers, None), tuple(getattr(self.data, "shape", ()))
        if layer is None or hasattr(layer.weight, "full_tensor"):  # which is not here, but divided among processes
            return None
        if isinstance(layer, nn.Conv2d):
            return layer.weight if layer.weight.shape[1] in (1, 3) and layer.kernel_size != (1, 1) else None
        fits = len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1
        return layer.weight.view(-1, *shape) if fits and layer.in_features == prod(shape) else None  # type: ignore[union-attr]


def four_convolutions(module: nn.Module) -> dict[str, nn.Module]:
    """Return up to four convolutions from the first to the last."""
    found = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.Conv2d)]
    return dict(found[i] for i in np.linspace(0, len(found) - 1, 4).astype(int)) if found else {}


def stretched(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12) * 255


def first_tensor(batch: Any) -> Tensor | None:
    return next((each for each in tensors(batch) if each.ndim), None)
