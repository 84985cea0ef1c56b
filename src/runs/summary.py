"""What a command prints at its end: plain text that fits in 80 columns."""

import re
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from src import UserError, say


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; a row without a name and value is a blank line."""
    width = max((len(name) for name, _ in rows), default=0)
    say("\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows))


def start_rows(trainer: Any, continued: Path | None) -> list[tuple[str, str]]:
    """Return what to know when training begins: the run that is continued, and what will not be as one may think."""
    rows = []
    if continued:
        rows += [
            ("goes on", f"{continued}, after step {trainer.global_step}"),
            ("", "by its config.yaml and what is typed"),
        ]
    ours = {"DataLoader": hasattr(trainer.train_dataloader, "state_dict")}
    ours["module"] = hasattr(trainer.lightning_module, "train_means")
    if foreign := " and ".join(name for name, known in ours.items() if not known):
        rows += [("note", f"of this {foreign} no state amid an epoch is kept: a run that is cut off")]
        kept = [name for name in ("generator", "persistent_workers") if getattr(trainer.train_dataloader, name, None)]
        end = f"as at an epoch's end, with {kept[0]}" if kept else "at an epoch's end exactly"
        rows += [("", f"there goes on in another order, or with other means; {end}")]
    steps, rise = trainer.estimated_stepping_batches, getattr(trainer.lightning_module, "warmup_steps", 0)
    if isinstance(rise, int) and 0 < steps <= rise and not trainer.fast_dev_run:
        rows += [("note", f"warmup_steps is {rise}, the run has {steps} steps: the rate only rises")]
    return rows


def joined(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of all DataLoaders as one; where there are several, accuracy is accuracy[0], accuracy[1]."""
    return {re.sub(r"/dataloader_idx_(\d+)$", r"[\1]", key): value for each in results for key, value in each.items()}


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return val and test side by side, a row for each metric that is a mean over classes."""
    staged = [key for key in metrics if key.startswith(("val/", "test/")) and key.count("/") == 1]
    stages = [stage for stage in ("val", "test") if any(key.startswith(f"{stage}/") for key in staged)]
    head = [("metric", "".join(f"{stage:>10}" for stage in stages))] if stages else []
    names = dict.fromkeys(key.split("/")[1] for key in staged)
    cells = [(name, "".join(cell(metrics.get(f"{stage}/{name}")) for stage in stages)) for name in names]
    others = [(key, cell(value)) for key, value in metrics.items() if "/" not in key]  # a module's own names
    return [*head, *cells, *others]


def class_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return a row for each class, a column for each metric that is known for each class."""
    keys = [key.split("/", 2)[1:] for key in metrics if key.count("/") >= 2]
    scores, classes = dict.fromkeys(score for score, _ in keys), dict.fromkeys(name for _, name in keys)
    if not keys:
        return []
    values = {tuple(key.split("/", 2)[1:]): value for key, value in metrics.items() if key.count("/") >= 2}
    rows = [(name, "".join(cell(values.get((score, name))) for score in scores)) for name in classes]
    return [("class", "".join(f"{score:>10}" for score in scores)), *rows]


def cell(value: float | None) -> str:
    return f"{'-' if value is None or isnan(value) else format(value, '.4f'):>10}"


def fact_rows(facts: Mapping[str, float], before: Mapping[str, float], run_before: str) -> list[tuple[str, str]]:
    """Return what a run took, and its pace and memory also as multiples of those of the run before it."""
    shown = {name: f"{value:,}" for name, value in facts.items()}
    width = max(map(len, shown.values()), default=0)
    for name in ("milliseconds_per_step", "samples_per_second", "peak_memory_mib"):
        if facts.get(name) and before.get(name):
            shown[name] = f"{shown[name]:<{width}}  {facts[name] / before[name]:.2f} x {run_before}"
    return [(name.replace("_", " ").replace("mib", "MiB"), value) for name, value in shown.items()]


def next_rows(run: Path, named: str, limit: str) -> list[tuple[str, str]]:
    """Return the commands that go on with a run, which they name by ``--run DIR``."""
    command = "python -m src.cli"
    return [
        ("", ""),
        ("run", str(run)),
        ("more", f"{command} fit {named} --trainer.{limit}=N"),
        ("test", f"{command} test {named}"),
        ("use", f"{command} predict {named} --images FILE"),
    ]


def save(figure: Any, file: Path) -> None:
    """Write a figure of matplotlib's."""
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:  # the latter for an ending that is no kind of picture
        raise UserError(f"cannot write {file}: {error}; name another file with --output") from None
