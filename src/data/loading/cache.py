"""Decoded images in files, which are written atomically, checked when they are loaded, and read by page."""

import ctypes
import errno
import io
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src import UserError, replace_file, require
from src.data.loading.image_files import decode_all
from src.decoding import Scale

STALE = 3600  # seconds without a write, after which a temporary file is of a process that was killed
OF_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors that no other folder avoids


class MappedImages:
    """Images (C, H, W) in a file of pixels: ``images[index]`` is (B, C, H, W), uint8, and alone in memory."""

    num_workers = 0  # number of processes that read ahead

    def __init__(self, file: Path, shape: tuple[int, ...], rows: Tensor) -> None:
        self.file, self.shape, self.rows = file, shape, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = np.empty((len(index), *self.shape), np.uint8)
        with self.file.open("rb", buffering=0) as file:  # reading takes no longer than page faults of a memory map
            for image, row in zip(images, self.rows[index].tolist(), strict=True):
                file.seek(row * image.nbytes)
                require(file.readinto(image) == image.nbytes, f"{self.file} is truncated: delete it")
        return torch.from_numpy(images)

    def subset(self, index: Tensor) -> "MappedImages":
        images = MappedImages(self.file, self.shape, self.rows[index])
        images.num_workers = self.num_workers
        return images


@contextmanager
def replacing(file: Path, setting: str = "--data.cache") -> Iterator[Path]:
    """Yield a temporary file that replaces ``file`` in the end: other processes see it either complete or not at all.

    An error names the setting that chooses the folder.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in file.parent.glob(f"{file.name}.*"):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        replace_file(temporary, file)
    except OSError as error:
        if error.errno in OF_PROCESS:
            raise
        raise UserError(f"cannot write {file}: {error}; choose another folder with {setting}") from None
    finally:
        if file.parent.is_dir():
            temporary.unlink(missing_ok=True)


def decode_cached(
    file: Path, paths: Sequence[Path], shape: tuple[int, ...], in_memory: bool | None, scale: Scale | None
) -> dict[str, Any]:
    """Return what ``decode_all`` does, from the file of an earlier call if it is intact.

    ``images`` is a tensor if they are to be ``in_memory``, by default if they fit into a quarter of it; otherwise
    MappedImages if the disk has room for them, or None: they must be decoded on access.
    """
    size = len(paths) * prod(shape)
    fits = size < memory() / 4 if in_memory is None else in_memory
    found = load(file, len(paths), shape, verify=fits) or {}
    if scale and found.get("scale") and tuple(found["scale"]) != scale:
        found = {}
    disk = next(each for each in file.absolute().parents if each.exists())
    room = "checksum" in found or shutil.disk_usage(disk).free > 1.1 * size
    keep = fits or (in_memory is None and room)
    if not found or (keep and "checksum" not in found):
        found = decode_into(file, paths, shape, keep, scale)
    if fits:
        return found | {"images": map_pixels(file, len(found["good"]), shape)}
    return found | {"images": MappedImages(pixels_of(file), shape, torch.arange(len(found["good"]))) if keep else None}


def decode_into(
    file: Path, paths: Sequence[Path], shape: tuple[int, ...], keep: bool, scale: Scale | None
) -> dict[str, Any]:
    """Save what ``decode_all`` returns, but for the images; ``keep`` decodes them straight into a file of their own."""
    if keep:
        with replacing(pixels_of(file)) as temporary:
            found = decode_all(paths, shape, True, scale, reserve(temporary, (len(paths), *shape)))
            del found["images"]  # Windows truncates no mapped file
            os.truncate(temporary, len(found["good"]) * prod(shape))
            found["checksum"] = checksum(temporary)
    else:
        found = decode_all(paths, shape, False, scale)
        del found["images"]
    content = io.BytesIO()
    torch.save(found, content)
    with replacing(file) as temporary:
        temporary.write_bytes(content.getbuffer())
    return found


def load(file: Path, count: int, shape: tuple[int, ...], verify: bool) -> dict[str, Any] | None:
    """Return what ``decode_all`` found in ``count`` files; None if a file is missing, damaged or something else.

    The checksum of the pixels is compared only if ``verify``, their size always.
    """
    try:
        stream, pixels = io.BytesIO(file.read_bytes()), pixels_of(file)
        intact = zipfile.ZipFile(stream).testzip() is None
        stream.seek(0)
        content = torch.load(stream, weights_only=True)
        if "checksum" in content:
            intact &= pixels.stat().st_size == len(content["good"]) * prod(shape)
            intact &= not verify or checksum(pixels) == content["checksum"]
        return content if intact and is_valid(content, count) else None
    except Exception:
        return None


def pixels_of(file: Path) -> Path:
    """Return the file with the pixels of a file of the cache."""
    return file.with_suffix(".pixels")


def memory() -> int:
    """Return the memory of this machine in bytes."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX of Windows: its size, then the memory, and six more
    getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009
    return status[1]


def reserve(file: Path, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of bytes in a new file. A full disk is noticed here: later it would kill the process."""
    size = int(np.prod(shape))
    with file.open("wb") as stream:
        stream.truncate(size)
        if hasattr(os, "posix_fallocate") and size:  # absent on macOS
            os.posix_fallocate(stream.fileno(), 0, size)
    if not size:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8).view(shape)


def map_pixels(file: Path, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return the pixels (count, C, H, W) of a file of the cache as a memory map; writing to it changes no file."""
    if not count:
        return torch.empty(0, *shape, dtype=torch.uint8)
    size = count * prod(shape)
    return torch.from_file(str(pixels_of(file)), shared=False, size=size, dtype=torch.uint8).view(-1, *shape)


def checksum(file: Path) -> int:
    return zlib.crc32(np.memmap(file, np.uint8, "r").data) if file.stat().st_size else 0


def is_valid(content: dict[str, Any], count: int) -> bool:
    good, digests, found = content["good"], content["digests"], count - len(content["bad"])
    whole = good.shape == digests.shape == (found,) and good.dtype == digests.dtype == torch.long
    return whole and "scale" in content and not (good >= count).any()
