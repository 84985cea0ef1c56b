"""Shards: zip files of many image files each, with a manifest and an index, in a folder or at an address.

``manifest.json`` has the size and SHA-256 of every file. ``{split}-index.npz`` tells for each sample its name, and
where in which shard its file is. ``{split}-targets.npy`` holds targets of any kind. The zip files are not compressed,
so that a sample is read with one access; any other program can unpack them.
"""

import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src import UserError, require
from src.data.loading.cache import replacing
from src.data.loading.windows import WindowedOrder
from src.decoding import Scale, decode

MANIFEST, FORMAT = "manifest.json", 1
NAME = re.compile(r"(train|val|test)-[\w-]+\.(zip|npz|npy)")
REMEDY = "copy it again, or write the shards again"


class Store:
    """The files of a folder of shards. Those at an address that fsspec knows are downloaded and checked when needed.

    ``cache`` is the folder for them, in which the shards used last stay, up to ``limit`` bytes.
    """

    def __init__(self, root: str, cache: Path, limit: float | None = None) -> None:
        self.root, self.limit, self.remote = root.rstrip("/"), limit, "://" in root
        self.folder = Path(root).expanduser()
        self.manifest = self.read_manifest()
        self.files: dict[str, dict[str, Any]] = self.manifest["files"]
        if self.remote:  # a folder for each set of shards that was ever there
            self.folder = cache / f"shards-{sha256(repr((self.root, self.files)).encode()).hexdigest()[:16]}"

    def read_manifest(self) -> dict[str, Any]:
        place, remedy = f"{self.root}/{MANIFEST}", "write the shards with python -m src.cli shard"
        if self.remote:
            with self.file_system(MANIFEST) as remote:
                content = remote.cat_file(place)
        else:
            require((self.folder / MANIFEST).is_file(), f"{place} does not exist: {remedy}")
            content = (self.folder / MANIFEST).read_bytes()
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(content)
            valid = all(NAME.fullmatch(name) and each["bytes"] >= 0 for name, each in found["files"].items())
            if valid and found["format"] == FORMAT and {"classes", "shape", "scale", "splits"} <= found.keys():
                return found
        raise UserError(f"{place} is no manifest of shards of this version: {remedy}")

    @contextmanager
    def file_system(self, name: str) -> Iterator[Any]:
        """Yield the file system of fsspec that has the root; an error is one line that names the file."""
        import fsspec  # slow to import

        try:
            yield fsspec.core.url_to_fs(self.root)[0]
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{self.root}/{name} is missing: {REMEDY}") from None
        except Exception as error:  # each file system has errors of its own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"cannot read {self.root}/{name}: {reason}") from None

    def path(self, name: str) -> Path:
        """Return a file, downloaded if necessary; refuse one that is missing or has another size."""
        file, expected = self.folder / name, self.files[name]["bytes"]
        with suppress(FileNotFoundError):
            if (size := file.stat().st_size) == expected:
                if self.limit is not None:
                    os.utime(file)
                return file
            require(self.remote, f"{file} is damaged: it has {size:,} bytes instead of {expected:,}; {REMEDY}")
        require(self.remote, f"{file} is missing: {REMEDY}")
        from filelock import FileLock  # slow to import

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file() or file.stat().st_size != expected:
                with replacing(file) as temporary, self.file_system(name) as remote:
                    remote.get_file(f"{self.root}/{name}", str(temporary))
                    self.check(name, temporary)
                with suppress(FileNotFoundError):  # another process deletes them too
                    self.evict(file)
        return file

    def check(self, name: str, file: Path) -> None:
        """Refuse a file whose SHA-256 is not that of the manifest."""
        with file.open("rb") as stream:
            found = file_digest(stream, "sha256").hexdigest()
        place = f"{self.root}/{name}"
        require(found == self.files[name]["sha256"], f"{place} is damaged: its SHA-256 is {found[:8]}...; {REMEDY}")

    def open(self, name: str) -> Any:
        for _ in range(3):
            with suppress(FileNotFoundError):  # another process has just deleted it
                return self.path(name).open("rb", buffering=0)
        raise UserError(f"{self.folder} keeps losing files: raise cache_gb")

    def evict(self, kept: Path) -> None:
        """Delete the downloaded shards that were not used for the longest time, down to the limit."""
        shards = sorted(self.folder.glob("*.zip"), key=lambda file: file.stat().st_mtime) if self.limit else []
        size = sum(file.stat().st_size for file in shards)
        for file in shards:
            if size > self.limit and file != kept:  # type: ignore[operator]
                size -= file.stat().st_size
                file.unlink(missing_ok=True)

    def index(self, split: str) -> tuple[dict[str, np.ndarray], Tensor | None]:
        """Return name, shard, offset, size and CRC-32 of each sample (N,) of a split, and any targets (N, ...)."""
        names = [name for name in (f"{split}-index.npz", f"{split}-targets.npy") if name in self.files]
        require(names, f"{self.root} has no {split} shards")
        files = [self.path(name) for name in names]
        for name, file in zip(names, files, strict=True):
            self.check(name, file)
        with np.load(files[0]) as arrays:
            index = dict(arrays)
        # read by page; writing to the array changes no file
        return index, torch.from_numpy(np.load(files[1], mmap_mode="c")) if len(files) > 1 else None


class ShardFiles:
    """Images (C, H, W) that are read from shards and decoded on access: ``files[index]`` is (B, C, H, W), uint8."""

    def __init__(
        self, store: Store, split: str, index: dict[str, np.ndarray], shape: tuple[int, ...], num_workers: int | None
    ) -> None:
        self.store, self.shape, self.arrays = store, shape, index
        self.shards: list[str] = store.manifest["splits"][split]
        self.scale: Scale | None = store.manifest["scale"] and tuple(store.manifest["scale"])
        self.num_workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.arrays["shard"])

    def __getitem__(self, index: Tensor) -> Tensor:
        images = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        rows = index.numpy()
        shards = self.arrays["shard"][rows]
        for shard in np.unique(shards).tolist():
            with self.store.open(self.shards[shard]) as file:
                for place in np.flatnonzero(shards == shard).tolist():
                    images[place] = self.read(file, int(rows[place]))
        return images

    def read(self, file: Any, row: int) -> Tensor:
        """Return the image of a sample; refuse one that was damaged after it arrived."""
        offset, size, crc = (int(self.arrays[name][row]) for name in ("offset", "size", "crc"))
        file.seek(offset)
        content = file.read(size)
        image = decode(io.BytesIO(content), self.shape, self.scale) if zlib.crc32(content) == crc else "another CRC-32"
        if isinstance(image, str):
            remedy = "delete it" if self.store.remote else REMEDY
            raise UserError(f"{file.name} is damaged at byte {offset:,} ({image.rpartition(': ')[2]}); {remedy}")
        return torch.from_numpy(image)

    def near(self, index: Tensor, count: int) -> Tensor:
        """Return at least ``count`` of the samples of an index (N,), those of the first shards, or all of them."""
        shards = self.arrays["shard"][index.numpy()]
        last = np.searchsorted(np.cumsum(np.bincount(shards)), count)
        return index[torch.from_numpy(shards <= last)]

    def order(self, index: Tensor, window: int) -> WindowedOrder:
        """Return the windowed order of the samples of an index (N,)."""
        shards = torch.from_numpy(self.arrays["shard"][index.numpy()]).long()
        sizes = shards.bincount()
        return WindowedOrder(sizes[sizes > 0], window, shards.argsort(stable=True))
