"""predict: name the classes of images."""

import csv
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import UserError, require
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.data import DataModule
from src.data.loading.image_files import ImageFiles, decode, find_images
from src.data.loading.loader import BatchSampler, TensorLoader
from src.data.loading.splits import Samples
from src.data.loading.transform import BatchTransform
from src.protocols import ImageData
from src.runs.summary import print_rows


def run(options: Options, *, images: list[Path] | None = None, output: Path | None = None) -> Experiment:
    """Name the classes of images: of the test set, or of image files.

    Args:
        images: image files and folders.
        output: the CSV file of probabilities; by default predictions.csv in the run folder.

    Examples:
        python -m src.cli predict --run runs/digits/version_0 --images photos/
    """
    x = start(options)
    names: list[str] = []
    loader: Any = None
    if images:
        files, data = expand(images), restore_data(x)
        files = decodable(files, data) if getattr(data, "skip_bad", False) else files
        loader, names = files_loader(files, data), [str(file) for file in files]
    datamodule = None if images else x.data
    outputs: Any = x.trainer.predict(x.task, loader, datamodule, ckpt_path=x.config.ckpt_path)
    rows = probabilities(outputs or [])
    if isinstance(x.data, ImageData):
        names = names or x.data.files.get("test", [])
    names = (names or [f"test/{i}" for i in range(len(rows))])[: len(rows)]  # batches may be limited
    classes = (isinstance(x.data, ImageData) and x.data.class_names) or [str(i) for i in range(rows.shape[1])]
    file = output or (x.run.path if x.run else Path()) / "predictions.csv"
    write_csv(file, names, classes, rows)
    print_rows(predictions_table(names, classes, rows))
    print_rows([("written to", str(file))])
    return x


def restore_data(x: Experiment) -> DataModule:
    """Restore class names, image shape and normalization of the data module from the checkpoint."""
    state = x.stored.get(type(x.data).__qualname__)
    if not isinstance(x.data, DataModule) or not state:
        raise UserError("--images needs a run whose data module derives from src.data.DataModule")
    x.data.load_state_dict(state)
    return x.data


def expand(paths: list[Path]) -> list[Path]:
    """Replace each folder among the paths by the image files in it, at any depth."""
    found: list[Path] = []
    for path in paths:
        require(path.exists(), f"--images {path} does not exist")
        found += find_images(path) if path.is_dir() else [path]
    require(found, f"--images {' '.join(map(str, paths))}: no image files found")
    return found


def decodable(paths: list[Path], data: DataModule) -> list[Path]:
    """Skip images that cannot be decoded, with a warning that names them."""
    faults = {path: fault for path in paths if isinstance(fault := decode(path, data.shape), str)}
    if faults:
        warnings.warn(f"skipped {len(faults)} of {len(paths)} images: {'; '.join(faults.values())}", stacklevel=1)
    return [path for path in paths if path not in faults]


def files_loader(paths: list[Path], data: DataModule) -> TensorLoader:
    """Return batches of image files, normalized as in training."""
    samples = Samples(ImageFiles(paths, data.shape), None)
    return TensorLoader(samples, BatchSampler(len(paths), 64), BatchTransform(data.normalize))  # type: ignore[arg-type]


def probabilities(outputs: list[Tensor]) -> Tensor:
    """Convert outputs of ``predict_step`` to probabilities (N, K); rows that do not sum to 1 are logits."""
    if not outputs or not all(isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] > 1 for each in outputs):
        raise UserError("predict_step must return class probabilities or logits of each image, (N, K) with K > 1")
    rows = torch.cat([output.float().cpu() for output in outputs])
    sums_to_one = bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-2)
    return rows if sums_to_one else rows.softmax(1)


def write_csv(file: Path, names: list[str], classes: list[str], rows: Tensor) -> None:
    try:
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "prediction", "probability", *classes])
            for name, row in zip(names, rows, strict=True):
                best = int(row.argmax())
                writer.writerow([name, classes[best], f"{row[best]:.6f}", *(f"{p:.6f}" for p in row.tolist())])
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another file with --output") from None


def predictions_table(names: list[str], classes: list[str], rows: Tensor, limit: int = 20) -> list[tuple[str, str]]:
    """Return the three most probable classes of each of the first images."""
    table = []
    for name, row in zip(names[:limit], rows, strict=False):
        top = row.topk(min(3, len(classes)))
        guesses = [f"{classes[i]} {p:.1%}" for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        table.append((name if len(name) <= 40 else f"...{name[-37:]}", "  ".join(guesses)))
    return table + ([("...", f"{len(names) - limit} more")] if len(names) > limit else [])
