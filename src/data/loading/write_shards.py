"""Write shards: see ``src.data.loading.shards``."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from src.data.loading.cache import replacing
from src.data.loading.shards import FORMAT, MANIFEST

LOCAL_HEADER = 30  # bytes before the name of a file in a zip file


@dataclass
class ImageSet:
    """The images of a split: files, or pixels (N, C, H, W), which become PNG files."""

    names: Sequence[str]
    targets: Tensor | None
    root: Path | None  # of the files
    pixels: Any = None

    def size(self, i: int) -> int:
        """Return the number of bytes of a file, or the most that it will have."""
        if self.root is not None:
            return (self.root / self.names[i]).stat().st_size
        return self.pixel_bytes

    @cached_property
    def pixel_bytes(self) -> int:
        return self.pixels[torch.tensor([0])].numel()

    def read(self, i: int) -> bytes:
        if self.root is not None:
            return (self.root / self.names[i]).read_bytes()
        image = self.pixels[torch.tensor([i])][0].permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(stream, "PNG")
        return stream.getvalue()

    def version(self, i: int) -> Any:
        """Return what changes when a sample does."""
        if self.root is not None:
            stat = (self.root / self.names[i]).stat()
            return self.names[i], stat.st_size, stat.st_mtime_ns
        return self.names[i], sha256(self.pixels[torch.tensor([i])].numpy().tobytes()).hexdigest()


def write(folder: Path, sets: dict[str, ImageSet], facts: dict[str, Any], size: int) -> int:
    """Write sets by split, in shards of ``size`` bytes; return the number of shards. The manifest is written last.

    Shards that an interrupted call has written are kept. Training samples are dealt to the shards at random.
    """
    files: dict[str, Any] = {}
    splits: dict[str, list[str]] = {}
    arrays: dict[str, Any]
    for split, samples in sets.items():
        splits[split], arrays = [], {name: np.zeros(len(samples.names), np.int64) for name in ("shard", "offset")}
        arrays |= {name: np.zeros(len(samples.names), np.uint32) for name in ("size", "crc")}
        dealt = deal(samples, size, shuffle=split == "train")
        shown = track(dealt, split, console=Console(stderr=True)) if sys.stderr.isatty() else dealt
        for number, rows in enumerate(shown):
            file, infos = write_shard(folder, f"{split}-{number:05}", samples, rows)
            splits[split].append(file.name)
            files[file.name] = entry(file)
            arrays["shard"][rows] = number
            arrays["offset"][rows] = [i.header_offset + LOCAL_HEADER + len(i.filename.encode()) for i in infos]
            arrays["size"][rows], arrays["crc"][rows] = (
                [*map(each, infos)] for each in (lambda i: i.file_size, lambda i: i.CRC)
            )
        names = np.array([name.encode(errors="surrogateescape") for name in samples.names])
        content = io.BytesIO()
        np.savez(content, name=names, **arrays)
        added = {f"{split}-index.npz": content.getbuffer()}
        if samples.targets is not None:
            np.save(stream := io.BytesIO(), samples.targets.numpy())
            added[f"{split}-targets.npy"] = stream.getbuffer()
        for name, buffer in added.items():
            with replacing(folder / name, "--output") as temporary:
                temporary.write_bytes(buffer)
            files[name] = entry(folder / name)
    manifest = {"format": FORMAT, **facts, "splits": splits, "files": files}
    with replacing(folder / MANIFEST, "--output") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for old in folder.glob("*.*.*[0-9]"):  # temporary files of calls that were killed
        old.unlink(missing_ok=True)
    return sum(map(len, splits.values()))


def deal(samples: ImageSet, size: int, shuffle: bool) -> list[np.ndarray]:
    """Return the rows of each shard: about as many bytes in each, at most ``size`` and one sample more."""
    count = len(samples.names)
    order = np.random.default_rng(0).permutation(count) if shuffle else np.arange(count)
    ends = np.cumsum([samples.size(i) for i in order.tolist()])
    shards = -(-int(ends[-1]) // size)
    dealt = np.split(order, np.searchsorted(ends, ends[-1] * np.arange(1, shards) / shards))
    return [rows for rows in dealt if len(rows)]


def write_shard(folder: Path, name: str, samples: ImageSet, rows: np.ndarray) -> tuple[Path, list[ZipInfo]]:
    """Write a shard unless it exists and is intact; return the file and what it says of its samples."""
    version = sha256(repr([samples.version(i) for i in rows.tolist()]).encode()).hexdigest()[:12]
    file = folder / f"{name}-{version}.zip"
    if not is_intact(file, len(rows)):
        with replacing(file, "--output") as temporary, ZipFile(temporary, "w") as archive:
            for i in rows.tolist():
                archive.writestr(ZipInfo(samples.names[i].encode(errors="replace").decode()), samples.read(i))
    with ZipFile(file) as archive:
        return file, archive.infolist()


def is_intact(file: Path, count: int) -> bool:
    try:
        with ZipFile(file) as archive:
            return archive.testzip() is None and len(archive.infolist()) == count
    except Exception:  # missing or damaged in any way
        return False


def entry(file: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": file_digest(stream, "sha256").hexdigest()}
