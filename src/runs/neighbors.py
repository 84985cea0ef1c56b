"""Embeddings: the most similar pictures as a sheet, and files for the projector of TensorBoard."""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from src.runs.folder import back_up
from src.runs.predictions import stacked, true_classes
from src.runs.summary import print_rows, save_figure

COLUMNS = 8  # neighbors of each picture
MAX_QUERIES = 32  # rows of a sheet
PROJECTED = 2000  # embeddings that the projector gets, because a browser must hold them and their pictures


@dataclass
class Embedded:
    """Embeddings (N, D) of pictures: their names, their classes, each "" if unknown, and a way to get their pixels.

    ``pictures(index)`` returns (len(index), C, H, W), uint8; C is 1 or 3.
    """

    vectors: Tensor
    names: list[str]
    classes: list[str]
    pictures: Callable[[Tensor], Tensor]


def embeddings(outputs: list[Any], of_any_length: bool = False) -> Tensor | None:
    """Return the outputs as embeddings (N, D), or None if they are something else or, by default, not of length 1."""
    vectors = stacked(outputs)
    if vectors is None or of_any_length:
        return vectors
    return vectors if torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-2) else None


def labels(names: list[str], classes: list[str], given: list[Path] | None, targets: Tensor | None) -> list[str]:
    """Return the class of each picture, "" if unknown: by targets (N,), or by its folder among the given paths.

    Without ``classes``, targets are their numbers, and each folder that holds pictures is a class if there are several.
    """
    if given:
        classes = classes or sorted({Path(name).absolute().parent.name for name in names})
        targets = true_classes(names, given, classes) if len(classes) > 1 else None
    each = [-1] * len(names) if targets is None else targets[: len(names)].tolist()
    return ["" if i < 0 else classes[i] if classes else str(i) for i in each]


def write_neighbors(gallery: Embedded, queries: Embedded | None, file: Path) -> None:
    """Write the sheet of neighbors, by default of the first 8, and the projector's folder next to the CSV file."""
    if (len(gallery.names) < 2 and not queries) or not file.is_file():  # nothing to search, or a pipe
        return
    first = replace(gallery, vectors=gallery.vectors[:8], names=gallery.names[:8], classes=gallery.classes[:8])
    sheet, folder = (back_up(file.with_name(f"{file.stem}_{name}")) for name in ("neighbors.png", "projector"))
    save_neighbors(queries or first, gallery, sheet)
    save_projector(gallery, folder)
    print_rows([("neighbors", str(sheet)), ("projector", f"tensorboard --logdir {folder}")])


def nearest(queries: Embedded, gallery: Embedded, count: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities (Q, count) in descending order and positions in the gallery.

    No picture is its own neighbor: its similarity is -inf. ``count`` is reduced to the size of the gallery.
    """
    similarities = normalize(queries.vectors.double()) @ normalize(gallery.vectors.double()).T
    files = [os.path.realpath(name) for name in gallery.names]
    for row, name in zip(similarities, map(os.path.realpath, queries.names), strict=True):
        row[[i for i, file in enumerate(files) if file == name]] = -torch.inf
    found = similarities.nan_to_num(-torch.inf, neginf=-torch.inf).sort(dim=1, descending=True, stable=True)
    return found.values[:, :count], found.indices[:, :count]


def save_neighbors(queries: Embedded, gallery: Embedded, file: Path) -> None:
    """Draw a row for each query: the picture, then its neighbors with similarity and class; its own class is green."""
    from matplotlib.figure import Figure  # slow to import

    similarities, index = nearest(queries, gallery, COLUMNS)
    shown = queries.pictures(torch.arange(len(queries.names)))
    others = gallery.pictures(index.flatten()).view(*index.shape, *shown.shape[1:])
    figure = Figure(figsize=(1 + index.shape[1], 1.3 * len(index)), layout="constrained")
    grid = figure.subplots(len(index), 1 + index.shape[1], squeeze=False)
    for i, cells in enumerate(grid):
        draw(cells[0], shown[i], queries.names[i][-14:], queries.classes[i])
        for cell, pixels, similarity, j in zip(cells[1:], others[i], similarities[i].tolist(), index[i], strict=True):
            if similarity == -torch.inf:
                cell.set_axis_off()
                continue
            right = queries.classes[i] == gallery.classes[j] != ""
            draw(cell, pixels, f"{similarity:.3f}{' ✓' if right else ''}", gallery.classes[j], right)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font lacks
        save_figure(figure, file)


def draw(cell: Any, pixels: Tensor, name: str, label: str, right: bool = False) -> None:
    cell.imshow(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    cell.set(xticks=[], yticks=[], frame_on=right)
    cell.spines[:].set(color="green", linewidth=2)
    color = "green" if right else "black"
    cell.set_xlabel(f"{plain(name)}\n{plain(label[:14])}", fontsize="x-small", color=color, parse_math=False)


def plain(text: str) -> str:
    """Return a name in one line of valid UTF-8."""
    return re.sub(r"\s", " ", text.encode("utf-8", "backslashreplace").decode())


def save_projector(gallery: Embedded, folder: Path) -> None:
    """Write the first embeddings with names, classes and small pictures; ``tensorboard --logdir FOLDER`` shows them."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    first = torch.arange(min(PROJECTED, len(gallery.names)))
    side = min(32, max(gallery.pictures(first[:1]).shape[2:]))  # the projector needs squares
    parts = [gallery.pictures(part).float() / 255 for part in first.split(64)]
    small = [interpolate(part, (side, side), mode="bilinear", antialias=True) for part in parts]
    rows = [[*map(plain, each)] for each in zip(gallery.names[:PROJECTED], gallery.classes, strict=False)]
    with SummaryWriter(str(folder)) as writer:
        metadata: dict[str, Any] = {"metadata": rows, "metadata_header": ["image", "class"]}
        writer.add_embedding(gallery.vectors[first], label_img=torch.cat(small), **metadata)
