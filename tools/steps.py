"""Let training steps go wrong: numbers that are not finite, and memory that runs out."""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from src.runs.checkpoint import has_nonfinite, load_checkpoint
from tests.processes import ROOT, SMALL, Process, refusal


def numbers(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """NaN or infinite pixels, losses or gradients at any step: weights stay finite and learn, or the run stops."""
    for i in range(tries):
        kind, first, count = ("pixels", "loss", "gradient")[i % 3], draw.randrange(40), draw.choice((1, 3, 12))
        spoil = ["--trainer.callbacks+=tests.spoilers.Spoil", f"--trainer.callbacks.kind={kind}"]
        spoil += [f"--trainer.callbacks.first={first}", f"--trainer.callbacks.count={count}"]
        process = Process(["fit", *SMALL, *spoil], folder / str(i))
        code, output = process.wait(), process.log.read_text(encoding="utf-8")
        run = folder / str(i) / "runs/digits/version_0"
        wrong = [
            file.name for file in run.glob("checkpoints/*.ckpt") if has_nonfinite(load_checkpoint(file)["state_dict"])
        ]
        if count < 10:
            right = code == 0 and skipped_steps(run) == count and accuracy(run) > 0.25
        else:
            right = code == 2 and "10 consecutive steps" in output
        yield "" if right and not wrong else f"{kind} in steps {first} to {first + count - 1}: exit code {code} {wrong}"


def skipped_steps(run: Path) -> float:
    """Return the last logged number of skipped steps, 0 if none was logged."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return max((float(row["skipped_steps"]) for row in csv.DictReader(file) if row.get("skipped_steps")), default=0)


def accuracy(run: Path) -> float:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["val/accuracy"]


def memory(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Out of memory in a step: one line says what to change; MicroBatches resumes it, to the same weights."""
    fit = ["fit", f"--config={ROOT}/configs/digits.yaml", "--trainer.max_epochs=3", "--test=false"]
    fit += ["--model.net=tests.spoilers.Greedy"]
    assert Process(fit, folder / "reference").wait() == 0
    reference = last_weights(folder / "reference")
    for i in range(tries):
        place, where = folder / str(i), draw.choice(["forward", "backward"])
        greedy = [f"--model.net.max_images={draw.randint(1, 31)}", f"--model.net.where={where}"]
        greedy += [f"--model.net.after={draw.randrange(60)}"]
        wrong = refusal(Process([*fit, *greedy], place), "presets/micro_batches.yaml")
        checkpoints = [file.relative_to(place) for file in place.glob("runs/*/*/checkpoints/last.ckpt")]
        resume = ["fit", f"--run={checkpoints[0].parents[1]}"] if checkpoints else [*fit, *greedy]
        micro_batches = ["--trainer.callbacks+=src.callbacks.MicroBatches", "--model.net.after=0"]
        process = Process([*resume, *micro_batches], place)
        if code := process.wait():
            wrong = wrong or f"exit code {code}: {process.log.read_text(encoding='utf-8')[-500:]}"
        if not wrong:
            weights = last_weights(place)
            close = all(torch.allclose(weights[key], reference[key], atol=1e-5) for key in reference)
            wrong = "" if close else "other weights"
        yield wrong


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(next(folder.glob("runs/*/*/checkpoints/last.ckpt")), weights_only=True)["state_dict"]
