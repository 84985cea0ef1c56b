"""predict: name the classes of images, or write whatever a module predicts."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from src import UserError, require
from src.commands.predicted import draws_images, embedded, has_pictures, write_classes, write_pictures, write_values
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.data import DataModule
from src.data.loading.files_loader import FilesLoader
from src.data.loading.image_files import scan
from src.data.loading.report import left_out_rows
from src.protocols import ImageData
from src.runs.folder import back_up
from src.runs.neighbors import MAX_QUERIES, embeddings, write_neighbors
from src.runs.predictions import columns, let_forward_predict, probabilities
from src.runs.records import Records
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
    records: Path | None = None,
) -> Experiment:
    """Name the classes of images: of the test set, or of image files.

    If files are in folders named like classes, or the test set is used, the accuracy is printed, and confusion.csv
    counts the images of each class (rows) by prediction (columns). Masks and restored images become PNG files in
    predictions_pictures. Anything else, such as numbers or logits, is written unchanged, next to true numbers.
    For embeddings, predictions_neighbors.png shows the most similar images; predictions_projector is for TensorBoard.
    With several --run, predictions are averaged.

    Args:
        images: image files and folders.
        query: image files to search for by their embeddings, among the images; by default the first 8 of these.
        output: the CSV file of probabilities; by default predictions.csv in the run folder, of several runs in the
            current folder, where earlier ones are kept as predictions_0.csv, ...
        invert: swap black and white, such as in dark drawings on white for a net trained on white ones on black.
        greedy: choose among several runs, also repeatedly, those whose average is best on the validation split.
        soup: average the weights of several runs, not their predictions; with --greedy, those that make it better.
        records: a folder for a line on each picture, for report and check.

    Examples:
        python -m src.cli predict --run runs/digits/version_0 --images photos/
    """
    require(images or query or not invert, "--invert needs --images or --query")
    kept = Records(records) if records else None
    if kept:
        kept.prepare()
    x = start(options, greedy, soup)
    if kept:
        require(isinstance(x.data, DataModule), "--records needs a data module of this project")
    loader = FilesLoader(expand(images), check_data(x), invert) if images else None
    asked = FilesLoader(expand(query, "--query"), check_data(x), invert) if query else None
    require(asked is None or len(asked.paths) <= MAX_QUERIES, f"--query takes at most {MAX_QUERIES} image files")
    let_forward_predict(x.task)
    classes: list[str] = (isinstance(x.data, ImageData) and x.data.class_names) or []
    searched = predict(x, asked) if asked else []  # first, because there are few
    fits = draws_images(x) and probabilities(searched, len(classes)) is None and embeddings(searched, True) is not None
    require(fits or not query, "--query needs a model of images that returns embeddings (N, D)")
    outputs = predict(x, loader)
    rows = probabilities(outputs, len(classes))
    vectors = embeddings(outputs, of_any_length=bool(query)) if rows is None and draws_images(x) else None
    file = output or back_up((x.run.path if x.run else Path()) / "predictions.csv")
    if has_pictures(x, outputs):
        count = write_pictures(x, outputs, loader, file)
    elif rows is not None:
        count = write_classes(x, rows, classes, images, loader, file)
    else:
        count = write_values(x, columns(outputs), loader, file)
    if kept:
        from src.commands.recorded import write_records  # here, because few need it

        runs = [each.run for each in (options, *options.others) if each.run]
        write_records(x, outputs, loader, "+".join("/".join(run.resolve().parts[-2:]) for run in runs), kept)
    if vectors is not None:
        gallery = embedded(x, vectors, images, loader, classes)
        known = classes or sorted({*gallery.classes})
        write_neighbors(gallery, embedded(x, torch.cat(searched), query, asked, known) if query else None, file)
    print_rows((loader.notes(count) if loader else []) + (asked.notes(len(asked.names)) if asked else []))
    return x


def predict(x: Experiment, loader: FilesLoader | None) -> list[Any]:
    """Return what ``predict_step`` returns for each batch: of image files, or of the test split."""
    outputs: Any = x.trainer.predict(x.task, loader, None if loader else x.data, ckpt_path=x.config.ckpt_path) or []
    if loader is not None:
        require(loader.names, f"none of {len(loader.paths)} files can be decoded (first: {loader.paths[0]})")
    return outputs if len(x.trainer.num_predict_batches) < 2 else [batch for each in outputs for batch in each]


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
