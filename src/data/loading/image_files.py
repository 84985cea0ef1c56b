"""Image files of any format as tensors of one shape."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from src import UserError


class ImageFiles:
    """Images (C, H, W) decoded on access: ``files[index]`` is (B, C, H, W), uint8; C is 1 or 3.

    ``num_workers`` processes decode ahead; by default one per core, at most 8.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, ...], num_workers: int | None = None) -> None:
        self.paths, self.shape = paths, shape
        self.num_workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = decode_batch([self.paths[i] for i in index.tolist()], self.shape)
        for image in images:
            if isinstance(image, str):
                raise UserError(f"{image}; repair or remove it")
        return torch.stack(images)  # type: ignore[arg-type]

    def subset(self, index: Tensor) -> "ImageFiles":
        return ImageFiles([self.paths[i] for i in index.tolist()], self.shape, self.num_workers)


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, following links and skipping hidden names."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files: list[Path] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        visited = os.path.realpath(parent) in seen  # for instance through a link to a parent folder
        seen.add(os.path.realpath(parent))
        subfolders[:] = [] if visited else sorted(name for name in subfolders if name[0] != ".")
        files += [] if visited else [Path(parent, name) for name in names if name[0] != "."]
    return sorted(f for f in files if f.suffix.lower() in known and (f.is_file() or not f.exists()))


def decode(path: Path, shape: tuple[int, ...]) -> Tensor | str:
    """Return an image as (C, H, W), uint8, or an error message.

    The image is EXIF-rotated, composited on white, resized and center-cropped; of an animation, the first frame.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image = to_rgb(image) if channels == 3 else to_rgb(image).convert("L")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).view(height, width, channels).movedim(2, 0).contiguous()
    except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of PIL's
        reason = "not a readable image" if isinstance(error, Image.UnidentifiedImageError) else error
        return f"cannot decode {path}: {reason}"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any PIL mode to RGB: deep pixels scaled to 8 bits, transparency composited on white."""
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


def decode_batch(paths: Sequence[Path], shape: tuple[int, ...]) -> list[Tensor | str]:
    return [decode(path, shape) for path in paths]


def decode_all(paths: Sequence[Path], shape: tuple[int, ...], keep: bool) -> dict[str, Any]:
    """Decode files in parallel, with a progress bar on a terminal.

    Return ``images`` (N, C, H, W), empty unless ``keep``; ``good``, the positions (N,) of files that can be decoded;
    ``bad``, the error messages of the others.
    """
    workers = min(os.cpu_count() or 1, len(paths) // 500)  # starting one takes as long as decoding a few hundred files
    settings: dict[str, Any] = {"num_workers": workers, "collate_fn": partial(decode_batch, shape=shape)}
    batches: Any = DataLoader(paths, 256, **settings)  # type: ignore[arg-type]
    images = torch.empty(len(paths) if keep else 0, *shape, dtype=torch.uint8)
    bad: dict[int, str] = {}
    shown = track(batches, "decoding", console=Console(stderr=True)) if sys.stderr.isatty() else batches
    for i, image in enumerate(image for batch in shown for image in batch):
        if isinstance(image, str):
            bad[i] = image
        elif keep:
            images[i] = image
    good = torch.tensor([i for i in range(len(paths)) if i not in bad], dtype=torch.long)
    return {"images": images[good] if keep and bad else images, "good": good, "bad": [*bad.values()]}


def save_atomically(value: dict[str, Any], file: Path) -> None:
    """Write a file that other processes see either complete or not at all."""
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, temporary)
        temporary.replace(file)
    except (OSError, RuntimeError) as error:  # torch.save turns some OSErrors into RuntimeErrors
        raise UserError(f"cannot write {file}: {error}; choose another folder with --data.cache") from None
