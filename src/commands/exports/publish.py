"""Publish: write the files of a version, and print what is known of it."""

import json
import shutil
import sys
from typing import Any

import torch

from src import quote
from src.analysis import drift
from src.commands.exports import card
from src.commands.exports.files import Outputs, torch_session
from src.commands.exports.parity import chunks, joined, pictures
from src.commands.exports.timing import slower, time_sessions, time_table
from src.commands.exports.variants import Variant
from src.commands.outputs import deciding
from src.config.build import Experiment
from src.runs.exports import Models
from src.runs.summary import echo, print_rows


def publish(x: Experiment, models: Models, variants: list[Variant], info: dict[str, Any], candidate: bool) -> None:
    """Publish the last of the variants as the next version, unless a candidate as the current one."""
    made, samples = variants[-1], min(64, variants[-1].parity["samples"])
    sessions = {"torch": torch_session(variants[0].graph, [*made.expected])}
    sessions |= {each.name: each.session for each in variants}
    times = time_sessions(sessions, pictures(x, torch.arange(samples)))
    info = describe(x, made, {"name": models.path.resolve().name} | info) | {"ms": times[made.name]}
    warnings = slower(times, made.name)
    notes = [note for each in variants for note in each.notes] + warnings
    if info["precision_trained"] not in ("32", "32-true"):
        notes.insert(0, f"trained and tested in {info['precision_trained']}, but compared here with predict in float32")
    with models.draft() as draft:
        shutil.copy(made.file, draft / info["file"])
        card.write(draft, info, times, notes)
        (draft / "reference.json").write_text(json.dumps(reference(x, info, made.answers)) + "\n", encoding="utf-8")
        number = models.publish(draft)
    if not candidate:
        models.use(number)
    rows = [("parity", card.agreement(info["parity"]))]
    rows += [(name, card.interval(each)) for name, each in info["metrics"].items()]
    rows += [("note", note) for note in notes if note not in warnings]
    now = "a candidate" if candidate else "the current one"
    rows += [("", ""), *time_table(times), ("", ""), ("version", f"{models.path / str(number)}, {now}")]
    rows += [("serve", f"python -m src.cli serve {quote(models.path)}")] if made.file.suffix == ".onnx" else []
    print_rows(rows)
    for text in warnings:
        echo(f"warning: {text}", sys.stderr)


def describe(x: Experiment, made: Variant, info: dict[str, Any]) -> dict[str, Any]:
    """Return the content of model.json, but for the times."""
    data: Any = x.data
    task: Any = deciding(x.task)
    return card.describe(
        **info,
        task=type(task).__name__,
        kind=made.graph.kind,
        file=f"model{made.file.suffix}",
        input={"name": "images", "dtype": "uint8", "shape": [*data.shape], "scale": data.scale and [*data.scale]},
        outputs=[{"name": k, "dtype": str(v.dtype), "shape": [*v.shape[1:]]} for k, v in made.answers.items()],
        classes=data.class_names and [str(name) for name in data.class_names],
        tta=getattr(task, "tta", "plain"),
        parity=made.parity,
    )


def reference(x: Experiment, info: dict[str, Any], answers: Outputs) -> dict[str, Any]:
    """Return what drift is measured against: histograms of the test pictures, and of the answers to them."""
    seen = joined([drift.looks(pictures(x, chunk)) for chunk in chunks(x)])
    return drift.reference(seen | drift.traits(info, answers))
