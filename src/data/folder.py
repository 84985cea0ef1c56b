"""ImageFolder: image files of your own."""

import math
import os
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from src import UserError, require
from src.data.base import DataModule
from src.data.loading.image_files import ImageFiles, decode_all, find_images, save_atomically
from src.data.loading.splits import Samples, digest

MAX_BAD = 0.25  # fraction of undecodable images above which the folder itself is probably wrong


class ImageFolder(DataModule):
    """One folder of images per class: ``root/train/<class>/*``, with optional ``val/`` and ``test/``.

    Without ``test/``, a fixed stratified fraction of ``train/`` is held out. Without ``val/``, one fold is. Images
    are decoded once, in parallel, into a file in ``cache``; datasets too large for memory are decoded on access.

    Args:
        root: folder that contains ``train/``.
        size: height and width to which images are resized and center-cropped, in pixels.
        channels: 3 for color, 1 for gray.
        test_fraction: fraction of ``train/`` to hold out if there is no ``test/``, in (0, 1).
        on_bad_image: ``stop`` at images that cannot be decoded, or ``skip`` up to a quarter; both name them.
        in_memory: whether to keep all images in memory; by default if they fit into a quarter of it.
        num_workers: number of processes that decode images on access; by default one per core, at most 8.
        cache: folder for decoded images.
        kwargs: see ``src.data.DataModule``.
    """

    def __init__(
        self,
        root: str = "data",
        size: int = 64,
        channels: Literal[1, 3] = 3,
        test_fraction: float = 0.2,
        on_bad_image: Literal["stop", "skip"] = "stop",
        in_memory: bool | None = None,
        num_workers: int | None = None,
        cache: str = "data/cache",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        require(size >= 1, f"size must be at least 1, got {size}")
        require(0 < test_fraction < 1, f"test_fraction must be in (0, 1), got {test_fraction}")
        require(num_workers is None or num_workers >= 0, f"num_workers must be at least 0, got {num_workers}")
        self.shape, self.test_fraction, self.skip_bad = (channels, size, size), test_fraction, on_bad_image == "skip"
        self.in_memory, self.num_workers, self.cache = in_memory, num_workers, Path(cache)

    def prepare_data(self) -> None:
        testing = self.trainer is not None and self.trainer.state.fn in ("test", "predict")
        for split in ["test"] if testing and self.has("test") else ["train", "val"]:
            if split == "train" or self.has(split):
                self.read(split)

    def load(self, train: bool) -> tuple[Any, Tensor]:
        self.class_names = self.find_classes("train")
        if self.has("test"):
            return self.read("train" if train else "test")
        from sklearn.model_selection import train_test_split  # slow to import

        images, targets = self.read("train")
        index = torch.arange(len(targets))
        try:
            sets = train_test_split(index, test_size=self.test_fraction, random_state=0, stratify=targets)
        except ValueError as error:
            what = f"{self.test_fraction:.0%} of {self.root / 'train'}"
            raise UserError(f"cannot hold out {what} for testing: {error}") from None
        train_index, test_index = (subset.sort().values for subset in sets)
        self.test_hash = digest(self.files["train"], Samples(images, targets, test_index))
        self.files["test"] = [self.files["train"][i] for i in test_index.tolist()]
        index = train_index if train else test_index
        return images[index] if isinstance(images, Tensor) else images.subset(index), targets[index]

    def load_val(self) -> tuple[Any, Tensor] | None:
        return self.read("val") if self.has("val") else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = state["class_names"]
        check_same_classes(self.class_names or names, names, f"{self.root} must have the checkpoint's classes")
        super().load_state_dict(state)

    def has(self, split: str) -> bool:
        return (self.root / split).is_dir()

    def find_classes(self, split: str) -> list[str]:
        folder = self.root / split
        names = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".") if self.has(split) else []
        remedy = "put images into root/train/<class>/, set --data.root, or use configs/digits.yaml"
        require(names, f"no class folders in {folder.absolute()}: {remedy}, which needs no download")
        return names

    def list_files(self, split: str) -> tuple[list[Path], Tensor]:
        classes, names = self.find_classes("train" if self.has("train") else split), self.find_classes(split)
        check_same_classes(names, classes, f"{self.root / split} must have the classes of {self.root / 'train'}")
        files = [find_images(self.root / split / name) for name in names]
        for name, found in zip(names, files, strict=True):
            require(found, f"class folder {self.root / split / name} has no images: add some or remove it")
        targets = torch.arange(len(names)).repeat_interleave(torch.tensor([len(found) for found in files]))
        return [file for found in files for file in found], targets

    def read(self, split: str) -> tuple[Any, Tensor]:
        """Return the images of a split that can be decoded, and their classes; name the other files."""
        paths, targets = self.list_files(split)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        keep = len(paths) * math.prod(self.shape) < memory / 4 if self.in_memory is None else self.in_memory
        cached = self.decode_cached(split, paths, keep)
        good, bad = cached["good"], cached["bad"]
        if bad and not self.skip_bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}; repair or remove it, or skip it with --data.on_bad_image=skip")
        if len(bad) > MAX_BAD * len(paths):
            limit = f"more than {MAX_BAD:.0%} of those in {self.root / split}"
            raise UserError(f"{len(bad)} of {len(paths)} images cannot be decoded, {limit}; first: {bad[0]}")
        if bad and split not in self.files:  # warn once
            warnings.warn(f"skipped {len(bad)} of {len(paths)} images: {'; '.join(bad[:5])}", stacklevel=1)
        self.files[split] = [str(paths[i].relative_to(self.root)) for i in good.tolist()]
        return cached["images"] if keep else ImageFiles(paths, self.shape, self.num_workers).subset(good), targets[good]

    def decode_cached(self, split: str, paths: list[Path], keep: bool) -> dict[str, Any]:
        """Return the cached result of ``decode_all``; changed names, sizes or times of files invalidate it."""
        stats = [(str(path.relative_to(self.root)), path.stat(follow_symlinks=path.exists())) for path in paths]
        content = [keep, self.shape, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]]
        key = sha256(repr(content).encode()).hexdigest()[:16]
        file = self.cache / f"{self.root.absolute().name}-{split}-{key}.pt"
        try:
            return torch.load(file, mmap=True, weights_only=True)
        except Exception:  # missing or damaged
            save_atomically(decode_all(paths, self.shape, keep), file)
            return torch.load(file, mmap=True, weights_only=True)


def check_same_classes(names: list[str], expected: list[str], message: str) -> None:
    different = sorted({*names} ^ {*expected})
    require(not different, f"{message}; not in both: {', '.join(different)}")
