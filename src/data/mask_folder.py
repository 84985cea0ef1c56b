"""MaskFolder: image files with masks of your own."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src import UserError, require
from src.data.base import DataModule
from src.data.loading.exclude import undecodable
from src.data.loading.image_files import decode_all, scan
from src.data.loading.report import left_out_rows
from src.data.loading.splits import Samples, digest, find_split, hold_out
from src.decoding import MAX_PIXELS, formats


class MaskFolder(DataModule):
    """Images in ``images/`` and their masks in ``masks/``, PNG files with the same names, in memory.

    The values of a mask are its classes, from 0 on: gray values, or the indices of a palette. Both folders are in
    ``root``, or in root/train and optionally root/val and root/test. Images and masks are resized and center-cropped
    alike; masks keep their values. If pixels have more than 8 bits, the training images define the scale of all.

    Args:
        classes: names of the classes 0, 1, ...; at least 2.
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
        valid = 2 <= len({*classes}) == len(classes) <= 256
        require(valid, f"classes must be 2 to 256 different names, got {len(classes)}: {', '.join(classes)[:80]}")
        self.classes, self.shape, self.test_fraction = classes, (channels, size, size), test_fraction

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        self.class_names = self.classes
        base, test = find_split(self.root, "train") or self.root, find_split(self.root, "test")
        if test is not None:
            return self.read(base if train else test, "train" if train else "test")
        images, masks = self.read(base, "train")
        names = self.files["train"]
        sets = hold_out(torch.empty(len(masks)), self.test_fraction, base, self.groups_of(names))
        self.test_hash = digest(names, Samples(images, masks, sets[1]))
        self.files["train"], self.files["test"] = ([names[i] for i in index.tolist()] for index in sets)
        index = sets[0 if train else 1]
        return images[index], masks[index]

    def load_val(self) -> tuple[Tensor, Tensor] | None:
        folder = find_split(self.root, "val")
        return self.read(folder, "val") if folder is not None else None

    def read(self, folder: Path, split: str) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) and masks (N, H, W), both uint8."""
        paths, others = scan(folder / "images")
        self.notes += [] if split in self.files else left_out_rows(others)
        remedy = f"put images there, and their masks into {folder / 'masks'}"
        require(paths, f"no image files in {folder / 'images'}: {remedy}")
        names = [(folder / "masks" / path.relative_to(folder / "images")).with_suffix(".png") for path in paths]
        counts = Counter(names)
        shared = next((path for path, name in zip(paths, names, strict=True) if counts[name] > 1), None)
        require(shared is None, f"{shared} has the same mask as another image: rename one of them")
        decoded = decode_all(paths, self.shape, scale=self.scale)
        bad = undecodable(self, paths, decoded)
        require(self.tolerant or not bad, f"{[*bad, ''][0]}; repair or remove it")
        paths, names = ([each[i] for i in decoded["good"].tolist()] for each in (paths, names))
        self.scale = self.scale or (decoded["scale"] and tuple(decoded["scale"]))
        self.files[split] = [str(path.relative_to(self.root)) for path in paths]
        return decoded["images"], torch.stack([self.read_mask(*pair) for pair in zip(names, paths, strict=True)])

    def read_mask(self, file: Path, image: Path) -> Tensor:
        require(file.is_file(), f"{image} has no mask: {file} does not exist")
        values = read_values(file)
        with Image.open(image, formats=formats()) as picture:
            size = ImageOps.exif_transpose(picture).size
        height, width = values.shape
        require((width, height) == size, f"{file} has {width} x {height} pixels, its image {size[0]} x {size[1]}")
        resized = ImageOps.fit(Image.fromarray(values), (self.shape[2], self.shape[1]), Image.Resampling.NEAREST)
        if (highest := values.max()) >= len(self.classes):
            wanted = f"there are {len(self.classes)} classes, whose values are 0 to {len(self.classes) - 1}"
            raise UserError(f"{file} has the value {highest}, but {wanted}")
        return torch.from_numpy(np.array(resized))


def read_values(file: Path) -> np.ndarray:
    """Return the gray values or palette indices (H, W) of a PNG file, uint8."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=["PNG"]) as mask:
            mode, pixels = mask.mode, mask.width * mask.height
            require(pixels <= MAX_PIXELS, f"{file} has {pixels:,} pixels, more than {MAX_PIXELS:,}: make it smaller")
            gray = mode in ("1", "L", "P")
            require(gray, f"{file} must be a gray or palette PNG of classes, got mode {mode}")
            return np.array(mask, dtype=np.uint8)
    except UserError:
        raise
    except Exception as error:  # decoders raise any exception for damaged files
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a readable PNG" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot decode {file}: {reason[:200]}; repair or replace it") from None
