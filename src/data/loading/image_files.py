"""Image files of any kind as tensors of one shape."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src import UserError


class Files:
    """Images decoded when they are asked for: ``files[index]`` is (B, C, H, W), uint8.

    Args:
        paths: the image files.
        shape: (C, H, W) of each image; C is 1 or 3.
        num_workers: processes that decode ahead; by default as many as there are cores, at most 8.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, ...], num_workers: int | None = None) -> None:
        self.paths, self.shape = paths, shape
        self.num_workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([self.read(i) for i in index.tolist()])

    def subset(self, index: Tensor) -> "Files":
        return Files([self.paths[i] for i in index.tolist()], self.shape, self.num_workers)

    def read(self, i: int) -> Tensor:
        image = decode(self.paths[i], self.shape)
        if isinstance(image, str):
            raise UserError(f"{image}; repair or remove it")
        return image


def find_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, all levels down and through links, but nothing that is hidden."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        again = os.path.realpath(place) in seen  # as by a link that leads back
        seen.add(os.path.realpath(place))
        folders[:] = [] if again else sorted(name for name in folders if name[0] != ".")
        files += [] if again else [Path(place, name) for name in names if name[0] != "."]
    return sorted(f for f in files if f.suffix.lower() in known and (f.is_file() or not f.exists()))


def decode(path: Path, shape: tuple[int, ...]) -> Tensor | str:
    """Return an image as (C, H, W), uint8: upright, on white, scaled, its centre, its first frame; or what is wrong."""
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image = to_rgb(image) if channels == 3 else to_rgb(image).convert("L")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).view(height, width, channels).movedim(2, 0).contiguous()
    except (
        OSError,
        RuntimeError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # all that PIL raises
        reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else error
        return f"cannot decode {path}: {reason}"


def to_rgb(image: Image.Image) -> Image.Image:
    """Return any mode of PIL's as RGB: deep pixels scaled to 8 bits, transparent ones laid on white."""
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image, dtype=np.float64)
        peak = 65535.0 if image.mode.startswith("I;16") or pixels.max() > 255 else 255.0
        if image.mode == "F" and pixels.max() <= 1:
            peak = 1.0
        image = Image.fromarray((pixels * (255 / peak)).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
