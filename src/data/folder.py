"""ImageFolder: image files of your own."""

import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from src import UserError, require
from src.data.base import DataModule
from src.data.loading import cache
from src.data.loading.exclude import kept, undecodable
from src.data.loading.image_files import ImageFiles, scan
from src.data.loading.report import Rows, Subset, describe
from src.data.loading.splits import NAMES, Samples, digest, find_split, hold_out

MAX_BAD = 0.25  # fraction of undecodable images above which the folder itself is probably wrong
DECODING = 3  # of the decoder: a new number makes older caches invalid


class ImageFolder(DataModule):
    """One folder of images per class: ``root/<class>/*``, or ``root/train/<class>/*``, with optional val/ and test/.

    Without ``test/``, a fixed stratified fraction of the images is held out. Without ``val/`` (also ``valid/``), one
    fold is. Images are decoded once, in parallel, into a file in ``cache``, which may be larger than memory. If pixels
    have more than 8 bits, the training images define the scale of all images.

    Args:
        root: folder that contains ``train/``, or the folders of the classes.
        size: height and width to which images are resized and center-cropped, in pixels.
        channels: 3 for color, 1 for gray.
        test_fraction: fraction of the images to hold out if there is no ``test/``, in (0, 1).
        on_bad_image: ``stop`` at images that cannot be decoded, or ``skip`` up to a quarter; both name them.
        in_memory: true: keep all images in memory; false: decode them on access. By default they are in memory if they
            fit into a quarter of it, otherwise in a file of pixels if the disk has room, else decoded on access.
        num_workers: number of processes that read or decode images on access; by default one per core, at most 8.
        cache: folder for decoded images.
        kwargs: see ``src.data.DataModule``.
    """

    shrinks = True

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
        self.in_memory, self.num_workers, self.cache = in_memory, num_workers, Path(cache).expanduser()
        self.decoded: dict[str, dict[str, Any]] = {}  # by split: what decode_all returns
        self.subsets: dict[str, Subset] = {}  # by split, before folds are split off
        self.left_out: dict[str, Counter[str]] = {}  # by split: files that are not used, by kind
        self.nested: dict[str, Counter[str]] = {}  # by split: images in subfolders, by class

    def prepare_data(self) -> None:
        stage = "" if self.trainer is None else self.trainer.state.fn
        testing = stage in ("test", "predict") and self.has("test")
        for split in ["test"] if testing else ["train", "val", "test"][: 3 if stage == "fit" and self.tests else 2]:
            if split == "train" or self.has(split):
                self.read(split)

    def load(self, train: bool) -> tuple[Any, Tensor]:
        if train or self.has("train") or self.class_names is None:  # else only the test set is there
            self.class_names = self.find_classes("train")
        if self.has("test"):
            return self.read("train" if train else "test")
        images, targets = self.read("train")
        groups = None if self.has("val") else self.groups_of(self.files["train"])
        train_index, test_index = hold_out(targets, self.test_fraction, self.folder("train"), groups)
        self.test_hash = digest(self.files["train"], Samples(images, targets, test_index))
        self.files["test"], self.train_names = (
            [self.files["train"][i] for i in index.tolist()] for index in (test_index, train_index)
        )
        for split, index in {"train": train_index, "test": test_index}.items():
            self.subsets[split] = self.decoded["train"]["digests"][index], targets[index]
        index = train_index if train else test_index
        return images[index] if isinstance(images, Tensor) else images.subset(index), targets[index]

    def load_val(self) -> tuple[Any, Tensor] | None:
        return self.read("val") if self.has("val") else None

    @property
    def num_classes(self) -> int:
        return len(self.find_classes("train"))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = state["class_names"]
        check_same_classes(self.class_names or names, names, f"{self.root} must have the checkpoint's classes")
        super().load_state_dict(state)

    def describe_splits(self) -> Rows:
        """Return the number of images per class and split, what was left out and why, and copies across splits."""
        subsets = {"train": self.subsets["train"], "val": self.subsets["val" if self.has("val") else "train"]}
        for split, (digests, targets) in subsets.items():
            index = self.splits[split].index
            subsets[split] = digests[index], targets[index]
        if "test" in self.subsets:
            digests, targets = self.subsets["test"]
            index = kept(self, "test", len(targets))
            subsets["test"] = digests[index], targets[index]
        left_out, nested = (sum(counts.values(), Counter()) for counts in (self.left_out, self.nested))
        bad = [each for split in self.decoded.values() for each in split["bad"]]
        return describe(subsets, self.class_names or [], left_out, bad, nested) + super().describe_splits()

    def folder(self, split: str) -> Path:
        """Return the folder of a split; the training images may also be in the root itself."""
        return find_split(self.root, split) or (self.root if split == "train" else self.root / split)

    def has(self, split: str) -> bool:
        return bool(self.class_folders()) if self.folder(split) == self.root else self.folder(split).is_dir()

    def class_folders(self, split: str = "train") -> list[Path]:
        """Return the folders of the classes, without those of splits and of the cache in the root."""
        folder, splits = self.folder(split), sum(NAMES.values(), ())
        found = [each for each in folder.iterdir() if each.is_dir() and each.name[0] != "."] if folder.is_dir() else []
        if folder == self.root:
            cache = self.cache.absolute()
            found = [each for each in found if each.name.lower() not in splits and each.absolute() != cache]
        return sorted(found)

    def find_classes(self, split: str) -> list[str]:
        folder, folders = self.folder(split), self.class_folders(split)
        place = (folder / "train" if folder == self.root else folder).absolute()
        remedy = "put images into root/train/<class>/ or root/<class>/, set --data.root, or use configs/digits.yaml"
        require(folders, f"no class folders in {place}: {remedy}, which needs no download")
        nested = len(folders) == 1 and any(each.is_dir() for each in folders[0].iterdir())
        hint = f"--data.root={folders[0]} if the classes are in it"
        require(not nested, f"{folder} has only one class folder, {folders[0].name}: add another, or set {hint}")
        return [each.name for each in folders]

    def list_files(self, split: str) -> tuple[list[Path], Tensor]:
        classes = self.find_classes("train") if self.has("train") else self.class_names or self.find_classes(split)
        folder, names = self.folder(split), self.find_classes(split)
        if self.tolerant and {*names} < {*classes}:
            names = classes
        check_same_classes(names, classes, f"{folder} must have the classes of {self.folder('train')}")
        found, others = zip(*(scan(folder / name) for name in names), strict=True)
        for name, files in zip(names, found, strict=True):
            require(files or self.tolerant, f"class folder {folder / name} has no images: add some or remove it")
        loose = [file.suffix.lower() or "no suffix" for file in folder.iterdir() if file.is_file()]
        self.left_out[split] = sum(others, Counter()) + Counter(f"{kind} outside class folders" for kind in loose)
        inner = [file.relative_to(folder).parts for files in found for file in files]
        self.nested[split] = Counter(parts[0] for parts in inner if len(parts) > 2)
        targets = torch.arange(len(names)).repeat_interleave(torch.tensor([len(files) for files in found]))
        return [file for files in found for file in files], targets

    def read(self, split: str) -> tuple[Any, Tensor]:
        """Return the images of a split that can be decoded, and their classes; name the other files."""
        paths, targets = self.list_files(split)
        cached = self.decode_cached(split, paths)
        good, bad = cached["good"], undecodable(self, paths, cached)
        if bad and not (self.skip_bad or self.tolerant):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}; repair or remove it, or skip it with --data.on_bad_image=skip")
        if len(bad) > MAX_BAD * len(paths) and not (self.tolerant and (len(good) or split != "train")):
            limit = f"more than {MAX_BAD:.0%} of the images in {self.folder(split)}"
            raise UserError(f"{len(bad)} of {len(paths)} images cannot be decoded, {limit}; first: {bad[0]}")
        if bad and split not in self.files and not self.tolerant:  # warn once
            warnings.warn(f"skipped {len(bad)} of {len(paths)} images: {'; '.join(bad[:5])}", stacklevel=1)
        self.files[split] = [str(paths[i].relative_to(self.root)) for i in good.tolist()]
        self.scale = self.scale or (cached["scale"] and tuple(cached["scale"]))
        self.decoded[split], self.subsets[split] = cached, (cached["digests"], targets[good])
        files = ImageFiles(paths, self.shape, self.num_workers, self.scale).subset(good)
        images = files if cached["images"] is None else cached["images"]
        if not isinstance(images, Tensor):
            images.num_workers = files.num_workers
        return images, targets[good]

    def decode_cached(self, split: str, paths: list[Path]) -> dict[str, Any]:
        """Return the cached result of ``decode_all``; changed names, sizes or times of files invalidate it."""
        stats = [(str(path.relative_to(self.root)), path.stat(follow_symlinks=path.exists())) for path in paths]
        content = [DECODING, str(self.root.absolute()), self.shape]
        content += [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
        key = sha256(repr(content).encode()).hexdigest()[:16]
        file = self.cache / f"{self.root.absolute().name}-{split}-{key}.pt"
        return cache.decode_cached(file, paths, self.shape, self.in_memory, self.scale)


def check_same_classes(names: list[str], expected: list[str], message: str) -> None:
    different = sorted({*names} ^ {*expected})
    require(not different, f"{message}; not in both: {', '.join(different)}")
