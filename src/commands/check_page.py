"""The page of a check: its pictures with their names, and its numbers."""

from typing import Any

import torch
from torch import Tensor

from src.analysis.data.findings import Samples
from src.analysis.page import picture
from src.commands.check_summary import class_label
from src.commands.show import caption, training_images
from src.config.build import Experiment
from src.data import DataModule

SHOWN, ROWS, EPOCHS = 12, 4, 5  # pictures or pairs of each kind, and of the sheet of augmented images
MEANINGS = {
    "Exact duplicates": "Pictures with equal pixels. In two splits, they make results look better than they are.",
    "Label conflicts": "One picture with two labels. At least one of them is wrong.",
    "Near duplicates": "Pictures that look the same, most similar first, pairs in two splits before others.",
    "Suspect labels": "Samples whose label is unlikely, given all others, most suspect first: a ranking to look"
    " through.",
    "Outliers": "Pictures and targets unlike the others. They may be right.",
}


def page_values(x: Experiment, samples: Samples, found: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return what the template check.html needs."""
    splits = samples.splits
    near = sorted(found["near"], key=lambda pair: splits[pair[0]] == splits[pair[1]])
    sections = []
    kinds: dict[str, list[tuple[list[int], str]]] = {
        "Label conflicts": [([i, j], f"similarity {score:.2f}") for i, j, score in found["conflicts"]],
        "Exact duplicates": [([i, j], f"similarity {score:.2f}") for i, j, score in found["exact"]],
        "Near duplicates": [([i, j], f"similarity {score:.2f}") for i, j, score in near],
        "Suspect labels": [([i], f"{given}, rather {other}") for i, given, other, _ in found["suspects"]],
        "Outliers": [([i], kind) for i, kind, _ in found["outliers"]],
    }
    for title, lines in kinds.items():
        shown = [entry(samples, *line) for line in lines[:SHOWN]]
        sections.append({"title": title, "count": len(lines), "meaning": MEANINGS[title], "shown": shown})
    names = [*dict.fromkeys(name for own in report["counts"].values() for name in own)]
    rows = [[name, *(f"{own.get(name, 0):,}" for own in report["counts"].values())] for name in names[:100]]
    facts = [(name, f"{count:,}") for key in ("sizes", "modes") for name, count in report.get(key, {}).items()][:20]
    for name, values in report["targets"].items():
        facts += [(f"{name}: {key}", f"{value:.4g}") for key, value in values.items()]
    return {
        "title": f"Data of {x.config.name}", "report": report, "sections": sections, "splits": [*report["counts"]],
        "rows": rows, "facts": facts, "sheet": sheet(x.data, samples),
    }  # fmt: skip


def entry(samples: Samples, indices: list[int], text: str) -> dict[str, Any]:
    """Return pictures and caption of one sample or of a pair."""
    names, label = [samples.names[i] for i in indices], class_label(samples) if len(indices) > 1 else lambda _: ""
    lines = [f"{name} ({label(i)})" if label(i) else name for i, name in zip(indices, names, strict=True)]
    images = []
    if samples.images is not None:
        pixels = samples.images[torch.tensor(sorted(indices))]
        images = [picture(shown(each), name) for each, name in zip(pixels, names, strict=True)]
    return {"images": images, "lines": [*lines, text]}


def shown(image: Tensor) -> Any:
    """Return an image (C, H, W) as one with 1 or 3 channels, uint8."""
    return image[: 3 if len(image) >= 3 else 1].float().round().clamp(0, 255).byte().cpu().numpy()


def sheet(data: Any, samples: Samples) -> list[list[dict[str, Any]]]:
    """Return rows of a training image, unchanged and as augmented; none of a table or another project."""
    if not isinstance(data, DataModule) or samples.images is None:
        return []
    rows: list[list[dict[str, Any]]] = [[] for _ in range(ROWS)]
    for title, images, targets in training_images(data, ROWS, EPOCHS):
        for i, (row, image) in enumerate(zip(rows, images, strict=False)):
            text = "" if targets is None else caption(targets[i], data.class_names)
            row.append({"images": [picture(shown(image), f"{title}, image {i}")], "lines": [title, text]})
    return [row for row in rows if row]
