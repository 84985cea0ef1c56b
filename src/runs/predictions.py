"""Predictions: what ``predict_step`` returns, as columns of a table and as pictures."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from src import UserError, replace_file, require
from src.runs.answers import PALETTE
from src.runs.summary import end_of


def probabilities(outputs: list[Any], num_classes: int = 0) -> Tensor | None:
    """Return the outputs as probabilities (N, K) of K classes, by default of any number; None if they are no such."""
    rows = stacked(outputs)
    if rows is None or rows.shape[1] != (num_classes or rows.shape[1]):
        return None
    sums_to_one = bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-2)
    return rows if sums_to_one else None


def stacked(outputs: list[Any]) -> Tensor | None:
    """Return the outputs as one tensor (N, D), float32, or None if they are something else."""
    if not outputs or not all(isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] > 1 for each in outputs):
        return None
    same = len({each.shape[1] for each in outputs}) == 1
    return torch.cat([output.float().cpu() for output in outputs]) if same else None


def let_forward_predict(task: LightningModule) -> None:
    """Let a task without ``predict_step`` call ``forward``, with the first entry of a batch if it accepts no batch."""

    def predict_step(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG001
        entries = [*batch.values()] if isinstance(batch, Mapping) else batch
        try:
            return task(batch)
        except (TypeError, AttributeError, RuntimeError) as error:
            if not isinstance(entries, list | tuple):
                raise
            with suppress(TypeError, AttributeError, RuntimeError):
                return task(entries[0])
            text = f"its forward accepts neither a batch nor its first entry ({' '.join(str(error).split())[:150]})"
            raise UserError(f"{type(task).__name__} needs a predict_step, because {text}") from error

    if not is_overridden("predict_step", task):
        task.predict_step = predict_step  # type: ignore[method-assign]


def columns(outputs: list[Any]) -> dict[str, list[Any]]:
    """Return the values of each sample by name, unchanged: numbers of tensors (N, ...), and texts."""
    table: dict[str, list[Any]] = {}
    for output in outputs:
        for name, values in leaves(output):
            table.setdefault(name, []).extend(values)
    lengths = {name: len(values) for name, values in table.items()}
    valid = len({*lengths.values()}) <= 1
    require(valid, f"predict_step must return the same number of values for each sample, got {lengths}")
    return table


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield names and values of a batch: entries are named by key or position; lists of dictionaries hold samples."""
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, Tensor):
        rows = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
        rows = rows.reshape(1) if rows.ndim == 0 else rows
        for i, column in enumerate(rows.flatten(1).T.tolist() if rows.ndim > 1 else [rows.tolist()]):
            yield (f"{name or 'value'}_{i}" if rows.ndim > 1 else name or "value"), column
    elif (entries := named_entries(value)) is not None:
        for key, each in entries.items():
            yield from leaves(each, f"{name}_{key}".lstrip("_"))
    elif isinstance(value, list) and value and all(map(named_entries, value)):
        samples = [named_entries(each) or {} for each in value]
        for key in samples[0]:
            cells = [each.get(key) for each in samples]
            yield f"{name}_{key}".lstrip("_"), [x.tolist() if isinstance(x, Tensor | np.ndarray) else x for x in cells]
    elif isinstance(value, list | tuple) and any(isinstance(each, Tensor | Mapping | list | tuple) for each in value):
        for i, each in enumerate(value):
            yield from leaves(each, f"{name or 'output'}_{i}")
    elif isinstance(value, list | tuple):
        yield name or "value", [*value]
    elif value is not None:
        yield name or "value", [value]


def named_entries(value: Any) -> Mapping[str, Any] | None:
    """Return the entries of a dictionary, dataclass or namedtuple; None of anything else."""
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value):
        return vars(value)
    named = isinstance(value, tuple) and hasattr(value, "__match_args__")
    return dict(zip(value.__match_args__, value, strict=True)) if named else None


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
    save_csv(file, [["class", *classes], *([name, *line] for name, line in zip(classes, counts.tolist(), strict=True))])
    right = int(counts.trace())
    return [("confusion", str(file)), ("accuracy", f"{right / len(true):.4f}, {right} of {len(true)} images")]


def write_csv(file: Path, names: list[str], classes: list[str], rows: Tensor, targets: Tensor | None = None) -> None:
    """Write the probabilities of all classes, and the true class of each image if any is known."""
    true = [classes[i] if i >= 0 else "" for i in targets.tolist()] if targets is not None else []
    lines: list[list[Any]] = [["image", "prediction", "probability", *classes]]
    for name, row in zip(names, rows.tolist(), strict=True):
        best = max(row)
        lines.append([name, classes[row.index(best)], *(f"{p:.6f}" for p in (best, *row))])
    for line, name in zip(lines, ["true", *true], strict=False) if any(true) else ():
        line.append(name)
    save_csv(file, lines)


def save_csv(file: Path, lines: list[list[Any]]) -> None:
    """Write a table, under its final name only once it is complete."""
    part = file.with_name(f"{file.name}.part") if file.is_file() or not file.exists() else file  # else a pipe
    try:
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            csv.writer(stream).writerows(lines)
        if part != file:
            replace_file(part, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another file with --output") from None


def predictions_table(names: list[str], classes: list[str], rows: Tensor, limit: int = 20) -> list[tuple[str, str]]:
    """Return the three most probable classes of each of the first images."""
    table = []
    for name, row in zip(names[:limit], rows, strict=False):
        guesses = [f"{classes[i]} {row[i]:.1%}" for i in row.topk(min(3, len(classes))).indices.tolist()]
        table.append((end_of(name, 40), "  ".join(guesses)))
    return table + ([("...", f"{len(names) - limit} more")] if len(names) > limit else [])


def true_numbers(targets: Tensor | None, count: int) -> dict[str, list[float]]:
    """Return targets (N,) or (N, D) that are numbers as columns named true, or true_0 and so on."""
    numbers = targets is not None and targets.is_floating_point() and targets.ndim < 3
    return columns([{"true": targets[:count]}]) if numbers else {}  # type: ignore[index]


def error_rows(values: dict[str, list[Any]], true: dict[str, list[float]]) -> list[tuple[str, str]]:
    """Return the mean absolute error if there is one predicted number for each true one."""
    if not true or len(values) != len(true):
        return []
    predicted, exact = (torch.tensor([*each.values()], dtype=torch.float64) for each in (values, true))
    return [("mae", f"{(predicted - exact).abs().mean():.4f}")]


def save_pictures(pictures: Mapping[str, Tensor], names: list[str], first: int, folder: Path) -> list[list[str]]:
    """Write pictures (N, H, W) of classes or (N, 1 or 3, H, W), uint8, as PNG files; ``first`` numbers their samples.

    Return the name of each sample and its files.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another file with --output") from None
    lines = [[name] for name in names]
    for kind, each in pictures.items():
        for i, (line, pixels) in enumerate(zip(lines, each.cpu().numpy(), strict=True), first):
            file = folder / f"{i:05}_{Path(line[0]).stem[:50]}_{kind}.png"
            picture = Image.fromarray(pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0).squeeze())
            if pixels.ndim == 2:  # classes, in colors
                picture.putpalette(PALETTE)
            picture.save(file)
            line.append(str(file))
    return lines
