"""predict: name the classes of images, or write whatever a module predicts."""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from src import UserError, require
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.data import DataModule
from src.data.loading.image_files import decode_all, scan
from src.data.loading.report import left_out_rows
from src.data.loading.transform import brightness_and_contrast
from src.protocols import ImageData
from src.runs.folder import back_up
from src.runs.predictions import columns, let_forward_predict, probabilities
from src.runs.summary import print_rows

CHUNK = 8192  # image files that are decoded at once


def run(
    options: Options, *, images: list[Path] | None = None, output: Path | None = None, invert: bool = False
) -> Experiment:
    """Name the classes of images: of the test set, or of image files.

    If files are in folders named like classes, or the test set is used, the accuracy is printed, and confusion.csv
    counts the images of each class (rows) by prediction (columns). What a module predicts that are no probabilities,
    such as logits or reconstructions, is written unchanged.

    Args:
        images: image files and folders.
        output: the CSV file of probabilities; by default predictions.csv in the run folder, where earlier ones are
            kept as predictions_0.csv, ...
        invert: swap black and white, such as in dark drawings on white for a net trained on MNIST.

    Examples:
        python -m src.cli predict --run runs/digits/version_0 --images photos/
    """
    require(images or not invert, "--invert needs --images")
    x = start(options)
    loader = FilesLoader(expand(images), check_data(x), invert) if images else None
    let_forward_predict(x.task)
    outputs: Any = x.trainer.predict(x.task, loader, None if images else x.data, ckpt_path=x.config.ckpt_path) or []
    outputs = outputs if len(x.trainer.num_predict_batches) < 2 else [batch for each in outputs for batch in each]
    if loader is not None and not loader.names:
        raise UserError(f"--images: none of {len(loader.paths)} files can be decoded")
    classes: list[str] = (isinstance(x.data, ImageData) and x.data.class_names) or []
    rows = probabilities(outputs, len(classes))
    values = columns(outputs) if rows is None else {}
    count = len(next(iter(values.values()), [])) if rows is None else len(rows)
    names, targets = loader.names if loader else [], None
    if isinstance(x.data, ImageData):
        names = names or x.data.files.get("test", [])
        targets = None if images else x.data.splits["test"].classes
    names = (names or [f"test/{i}" for i in range(count)])[:count]  # batches may be limited
    file = output or back_up((x.run.path if x.run else Path()) / "predictions.csv")
    if rows is None:
        save_csv(file, [["image", *values], *map(list, zip(names, *values.values(), strict=True))])
        shown = ", ".join([*values][:4]) + (f", ... ({len(values) - 4} more)" if len(values) > 4 else "")
        rows_shown = [("predicted", f"{count} samples"), ("values", shown or "none: predict_step returns nothing")]
        print_rows([*rows_shown, ("written to", str(file))])
        return x
    classes = classes or [str(i) for i in range(rows.shape[1])]
    targets = true_classes(names, images, classes) if images else targets
    write_csv(file, names, classes, rows, targets)
    print_rows(predictions_table(names, classes, rows))
    print_rows([("written to", str(file)), *accuracy_rows(rows, targets, classes, file.with_name("confusion.csv"))])
    print_rows(loader.notes(len(rows)) if loader else [])
    return x


def check_data(x: Experiment) -> DataModule:
    """Refuse a data module whose class names, image shape and normalization are not in the checkpoint."""
    if not isinstance(x.data, DataModule) or type(x.data).__qualname__ not in x.stored:
        raise UserError("--images needs a run whose data module derives from src.data.DataModule")
    return x.data


def expand(paths: list[Path]) -> list[Path]:
    """Replace each folder among the paths by the image files in it, at any depth; print what is left out."""
    found: list[Path] = []
    for path in paths:
        require(path.exists(), f"--images {path} does not exist")
        require(path.is_dir() or path.is_file(), f"--images {path} must be a file or folder, got a pipe or device")
        files, others = scan(path) if path.is_dir() else ([path], Counter())
        found += files
        print_rows(left_out_rows(others) if files else [])
    require(found, f"--images {' '.join(map(str, paths))}: no image files found")
    return found


class FilesLoader:
    """Batches of the image files that can be decoded, normalized as in training; the others print one line each."""

    def __init__(self, paths: list[Path], data: DataModule, invert: bool = False) -> None:
        self.paths, self.data, self.invert = paths, data, invert
        self.names: list[str] = []  # of the images in all batches so far
        self.looks: list[Tensor] = []  # brightness and contrast of these images, (N, 2)

    def __iter__(self) -> Iterator[Tensor]:
        self.names, self.looks, scale = [], [], self.data.scale
        normalize: Any = self.data.normalize
        for first in range(0, len(self.paths), CHUNK):
            paths = self.paths[first : first + CHUNK]
            decoded = decode_all(paths, self.data.shape, scale=scale)
            scale = scale or decoded["scale"]
            for message in decoded["bad"]:
                warnings.warn(message, stacklevel=1)
            if not len(decoded["good"]):
                continue
            images = 255 - decoded["images"] if self.invert else decoded["images"]
            self.looks.append(brightness_and_contrast(images))
            self.names += [str(paths[i]) for i in decoded["good"].tolist()]
            yield from map(normalize, images.split(64))

    def notes(self, count: int) -> list[tuple[str, str]]:
        """Say so if more than one in twenty of the first images is unlike those of the training."""
        normalize: Any = self.data.normalize
        looks = torch.cat(self.looks)[:count]
        unlike = normalize.unlike(looks)
        if unlike.float().mean() <= 0.05:
            return []
        trained, _, contrast, _ = normalize.typical.tolist()
        text = f"{int(unlike.sum())} of {count} images are unlike the training images"
        bright, contrasts = looks[unlike].mean(0).tolist()
        rows = [("note", f"{text}: brightness {bright:.0f}, there {trained:.0f},")]
        rows += [("", f"contrast {contrasts:.0f}, there {contrast:.0f}; predictions may be wrong")]
        mirrored = looks * torch.tensor([-1.0, 1.0]) + torch.tensor([255.0, 0.0])
        better = normalize.unlike(mirrored).sum() < unlike.sum() / 2
        return [*rows, ("", f"try it {'without' if self.invert else 'with'} --invert")] if better else rows


def true_classes(names: list[str], given: list[Path], classes: list[str]) -> Tensor:
    """Return the class of each file (N,) by the nearest folder named like a class; -1 if there is none.

    Only folders below the given ones count, the given ones themselves, and the folder of a given file.
    """
    roots = {(path if path.is_dir() else path.parent).absolute() for path in given}
    targets = []
    for name in names:
        parents = [*Path(name).absolute().parents]
        last = next(i for i, parent in enumerate(parents) if parent in roots)
        found = [parent.name for parent in parents[: last + 1] if parent.name in classes]
        targets.append(classes.index(found[0]) if found else -1)
    return torch.tensor(targets)


def accuracy_rows(rows: Tensor, targets: Tensor | None, classes: list[str], file: Path) -> list[tuple[str, str]]:
    """Write the confusion of the images whose class is known, if any, and return their accuracy."""
    if targets is None or not (known := targets[: len(rows)] >= 0).any():
        return []
    predicted, true = rows.argmax(1)[known], targets[: len(rows)][known]
    counts = multiclass_confusion_matrix(predicted, true, len(classes))
    lines = [[name, *line] for name, line in zip(classes, counts.tolist(), strict=True)]
    save_csv(file, [["class", *classes], *lines])
    right = int(counts.trace())
    return [("confusion", str(file)), ("accuracy", f"{right / len(true):.4f}, {right} of {len(true)} images")]


def write_csv(file: Path, names: list[str], classes: list[str], rows: Tensor, targets: Tensor | None = None) -> None:
    """Write the probabilities of all classes, and the true class of each image if any is known."""
    true = [classes[i] if i >= 0 else "" for i in targets.tolist()] if targets is not None else []
    lines: list[list[Any]] = [["image", "prediction", "probability", *classes]]
    for name, row in zip(names, rows, strict=True):
        best = int(row.argmax())
        lines.append([name, classes[best], f"{row[best]:.6f}", *(f"{p:.6f}" for p in row.tolist())])
    if any(true):
        lines = [[*line, name] for line, name in zip(lines, ["true", *true], strict=False)]
    save_csv(file, lines)


def save_csv(file: Path, lines: list[list[Any]]) -> None:
    """Write a table, under its final name only once it is complete."""
    part = file.with_name(f"{file.name}.part") if file.is_file() or not file.exists() else file  # else a pipe
    try:
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            csv.writer(stream).writerows(lines)
        if part != file:
            part.replace(file)
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
