"""What report measures of a run beyond its test: trivial models, and the metric on corrupted images."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback

from src import require
from src.analysis.outputs import Outputs, measured
from src.analysis.report import baselines, robust
from src.commands.test import start
from src.config.arguments import Options
from src.config.build import Experiment
from src.config.load import restore
from src.protocols import ImageData
from src.runs.folder import write_atomically
from src.runs.keep_outputs import KeepOutputs
from src.runs.summary import Rows
from src.tasks import Task

SETTINGS = ("devices=1", "num_nodes=1", "strategy=auto", "limit_test_batches=1.0", "enable_progress_bar=false")
TURNS = ("numbers", "masks")  # targets that may change where an image turns
Say = Callable[[Rows], None]


def open_run(options: Options, stages: tuple[str, ...]) -> tuple[Experiment, Any]:
    """Return the experiment of a run, as test has it on one device, and its data with these stages loaded."""
    settings = [f"--trainer.{each}" for each in (*SETTINGS, "inference_mode=false")]  # attacks need gradients
    x = start(replace(options, command="test", settings=settings))
    data: Any = x.data
    own = isinstance(data, ImageData)
    require(own, f"only data of src.data.DataModule can be measured again, got {type(data).__name__}")
    data.prepare_data()
    for stage in stages:
        data.setup(stage)
    if state := x.stored.get(type(data).__qualname__):
        data.load_state_dict(state)  # refuses another split
    return x, data


def measure_baselines(options: Options, folder: Path, o: Outputs, say: Say) -> None:
    """Write baselines.json: what trivial models reach on the test split."""
    _, data = open_run(options, ("fit", "test"))
    facts = baselines.measure_baselines(data, o)
    say([(f"test/{o.metric}", "             95 % interval      the run minus it")])
    for each in facts["models"]:
        ends = " to ".join(f"{end:.4f}" for end in each["interval"])
        say([(f"{each['value']:10.4f}", f"{ends:<18} {each['difference']:+.4f}  {each['name']}")])
    write_atomically(folder / baselines.FILE, json.dumps(facts, indent=2))


def measure_robustness(options: Options, folder: Path, o: Outputs, samples: int, eps: list[float], say: Say) -> None:
    """Write robust.json: the metric on a subset of the test split, as it is, corrupted and attacked."""
    begun = perf_counter()
    x, data = open_run(options, ("test",))
    kinds, attacks, left_out = changes(x.task, data, o)
    baselines.tested_targets(data.splits["test"], o)
    split, n = data.splits["test"], len(o)
    chosen = np.sort(np.random.default_rng(0).permutation(n)[:samples])
    _, images, *_ = split[torch.as_tensor(chosen)]
    targets = split.targets[split.index[torch.as_tensor(chosen)]]
    restore(x.task, x.stored, x.trainer.precision_plugin.convert_module)
    data.prepare_data = lambda: None  # it is prepared

    def tested(changed: torch.Tensor, *callbacks: Any) -> dict[str, Any]:
        keep: Any = KeepOutputs()
        data.splits["test"] = type(split)(changed, targets)
        x.trainer.callbacks += (own := [*callbacks, keep])  # type: ignore[attr-defined]
        x.trainer.test(x.task, datamodule=data, verbose=False)
        x.trainer.callbacks = x.trainer.callbacks[: -len(own)]  # type: ignore[attr-defined]
        require(keep.outputs, f"{type(x.task).__name__} returns no predictions that can be compared")
        found = measured(keep.outputs)
        require(not isnan(found["value"]), f"{o.metric} of {len(chosen)} samples is not defined: raise --samples")
        return found

    facts: dict[str, Any] = {"identity": o.identity, "samples": len(chosen), "of": n, "clean": tested(images)}
    width = max(8, len(o.metric) + 5)
    say([(f"{'test/' + o.metric:<{width}}", f"{facts['clean']['value']:.4f} on {len(chosen):,} of {n:,} samples")])
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        rows += [{"kind": kind, "amount": a, **tested(robust.corrupt(images, kind, a))} for a in robust.AMOUNTS[kind]]
        say([(f"{kind:<{width}}", cells(rows, kind))])
    for kind in attacks:
        for each in eps:
            change = robust.attacker(data.normalize, each, kind == "PGD")
            rows.append({"kind": kind, "amount": each, **tested(images, LambdaCallback(on_test_batch_start=change))})
        say([(f"{kind:<{width}}", cells(rows, kind))])
    facts |= {"rows": rows, "left_out": left_out, "seconds": round(perf_counter() - begun, 1)}
    write_atomically(folder / robust.FILE, json.dumps(facts, indent=2))


def cells(rows: list[dict[str, Any]], kind: str) -> str:
    return "  ".join(f"{each['value']:.4f} at {each['amount']:g}" for each in rows if each["kind"] == kind)


def changes(task: Any, data: Any, o: Outputs) -> tuple[list[str], list[str], str]:
    """Return the corruptions and attacks that make sense, and what is left out; refuse what has no images."""
    require(data.holds_images, f"--robust needs images, {type(data).__name__} has none")
    turns = o.kind not in TURNS
    colors = data.shape[0] in (1, 3)
    kinds = [each for each in robust.AMOUNTS if (each != "rotation" or turns) and (each != "JPEG" or colors)]
    attacked = isinstance(task, Task) and o.kind != "embeddings"
    notes = [] if turns else ["rotation, because the targets may turn with the image"]
    notes += [] if colors else [f"JPEG, which has 1 or 3 channels, not {data.shape[0]}"]
    if not attacked:
        why = "whose loss depends on the whole batch" if isinstance(task, Task) else "a module without evaluate"
        notes.append(f"FGSM and PGD of {type(task).__name__}, {why}")
    return kinds, [*robust.ATTACKS] if attacked else [], "; ".join(notes)
