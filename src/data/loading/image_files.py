"""Image files of known formats as tensors of one shape."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from src import UserError
from src.decoding import Scale, decode, find_scale, formats, read, to_8_bits


class ImageFiles:
    """Images (C, H, W) decoded on access: ``files[index]`` is (B, C, H, W), uint8; C is 1 or 3.

    ``num_workers`` processes decode ahead; by default one per core, at most 8. See ``decode`` for ``scale``.
    """

    def __init__(
        self, paths: Sequence[Path], shape: tuple[int, ...], num_workers: int | None = None, scale: Scale | None = None
    ) -> None:
        self.paths, self.shape, self.scale = paths, shape, scale
        self.num_workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = [decode(self.paths[i], self.shape, self.scale) for i in index.tolist()]
        for image in images:
            if isinstance(image, str):
                raise UserError(f"{image}; repair or remove it")
        return torch.from_numpy(np.stack(images))

    def subset(self, index: Tensor) -> "ImageFiles":
        return ImageFiles([self.paths[i] for i in index.tolist()], self.shape, self.num_workers, self.scale)


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the image files in a folder and its subfolders, and the number of other files by suffix.

    Links are followed, hidden names skipped.
    """
    allowed = formats()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in allowed}
    files: list[Path] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        visited = os.path.realpath(parent) in seen  # for instance through a link to a parent folder
        seen.add(os.path.realpath(parent))
        subfolders[:] = [] if visited else sorted(name for name in subfolders if name[0] != ".")
        files += [] if visited else [Path(parent, name) for name in names if name[0] != "."]
    others = Counter(file.suffix.lower() or "no suffix" for file in files if file.suffix.lower() not in known)
    return sorted(f for f in files if f.suffix.lower() in known and (f.is_file() or not f.exists())), others


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, following links and skipping hidden names."""
    return scan(folder)[0]


def read_batch(paths: Sequence[Path], shape: tuple[int, ...]) -> list[np.ndarray | str]:
    return [read(path, shape) for path in paths]


def read_all(paths: Sequence[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray | str]:
    """Read files in parallel, with a progress bar on a terminal; arrays, unlike tensors, need no shared memory."""
    workers = min(os.cpu_count() or 1, len(paths) // 500)  # starting one takes as long as decoding a few hundred files
    settings: dict[str, Any] = {"num_workers": workers, "collate_fn": partial(read_batch, shape=shape)}
    batches: Any = DataLoader(paths, max(1, min(256, 2**23 // int(np.prod(shape)))), **settings)  # type: ignore[arg-type]
    for batch in track(batches, "decoding", console=Console(stderr=True)) if sys.stderr.isatty() else batches:
        yield from batch


def decode_all(
    paths: Sequence[Path], shape: tuple[int, ...], keep: bool = True, scale: Scale | None = None, into: Any = None
) -> dict[str, Any]:
    """Decode files with one scale for all of them: the given one, or one that fits all.

    Return ``images`` (N, C, H, W), the first rows of the tensor ``into`` if given, empty unless ``keep``; ``good``, the
    positions (N,) of files that can be decoded; ``bad``, the error messages of the others; ``digests`` (N,), equal for
    equal pixels; ``scale``, None if not used.
    """
    images = torch.empty(len(paths) if keep else 0, *shape, dtype=torch.uint8) if into is None else into
    good: list[int] = []
    bad: list[str] = []
    digests: list[int] = []
    extremes: list[float] = []
    deep: dict[int, Any] = {}  # pixels by row; memory does not hold those of images that are decoded into a file
    for i, pixels in enumerate(read_all(paths, shape)):
        if isinstance(pixels, str):
            bad.append(pixels)
            continue
        if pixels.dtype != np.uint8:
            extremes += [float(pixels.min()), float(pixels.max())]
            deep |= {len(good): pixels if into is None else None} if keep else {}
        elif keep:
            images[len(good)] = torch.from_numpy(pixels)
        digests.append(int.from_bytes(blake2b(pixels.tobytes(), digest_size=8).digest(), "little", signed=True))
        good.append(i)
    used = (scale or find_scale(min(extremes), max(extremes))) if extremes else None
    again = deep.values() if into is None or not deep else read_all([paths[good[row]] for row in deep], shape)
    for row, pixels in zip(deep, again, strict=True):
        images[row] = torch.from_numpy(to_8_bits(pixels, shape, used))  # type: ignore[arg-type]
    found = {"good": torch.tensor(good, dtype=torch.long), "bad": bad, "scale": used and [*used]}
    return found | {"images": images[: len(good)], "digests": torch.tensor(digests, dtype=torch.long)}
