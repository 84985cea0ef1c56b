"""Several runs, compared on the same test samples: differences with paired intervals, seeds, settings, curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from src import require
from src.analysis.outputs import Outputs, difference, headline
from src.analysis.page import NAMES, chart, interval, later_range, percent, render, signed
from src.analysis.report.curves import Curve, finite, noise, read_curves
from src.analysis.report.run_page import HEADLINES
from src.analysis.statistics import holm, student

IGNORED = {"name", "seed_everything", "trainer.default_root_dir"}  # settings that make no other kind of run


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Return what the runs reach, and the difference of each from the first; refuse runs of other test samples."""
    outputs = [Outputs.load(folder) for folder in folders]
    first = outputs[0]
    for folder, o in zip(folders, outputs, strict=True):
        same = (o.kind, len(o), o.test_set) == (first.kind, len(first), first.test_set)
        got = f"{len(first):,} of {folders[0]} and {len(o):,} of {folder}"
        require(same, f"runs must be tested on the same samples to be compared, got different ones ({got})")
    settings = [
        flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}) for folder in folders
    ]
    runs: list[dict[str, Any]] = []
    for folder, o, own in zip(folders, outputs, settings, strict=True):
        value, ends = headline(o)
        runs.append({"run": str(folder), "seed": own.get("seed_everything"), "value": value, "interval": list(ends)})
    tests = [difference(first, o) for o in outputs[1:]]
    adjusted = holm([p for _, _, p in tests])
    for run, (gap, ends, _), p in zip(runs[1:], tests, adjusted, strict=True):
        run |= {"difference": gap, "difference_interval": list(ends), "p": p}
    keys = dict.fromkeys(key for own in settings for key in own)
    differ = {key: [own.get(key) for own in settings] for key in keys}
    differ = {key: values for key, values in differ.items() if any(value != values[0] for value in values)}
    groups = seeds(runs, [repr(sorted((k, str(v)) for k, v in own.items() if k not in IGNORED)) for own in settings])
    facts = {"metric": first.metric, "kind": first.kind, "samples": len(first), "runs": runs}
    return facts | {"settings": differ, "groups": groups, "p": "McNemar, Holm" if adjusted[:1] != [None] else None}


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
    found = []
    name = f"val/{metric}"
    first = finite(curves[0].get(name))[1]
    for run, own in zip(names[1:], curves[1:], strict=True):
        second = finite(own.get(name))[1]
        n = min(len(first), len(second)) // 3
        if n < 4:
            continue
        gap = float(np.mean(second[-n:]) - np.mean(first[-n:]))
        spread = max(noise(first[-n:]), noise(second[-n:]))
        if abs(gap) < spread:
            text = f"Validation cannot tell {run} from {names[0]}: over the last {n} epochs, {name} differs by"
            text += f" {gap:+.4f}."
            found.append((text, f"That is less than its noise from epoch to epoch, {spread:.4f}."))
    return found


def comparison_page(folders: Sequence[Path], facts: dict[str, Any]) -> str:
    """Return the HTML of a comparison."""
    kind, names = facts["kind"], short_names(folders)
    rows = []
    for name, run in zip(names, facts["runs"], strict=True):
        low, high = run["interval"]
        cells = [name, str(run["seed"]), percent(run["value"], kind), interval(low, high, kind)]
        if "difference" in run:
            cells += [
                signed(run["difference"], kind),
                " to ".join(signed(end, kind) for end in run["difference_interval"]),
            ]
            cells += [] if run["p"] is None else [f"{run['p']:.3g}"]
        rows.append(cells + [""] * (6 + bool(facts["p"]) - len(cells)))
    curves = [read_curves(folder / "metrics.csv") for folder in folders]
    shown = [f"val/{name}" for name in ("loss", *HEADLINES) if all(f"val/{name}" in each for each in curves)]
    shown = ["train/loss", *shown[:2]]
    lines = {name: [(run, *own[name]) for run, own in zip(names, curves, strict=True) if name in own] for name in shown}
    members = {str(folder): name for folder, name in zip(folders, names, strict=True)}
    return render(
        "comparison.html",
        title=f"{len(folders)} runs compared",
        metric=NAMES.get(facts["metric"], facts["metric"]),
        samples=facts["samples"],
        p=facts["p"],
        points=kind != "numbers",
        rows=rows,
        groups=[
            [", ".join(members[run] for run in g["runs"]), *(percent(g[key], kind) for key in ("mean", "std", "half"))]
            for g in facts["groups"]
        ],
        settings=[
            [key, *("" if value is None else str(value)[:60] for value in values)]
            for key, values in facts["settings"].items()
        ],
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
