"""ImageFolder: people's own pictures."""

import os
import sys
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src import UserError
from src.data.base import DataModule
from src.data.files import Files, decode, find_images
from src.data.samples import Samples, digest

SKIPPED = 0.25  # the share of bad images above which something else is wrong


class ImageFolder(DataModule):
    """Pictures in a folder for each class: ``root/train/<class>/*``, with optional ``val/`` and ``test/``.

    Without ``test/`` a stratified share of ``train/`` is held out, always the same. Without ``val/`` a fold is used.
    Pictures are decoded once, in parallel, into a file of ``cache``; sets too large for memory are decoded as they go.

    Args:
        root: folder that holds ``train/``.
        size: height and width that pictures are scaled and cut to, in pixels.
        channels: 3 for colour, 1 for grey.
        test_share: share of ``train/`` held out where there is no ``test/``, in (0, 1).
        on_bad_image: stop at a picture that cannot be decoded, or skip up to a quarter; either way it is named.
        in_memory: hold all pictures in memory; by default where they fit in a quarter of it.
        num_workers: processes that decode pictures that are not in memory; by default one for each core, at most 8.
        cache: folder for decoded pictures.
        kwargs: see ``src.data.DataModule``.
    """

    def __init__(
        self,
        root: str = "data",
        size: int = 64,
        channels: Literal[1, 3] = 3,
        test_share: float = 0.2,
        on_bad_image: Literal["stop", "skip"] = "stop",
        in_memory: bool | None = None,
        num_workers: int | None = None,
        cache: str = "data/cache",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), got {test_share}")
        self.shape, self.test_share, self.skip_bad = (channels, size, size), test_share, on_bad_image == "skip"
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.in_memory, self.num_workers, self.cache = in_memory, num_workers, Path(cache)

    def prepare_data(self) -> None:
        testing = self.trainer is not None and self.trainer.state.fn in ("test", "predict")
        parts = ["test"] if testing and self.has("test") else ["train", "val"]
        for part in parts:
            if part == "train" or self.has(part):
                self.read(part)

    def load(self, train: bool) -> tuple[Any, Tensor]:
        self.class_names = self.find_classes("train")
        if self.has("test"):
            return self.read("train" if train else "test")
        from sklearn.model_selection import train_test_split  # here, since the import takes a while

        images, targets = self.read("train")
        try:
            share = {"test_size": self.test_share, "random_state": 0, "stratify": targets}
            train_index, test_index = train_test_split(torch.arange(len(targets)), **share)
        except ValueError as error:
            raise UserError(
                f"cannot hold out {self.test_share:.0%} of {self.root / 'train'} for testing: {error}"
            ) from None
        index = (train_index if train else test_index).sort().values
        self.test_hash = digest(self.files["train"], Samples(images, targets, test_index.sort().values))
        self.files["test"] = [self.files["train"][i] for i in test_index.sort().values.tolist()]
        return images[index] if isinstance(images, Tensor) else images.subset(index), targets[index]

    def load_val(self) -> tuple[Any, Tensor] | None:
        return self.read("val") if self.has("val") else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint stored, of the same split and the same classes."""
        if odd := {*getattr(self, "class_names", state["class_names"])} ^ {*state["class_names"]}:
            raise UserError(f"{self.root} must have the checkpoint's classes; only one has: {', '.join(sorted(odd))}")
        super().load_state_dict(state)

    def has(self, part: str) -> bool:
        return (self.root / part).is_dir()

    def find_classes(self, part: str) -> list[str]:
        folder = self.root / part
        names = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".") if self.has(part) else []
        if not names:
            raise UserError(
                f"no class folders in {folder.absolute()}: put pictures into root/train/<class>/, name the folder with "
                "--data.root, or use configs/digits.yaml, which needs no download"
            )
        return names

    def list_files(self, part: str) -> tuple[list[Path], Tensor]:
        classes, names = self.find_classes("train" if self.has("train") else part), self.find_classes(part)
        if names != classes:
            odd = ", ".join(sorted(set(names) ^ set(classes)))
            raise UserError(f"{self.root / part} must have the classes of {self.root / 'train'}; only one has: {odd}")
        files: list[Path] = []
        targets: list[int] = []
        for target, name in enumerate(names):
            found = find_images(self.root / part / name)
            if not found:
                raise UserError(f"class folder {self.root / part / name} has no images; add some or remove it")
            files += found
            targets += [target] * len(found)
        return files, torch.tensor(targets)

    def read(self, part: str) -> tuple[Any, Tensor]:
        """Return the images of a folder and their targets; each picture was decoded once, which finds the bad ones."""
        paths, targets = self.list_files(part)
        channels, height, width = self.shape
        fits = len(paths) * channels * height * width < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
        keep = fits if self.in_memory is None else self.in_memory
        stats = [(str(path.relative_to(self.root)), path.stat(follow_symlinks=path.exists())) for path in paths]
        content = [keep, self.shape, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]]
        key = sha256(repr(content).encode()).hexdigest()[:16]
        file = self.cache / f"{self.root.absolute().name}-{part}-{key}.pt"
        try:
            cached = torch.load(file, mmap=True, weights_only=True)
        except Exception:  # absent or damaged
            save(decode_all(paths, self.shape, keep), file)
            cached = torch.load(file, mmap=True, weights_only=True)
        good, bad = cached["good"], cached["bad"]
        if bad and not self.skip_bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}; repair or remove it, or skip it with --data.on_bad_image=skip")
        if len(bad) > SKIPPED * len(paths):
            more = f"more than {SKIPPED:.0%} of those in {self.root / part}"
            raise UserError(f"{len(bad)} of {len(paths)} images cannot be decoded, {more}; the first: {bad[0]}")
        if len(good) == 0:
            raise UserError(f"no image in {self.root / part} can be decoded; the first: {bad[0]}")
        if bad and part not in self.files:  # once
            warnings.warn(f"skipped {len(bad)} of {len(paths)} images: {'; '.join(bad[:5])}", stacklevel=1)
        self.files[part] = [str(paths[i].relative_to(self.root)) for i in good.tolist()]
        return cached["images"] if keep else Files(paths, self.shape, self.num_workers).subset(good), targets[good]


class Decoded(Dataset):
    """Each image decoded, or a text that names what is wrong with it."""

    def __init__(self, paths: list[Path], shape: tuple[int, ...]) -> None:
        self.paths, self.shape = paths, shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor | str:
        return decode(self.paths[i], self.shape)


def decode_all(paths: list[Path], shape: tuple[int, ...], keep: bool) -> dict[str, Any]:
    """Decode in parallel, with a progress bar on a terminal, and return what to keep and what cannot be decoded."""
    workers = min(os.cpu_count() or 1, len(paths) // 500)  # a worker pays from some hundred images on
    batches = DataLoader(Decoded(paths, shape), 256, num_workers=workers, collate_fn=list)
    images = torch.empty(len(paths) if keep else 0, *shape, dtype=torch.uint8)
    good: list[int] = []
    bad: list[str] = []
    i = 0
    terminal = sys.stderr.isatty()
    for batch in track(batches, "decoding", console=Console(stderr=True)) if terminal else batches:
        for image in batch:
            if isinstance(image, str):
                bad.append(image)
            else:
                if keep:
                    images[len(good)] = image
                good.append(i)
            i += 1
    return {
        "images": images[: len(good)].clone() if bad else images,
        "good": torch.tensor(good, dtype=torch.long),
        "bad": bad,
    }


def save(value: dict[str, Any], file: Path) -> None:
    """Write a file at once: whoever reads it sees all of it or none."""
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, part)
        part.replace(file)
    except (OSError, RuntimeError) as error:  # torch.save wraps some
        raise UserError(f"cannot write {file}: {error}; name another folder with --data.cache") from None
