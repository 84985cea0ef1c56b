"""Several runs, compared on the same test samples: differences with paired intervals, seeds, settings, curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from src import require
from src.analysis.outputs import Outputs, differences, measured
from src.analysis.page import NAMES, chart, interval, later_range, percent, render, signed
from src.analysis.report.curves import Curve, finite, noise, read_curves
from src.analysis.report.run_page import HEADLINES
from src.analysis.statistics import student

IGNORED = {"name", "seed_everything", "trainer.default_root_dir"}  # settings that make no other kind of run


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Return what the runs reach, and the difference of each from the first; refuse runs of other test samples."""
    outputs = [Outputs.load(folder) for folder in folders]
    first = outputs[0]
    for folder, o in zip(folders, outputs, strict=True):
        same = (o.kind, len(o), o.test_set) == (first.kind, len(first), first.test_set)
        got = f"{len(first):,} of {folders[0]} and {len(o):,} of {folder}"
        require(same, f"runs must be tested on the same samples to be compared, got different ones ({got})")
    texts = [(folder / "config.yaml").read_text(encoding="utf-8") for folder in folders]
    settings = [flatten(yaml.safe_load(text) or {}) for text in texts]
    gaps: list[dict[str, Any]] = [{}, *differences((first, o) for o in outputs[1:])]
    runs = [
        {"run": str(folder), "seed": own.get("seed_everything"), **measured(o), **gap}
        for folder, o, own, gap in zip(folders, outputs, settings, gaps, strict=True)
    ]
    keys = dict.fromkeys(key for own in settings for key in own)
    differ = {key: [own.get(key) for own in settings] for key in keys}
    differ = {key: values for key, values in differ.items() if any(value != values[0] for value in values)}
    groups = seeds(runs, [repr(sorted((k, str(v)) for k, v in own.items() if k not in IGNORED)) for own in settings])
    facts = {"metric": first.metric, "kind": first.kind, "samples": len(first), "runs": runs}
    tested = any(gap.get("p") is not None for gap in gaps)
    return facts | {"settings": differ, "groups": groups, "p": "McNemar, Holm" if tested else None}


def seeds(runs: list[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    """Return mean, standard deviation and Student's 95 % interval of runs that differ in nothing but their seed."""
    found = []
    for key in dict.fromkeys(keys):
        members = [run for run, own in zip(runs, keys, strict=True) if own == key]
        values = [run["value"] for run in members]
        if len(values) > 1:
            spread = {"std": float(np.std(values, ddof=1)), "half": student(values)}
            found.append({"runs": [run["run"] for run in members], "mean": float(np.mean(values)), **spread})
    return found


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a config by dotted key."""
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings}
    parts = [flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in settings.items()]
    return {key: value for part in parts for key, value in part.items()}


def says(metric: str, names: Sequence[str], curves: list[dict[str, Curve]]) -> list[tuple[str, str]]:
    """Return a sentence for each run that cannot be told from the first by validation, with its rule."""
    found, name = [], f"val/{metric}"
    first, *others = [finite(each.get(name))[1] for each in curves]
    for run, second in zip(names[1:], others, strict=True):
        n = max(1, min(len(first), len(second)) // 3)
        gap = float(np.sum(second[-n:]) - np.sum(first[-n:])) / n
        spread = max(noise(first[-n:]), noise(second[-n:]))
        if n >= 4 and abs(gap) < spread:
            text = f"Validation cannot tell {run} from {names[0]}: over the last {n} epochs, {name} differs by"
            text += f" {gap:+.4f}."
            found.append((text, f"That is less than its noise from epoch to epoch, {spread:.4f}."))
    return found


def comparison_page(folders: Sequence[Path], facts: dict[str, Any]) -> str:
    """Return the HTML of a comparison."""
    kind, names = facts["kind"], short_names(folders)
    rows = []
    for name, run in zip(names, facts["runs"], strict=True):
        cells = [name, str(run["seed"]), percent(run["value"], kind), interval(run["interval"], kind)]
        if "difference" in run:
            cells += [signed(kind, run["difference"]), signed(kind, *run["difference_interval"])]
            cells += [] if run["p"] is None else [f"{run['p']:.3g}"]
        rows.append(cells + [""] * (6 + bool(facts["p"]) - len(cells)))
    curves = [read_curves(folder / "metrics.csv") for folder in folders]
    shown = [f"val/{name}" for name in ("loss", *HEADLINES) if all(f"val/{name}" in each for each in curves)]
    shown = ["train/loss", *shown[:2]]
    lines = {name: [(run, *own[name]) for run, own in zip(names, curves, strict=True) if name in own] for name in shown}
    members, groups = {str(folder): name for folder, name in zip(folders, names, strict=True)}, []
    for each in facts["groups"]:
        values = [percent(each[key], kind) for key in ("mean", "std", "half")]
        groups.append([", ".join(members[run] for run in each["runs"]), *values])
    short = lambda value: "" if value is None else str(value)[:60]  # noqa: E731
    return render(
        "comparison.html",
        title=f"{len(folders)} runs compared",
        metric=NAMES.get(facts["metric"], facts["metric"]),
        samples=facts["samples"],
        p=facts["p"],
        points=kind != "numbers",
        rows=rows,
        groups=groups,
        settings=[[key, *map(short, values)] for key, values in facts["settings"].items()],
        names=names,
        charts=[c for name, series in lines.items() if (c := chart(f"{name} per epoch", series, later_range(series)))],
        says=says(facts["metric"], names, curves),
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the paths of folders without the parts that all of them begin or end with."""
    parts = [folder.resolve().parts for folder in folders]
    while min(map(len, parts)) > 1 and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    while min(map(len, parts)) > 1 and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    return ["/".join(each) for each in parts]
