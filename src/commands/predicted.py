"""What predict writes: tables of classes and values, pictures, and embeddings with what they belong to."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config.build import Experiment
from src.data import DataModule
from src.data.loading.files_loader import FilesLoader
from src.data.loading.image_files import ImageFiles
from src.protocols import DrawsPredictions, ImageData
from src.runs import predictions
from src.runs.folder import free_name
from src.runs.neighbors import Embedded, labels
from src.runs.summary import print_rows


def sample_names(x: Experiment, loader: FilesLoader | None, count: int) -> list[str]:
    """Return the names of as many samples: of image files, or their positions in the test split."""
    if loader or not isinstance(x.data, ImageData):
        return loader.names[:count] if loader else [f"test/{i}" for i in range(count)]
    files, index = x.data.files.get("test"), x.data.splits["test"].index[:count].tolist()  # batches may be limited
    return [files[i] if files else f"test/{i}" for i in index]


def write_classes(
    x: Experiment, rows: Tensor, classes: list[str], given: list[Path] | None, loader: FilesLoader | None, file: Path
) -> int:
    """Write the probability of each class (N, K), print the first rows and the accuracy if known, and return N."""
    classes, names = classes or [str(i) for i in range(rows.shape[1])], sample_names(x, loader, len(rows))
    targets = x.data.splits["test"].classes if isinstance(x.data, ImageData) and not given else None
    targets = predictions.true_classes(names, given, classes) if given else targets
    predictions.write_csv(file, names, classes, rows, targets)
    print_rows(predictions.predictions_table(names, classes, rows))
    accuracy = predictions.accuracy_rows(rows, targets, classes, file.with_name("confusion.csv"))
    print_rows([("written to", str(file)), *accuracy])
    return len(rows)


def write_values(x: Experiment, values: dict[str, list[Any]], loader: FilesLoader | None, file: Path) -> int:
    """Write values as they are, and the true numbers of the test split, if they are numbers, with their mean error."""
    count = len(next(iter(values.values()), []))
    split = x.data.splits["test"] if isinstance(x.data, ImageData) and not loader else None
    true: dict[str, list[float]] = predictions.true_numbers(split.targets, count) if split else {}
    shown = ", ".join([*values][:4]) + (f", ... ({len(values) - 4} more)" if len(values) > 4 else "")
    table = {"image": sample_names(x, loader, count), **values, **true}
    predictions.save_csv(file, [[*table], *map(list, zip(*table.values(), strict=True))])
    rows = [("predicted", f"{count} samples"), ("values", shown or "none: predict_step returns nothing")]
    print_rows([*rows, ("written to", str(file)), *predictions.error_rows(values, true)])
    return count


def has_pictures(x: Experiment, outputs: list[Any]) -> bool:
    """Tell whether the task draws its predictions, or whether they are images of the data's shape themselves."""
    if not isinstance(x.data, DataModule) or not outputs or not all(isinstance(each, Tensor) for each in outputs):
        return False
    return isinstance(x.task, DrawsPredictions) or (draws_images(x) and outputs[0].shape[1:] == x.data.shape)


def draws_images(x: Experiment) -> bool:
    return isinstance(x.data, DataModule) and x.data.holds_images and x.data.shape[:1] in ((1,), (3,))


def read_pixels(x: Experiment, names: list[str], files: bool, index: Tensor) -> Tensor:
    """Return the images (N, C, H, W), uint8, at positions (N,) of files with these names or of the test split."""
    data: Any = x.data
    if not files:
        return data.splits["predict"][index][1].cpu()
    return ImageFiles([Path(names[i]) for i in index.tolist()], data.shape, 0, data.scale)[torch.arange(len(index))]


def write_pictures(x: Experiment, outputs: list[Tensor], loader: FilesLoader | None, file: Path) -> int:
    """Write PNG files to a folder next to the CSV file, which lists them."""
    data: Any = x.data
    names, folder = sample_names(x, loader, sum(map(len, outputs))), file.with_name(f"{file.stem}_pictures")
    folder = free_name(folder) if folder.exists() else folder  # an earlier table names the files of its own folder
    lines: list[list[Any]] = []
    drawn: dict[str, Tensor] = {}
    for output in outputs:
        index = torch.arange(len(lines), len(lines) + len(output))
        own = [names[i] for i in index.tolist()]
        images = read_pixels(x, names, loader is not None, index)
        if isinstance(x.task, DrawsPredictions):
            drawn = x.task.draw_predictions(images, output.cpu())
        else:
            pixels = output.float().cpu() * data.normalize.std.cpu() + data.normalize.mean.cpu()
            drawn = {"output": pixels.round().clamp(0, 255).byte()}
        lines += predictions.save_pictures(drawn, own, len(lines), folder)
    predictions.save_csv(file, [["image", *drawn], *lines])
    print_rows([("predicted", f"{len(lines)} samples"), ("pictures", str(folder)), ("written to", str(file))])
    return len(lines)


def embedded(
    x: Experiment, vectors: Tensor, given: list[Path] | None, loader: FilesLoader | None, classes: list[str]
) -> Embedded:
    """Return embeddings with the names, classes and pixels of their images."""
    data: Any = x.data
    names, targets = sample_names(x, loader, len(vectors)), None if given else data.splits["test"].classes
    known, pictures = labels(names, classes, given, targets), partial(read_pixels, x, names, loader is not None)
    names = [str(data.root / name) for name in names] if data.files and not given else names
    return Embedded(vectors, names, known, pictures)
