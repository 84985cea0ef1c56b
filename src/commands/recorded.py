"""The records that predict writes, the same as those of the server."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from src.analysis.drift import looks, traits
from src.commands.outputs import kind_of, outputs
from src.commands.predicted import draws_images, read_pixels, sample_names
from src.config.build import Experiment
from src.data.loading.files_loader import FilesLoader
from src.runs.answers import answer
from src.runs.records import Records, record
from src.runs.summary import print_rows


def write_records(x: Experiment, batches: list[Any], loader: FilesLoader | None, run: str, records: Records) -> None:
    """Write a record of each picture, given what predict_step returned for batches; ``run`` names the run or runs."""
    data: Any = x.data
    kind = kind_of(x, batches)
    info = {"kind": kind, "classes": data.class_names or None}
    origin = {"model": x.config.name, "run": run, "kind": kind}
    found = [{key: each.cpu().numpy() for key, each in outputs(kind, b, data.normalize).items()} for b in batches]
    names, first = sample_names(x, loader, sum(len(next(iter(each.values()))) for each in found)), 0
    for each in found:
        values, n = traits(info, each), len(next(iter(each.values())))
        if draws_images(x):
            pixels = read_pixels(x, names, loader is not None, torch.arange(first, first + n))
            values = looks((255 - pixels if loader and loader.invert else pixels).numpy()) | values
        for i, name in enumerate(names[first : first + n]):
            file = Path(name) if loader else Path(getattr(data, "root", "."), name)
            content = file.read_bytes() if file.is_file() else None
            records.add(record(answer(info, each, i), values, i, id=uuid4().hex, **origin, name=name), content)
        first += n
    print_rows([("records", f"{first - records.lost:,} in {records.folder}")])
