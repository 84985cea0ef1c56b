"""Batches of given image files, for predict."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.base import DataModule
from src.data.loading.image_files import read_all
from src.data.loading.transform import brightness_and_contrast
from src.decoding import to_8_bits

CHUNK = 8192  # image files that are decoded at once


class FilesLoader:
    """Batches of the image files that can be decoded, normalized as in training; the others print one line each."""

    def __init__(self, paths: list[Path], data: DataModule, invert: bool = False) -> None:
        self.paths, self.data, self.invert = paths, data, invert
        self.names: list[str] = []  # of the images in all batches so far
        self.looks: list[Tensor] = []  # brightness and contrast of these images, (N, 2)

    def __iter__(self) -> Iterator[Tensor]:
        self.names, self.looks = [], []
        normalize: Any = self.data.normalize
        for first in range(0, len(self.paths), CHUNK):
            paths = self.paths[first : first + CHUNK]
            decoded: list[np.ndarray] = []
            for path, pixels in zip(paths, read_all(paths, self.data.shape), strict=True):
                if isinstance(pixels, str):
                    warnings.warn(pixels, stacklevel=1)
                    continue
                self.names.append(str(path))  # without a scale of the training, deep pixels have the file's own
                decoded.append(to_8_bits(pixels, self.data.shape, self.data.scale))
            if not decoded:
                continue
            images = torch.from_numpy(np.stack(decoded))
            images = 255 - images if self.invert else images
            self.looks.append(brightness_and_contrast(images))
            yield from map(normalize, images.split(64))

    def notes(self, count: int) -> list[tuple[str, str]]:
        """Say so if more than one in twenty of the first images is unlike those of the training."""
        normalize: Any = self.data.normalize
        looks = torch.cat(self.looks)[:count]
        unlike = normalize.unlike(looks)
        if unlike.float().mean() <= 0.05:
            return []
        trained, _, contrast, _ = normalize.typical.tolist()
        text = f"{int(unlike.sum())} of {count} images are unlike the training images"
        bright, contrasts = looks[unlike].mean(0).tolist()
        rows = [("note", f"{text}: brightness {bright:.0f}, there {trained:.0f},")]
        rows += [("", f"contrast {contrasts:.0f}, there {contrast:.0f}; predictions may be wrong")]
        mirrored = looks * torch.tensor([-1.0, 1.0]) + torch.tensor([255.0, 0.0])
        better = normalize.unlike(mirrored).sum() < unlike.sum() / 2
        return [*rows, ("", f"try it {'without' if self.invert else 'with'} --invert")] if better else rows
