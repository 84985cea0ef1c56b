"""MaskFolder: image files with masks of your own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src import UserError, require
from src.data.base import DataModule
from src.data.loading.image_files import decode_all, find_images
from src.data.loading.splits import Samples, digest, hold_out


class MaskFolder(DataModule):
    """Images in ``images/`` and their masks in ``masks/``, PNG files with the same names, in memory.

    The values of a mask are its classes, from 0 on: gray values, or the indices of a palette. Both folders are in
    ``root``, or in root/train and optionally root/val and root/test. Images and masks are resized and center-cropped
    alike; masks keep their values.

    Args:
        classes: names of the classes 0, 1, ...
        size: height and width of the images.
        channels: 3 for color, 1 for gray.
        test_fraction: fraction of the images held out as the test split if there is no folder test.
        kwargs: see ``src.data.DataModule``.
    """

    def __init__(
        self, classes: list[str], size: int = 128, channels: int = 3, test_fraction: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(size >= 1, f"size must be at least 1, got {size}")
        require(channels in (1, 3), f"channels must be 1 or 3, got {channels}")
        require(0 < test_fraction < 1, f"test_fraction must be in (0, 1), got {test_fraction}")
        self.classes, self.shape, self.test_fraction = classes, (channels, size, size), test_fraction

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        self.class_names = self.classes
        base = self.root / "train" if (self.root / "train").is_dir() else self.root
        if (self.root / "test").is_dir():
            return self.read(base if train else self.root / "test", "train" if train else "test")
        images, masks = self.read(base, "train")
        sets, names = hold_out(torch.empty(len(masks)), self.test_fraction, base), self.files["train"]
        self.test_hash = digest(names, Samples(images, masks, sets[1]))
        self.files["train"], self.files["test"] = ([names[i] for i in index.tolist()] for index in sets)
        index = sets[0 if train else 1]
        return images[index], masks[index]

    def load_val(self) -> tuple[Tensor, Tensor] | None:
        return self.read(self.root / "val", "val") if (self.root / "val").is_dir() else None

    def read(self, folder: Path, split: str) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) and masks (N, H, W), both uint8."""
        paths = find_images(folder / "images")
        remedy = f"put images there, and their masks into {folder / 'masks'}"
        require(paths, f"no image files in {folder / 'images'}: {remedy}")
        decoded = decode_all(paths, self.shape)
        require(not decoded["bad"], f"{(decoded['bad'] or [''])[0]}; repair or remove it")
        self.files[split] = [str(path.relative_to(self.root)) for path in paths]
        return decoded["images"], torch.stack([self.read_mask(folder, path) for path in paths])

    def read_mask(self, folder: Path, image: Path) -> Tensor:
        file = (folder / "masks" / image.relative_to(folder / "images")).with_suffix(".png")
        require(file.is_file(), f"{image} has no mask: {file} does not exist")
        with Image.open(file) as mask, Image.open(image) as picture:
            gray = mask.mode in ("1", "L", "P")
            require(gray, f"{file} must be a gray or palette PNG of classes, got mode {mask.mode}")
            (width, height), size = mask.size, ImageOps.exif_transpose(picture).size
            require((width, height) == size, f"{file} has {width} x {height} pixels, its image {size[0]} x {size[1]}")
            resized = ImageOps.fit(mask, (self.shape[2], self.shape[1]), Image.Resampling.NEAREST)
            values = np.array(resized, dtype=np.uint8)
        if values.max() >= len(self.classes):
            raise UserError(f"{file} has the value {values.max()}, but there are {len(self.classes)} classes")
        return torch.from_numpy(values)
