"""predict: name the classes of images, or write whatever a module predicts."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src import UserError, require
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.data import DataModule
from src.data.loading.files_loader import FilesLoader
from src.data.loading.image_files import ImageFiles, scan
from src.data.loading.report import left_out_rows
from src.protocols import DrawsPredictions, ImageData
from src.runs.folder import back_up
from src.runs.neighbors import MAX_QUERIES, Embedded, embeddings, labels, write_neighbors
from src.runs.predictions import (
    accuracy_rows,
    columns,
    error_rows,
    let_forward_predict,
    predictions_table,
    probabilities,
    save_csv,
    save_pictures,
    true_classes,
    true_numbers,
    write_csv,
)
from src.runs.summary import print_rows


def run(
    options: Options,
    *,
    images: list[Path] | None = None,
    query: list[Path] | None = None,
    output: Path | None = None,
    invert: bool = False,
    greedy: bool = False,
    soup: bool = False,
) -> Experiment:
    """Name the classes of images: of the test set, or of image files.

    If files are in folders named like classes, or the test set is used, the accuracy is printed, and confusion.csv
    counts the images of each class (rows) by prediction (columns). Masks and restored images become PNG files in
    predictions_pictures. Anything else, such as numbers or logits, is written unchanged, next to true numbers.
    Of embeddings, predictions_neighbors.png shows similar images, and predictions_projector is for TensorBoard. Several
    runs are averaged.

    Args:
        images: image files and folders.
        query: image files to search for by their embeddings, among the images; by default the first 8 of these.
        output: the CSV file of probabilities; by default predictions.csv in the run folder, of several runs in the
            current folder, where earlier ones are kept as predictions_0.csv, ...
        invert: swap black and white, such as in dark drawings on white for a net trained on MNIST.
        greedy: see test.
        soup: see test.

    Examples:
        python -m src.cli predict --run runs/digits/version_0 --images photos/
    """
    require(images or query or not invert, "--invert needs --images or --query")
    x = start(options, greedy, soup)
    loader = FilesLoader(expand(images), check_data(x), invert) if images else None
    asked = FilesLoader(expand(query, "--query"), check_data(x), invert) if query else None
    require(asked is None or len(asked.paths) <= MAX_QUERIES, f"--query takes at most {MAX_QUERIES} image files")
    let_forward_predict(x.task)
    outputs, searched = predict(x, loader), predict(x, asked) if asked else []
    classes: list[str] = (isinstance(x.data, ImageData) and x.data.class_names) or []
    rows = probabilities(outputs, len(classes))
    vectors = embeddings(outputs, of_any_length=bool(query)) if rows is None and draws_images(x) else None
    require(vectors is not None or not query, "--query needs a model of images that returns embeddings (N, D)")
    file = output or back_up((x.run.path if x.run else Path()) / "predictions.csv")
    if has_pictures(x, outputs):
        count = write_pictures(x, outputs, loader, file)
    elif rows is not None:
        count = write_classes(x, rows, classes, images, loader, file)
    else:
        count = write_values(x, columns(outputs), loader, file)
    if vectors is not None:
        gallery = embedded(x, vectors, images, loader, classes)
        known = classes or sorted({*gallery.classes})
        write_neighbors(gallery, embedded(x, torch.cat(searched), query, asked, known) if query else None, file)
    print_rows((loader.notes(count) if loader else []) + (asked.notes(len(asked.names)) if asked else []))
    return x


def predict(x: Experiment, loader: FilesLoader | None) -> list[Any]:
    """Return what ``predict_step`` returns for each batch: of image files, or of the test split."""
    outputs: Any = x.trainer.predict(x.task, loader, None if loader else x.data, ckpt_path=x.config.ckpt_path) or []
    if loader is not None and not loader.names:
        raise UserError(f"none of {len(loader.paths)} files can be decoded, such as {loader.paths[0]}")
    return outputs if len(x.trainer.num_predict_batches) < 2 else [batch for each in outputs for batch in each]


def sample_names(x: Experiment, loader: FilesLoader | None, count: int) -> list[str]:
    """Return the names of as many samples: of image files, or their positions in the test split."""
    found = loader.names if loader else x.data.files.get("test", []) if isinstance(x.data, ImageData) else []
    return (found or [f"test/{i}" for i in range(count)])[:count]  # batches may be limited


def write_classes(
    x: Experiment, rows: Tensor, classes: list[str], given: list[Path] | None, loader: FilesLoader | None, file: Path
) -> int:
    """Write the probability of each class (N, K), print the first rows and the accuracy if known, and return N."""
    classes, names = classes or [str(i) for i in range(rows.shape[1])], sample_names(x, loader, len(rows))
    targets = x.data.splits["test"].classes if isinstance(x.data, ImageData) and not given else None
    targets = true_classes(names, given, classes) if given else targets
    write_csv(file, names, classes, rows, targets)
    print_rows(predictions_table(names, classes, rows))
    print_rows([("written to", str(file)), *accuracy_rows(rows, targets, classes, file.with_name("confusion.csv"))])
    return len(rows)


def write_values(x: Experiment, values: dict[str, list[Any]], loader: FilesLoader | None, file: Path) -> int:
    """Write values as they are, and the true numbers of the test split, if they are numbers, with their mean error."""
    count = len(next(iter(values.values()), []))
    split = x.data.splits["test"] if isinstance(x.data, ImageData) and not loader else None
    true: dict[str, list[float]] = true_numbers(split.targets, count) if split else {}
    shown = ", ".join([*values][:4]) + (f", ... ({len(values) - 4} more)" if len(values) > 4 else "")
    table = {"image": sample_names(x, loader, count), **values, **true}
    save_csv(file, [[*table], *map(list, zip(*table.values(), strict=True))])
    rows = [("predicted", f"{count} samples"), ("values", shown or "none: predict_step returns nothing")]
    print_rows([*rows, ("written to", str(file)), *error_rows(values, true)])
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
    names, folder = sample_names(x, loader, sum(map(len, outputs))), back_up(file.with_name(f"{file.stem}_pictures"))
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
        lines += save_pictures(drawn, own, len(lines), folder)
    save_csv(file, [["image", *drawn], *lines])
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


def check_data(x: Experiment) -> DataModule:
    """Refuse a data module whose class names, image shape and normalization are not in the checkpoint."""
    if not isinstance(x.data, DataModule) or type(x.data).__qualname__ not in x.stored or not x.data.holds_images:
        raise UserError("--images needs a run on images, whose data module derives from src.data.DataModule")
    return x.data


def expand(paths: list[Path], option: str = "--images") -> list[Path]:
    """Replace each folder among the paths by the image files in it, at any depth; print what is left out."""
    found: list[Path] = []
    for path in paths:
        require(path.exists(), f"{option} {path} does not exist")
        require(path.is_dir() or path.is_file(), f"{option} {path} must be a file or folder, got a pipe or device")
        files, others = scan(path) if path.is_dir() else ([path], Counter())
        found += files
        print_rows(left_out_rows(others) if files else [])
    require(found, f"{option} {' '.join(map(str, paths))}: no image files found")
    return found
