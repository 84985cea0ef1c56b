"""Predictions: probabilities of each class, on screen and in a CSV file."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import UserError
from src.data import DataModule
from src.data.files import Files, decode, find_images
from src.data.loader import TensorLoader
from src.data.order import Order
from src.data.prepare import Prepare
from src.data.samples import Samples


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return image files and those in folders, all levels down.

    Raises:
        UserError: if a path does not exist or nothing is found.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--images {path} does not exist")
        found += find_images(path) if path.is_dir() else [path]
    if not found:
        raise UserError(f"--images {' '.join(map(str, paths))}: no image files there")
    return found


def files_loader(paths: list[Path], data: DataModule) -> TensorLoader:
    """Return batches of image files, prepared as the checkpoint says that ``data`` was restored from."""
    normalize: Any = data.normalize
    return TensorLoader(Samples(Files(paths, data.shape), None), Order(len(paths), 64), Prepare(normalize))


def decodable(paths: list[Path], data: DataModule) -> list[Path]:
    """Leave out, and name, the images that cannot be decoded."""
    faults = {path: fault for path in paths if isinstance(fault := decode(path, data.shape), str)}
    if faults:
        warnings.warn(f"skipped {len(faults)} of {len(paths)} images: {'; '.join(faults.values())}", stacklevel=1)
    return [path for path in paths if path not in faults]


def probabilities(outputs: Sequence[Tensor]) -> Tensor:
    """Return what ``predict_step`` gave as probabilities (N, K); rows that do not add up to 1 are taken for logits."""
    if not outputs or not all(isinstance(output, Tensor) and output.ndim == 2 for output in outputs):
        raise UserError("predict_step must return one row of class probabilities or logits for each image, (N, K)")
    rows = torch.cat([output.float().cpu() for output in outputs])
    sums_to_one = bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-2)
    return rows if sums_to_one else rows.softmax(1)


def write_csv(file: Path, names: Sequence[str], classes: Sequence[str], rows: Tensor) -> None:
    """Write a line for each image: its name, its class, and the probability of every class."""
    try:
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "prediction", "probability", *classes])
            for name, row in zip(names, rows, strict=True):
                best = int(row.argmax())
                writer.writerow([name, classes[best], f"{row[best]:.6f}", *(f"{p:.6f}" for p in row.tolist())])
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; name another file with --output") from None


def predict_table(names: Sequence[str], classes: Sequence[str], rows: Tensor, most: int = 20) -> list[tuple[str, str]]:
    """Return for each of the first images its three most probable classes."""
    table = []
    for name, row in zip(names[:most], rows, strict=False):
        top = row.topk(min(3, len(classes)))
        guesses = [f"{classes[i]} {p:.1%}" for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        table.append((name if len(name) <= 40 else f"...{name[-37:]}", "  ".join(guesses)))
    return table + ([("...", f"{len(names) - most} more")] if len(names) > most else [])
