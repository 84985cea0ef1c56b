"""Files of decoded images, written atomically and checked when they are loaded."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import UserError


def save(content: dict[str, Any], file: Path) -> None:
    """Write a file that other processes see either complete or not at all."""
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except (OSError, RuntimeError) as error:  # torch.save turns some OSErrors into RuntimeErrors
        raise UserError(f"cannot write {file}: {error}; choose another folder with --data.cache") from None
    finally:
        if file.parent.is_dir():
            temporary.unlink(missing_ok=True)


def load(file: Path, count: int, shape: tuple[int, ...], keep: bool) -> dict[str, Any] | None:
    """Return what ``decode_all`` found in ``count`` files; None if the file is missing, damaged or something else.

    Checksums are verified, because images are memory-mapped and torch verifies nothing then.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            intact = archive.testzip() is None
        content = torch.load(file, mmap=True, weights_only=True)
        return content if intact and is_valid(content, count, shape, keep) else None
    except Exception:
        return None


def is_valid(content: dict[str, Any], count: int, shape: tuple[int, ...], keep: bool) -> bool:
    good, bad, images, digests = (content[name] for name in ("good", "bad", "images", "digests"))
    if not all(isinstance(each, Tensor) for each in (good, images, digests)) or not isinstance(bad, list):
        return False
    whole = good.shape == digests.shape == (count - len(bad),) and all(isinstance(each, str) for each in bad)
    inside = not len(good) or bool((good >= 0).all() and (good < count).all() and (good.diff() > 0).all())
    scale = content["scale"]
    scaled = scale is None or (len(scale) == 2 and all(isinstance(each, float) for each in scale))
    kinds = (good.dtype, digests.dtype, images.dtype) == (torch.long, torch.long, torch.uint8)
    return whole and inside and scaled and kinds and images.shape == (len(good) if keep else 0, *shape)
