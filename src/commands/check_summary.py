"""What a check of data reports, in check.json and in the terminal."""

from typing import Any

import torch

from src.analysis.data import findings, images
from src.commands.checked_data import SPLITS, constant_columns, file_facts
from src.data import DataModule
from src.runs.summary import Rows

SHOWN = 5  # of each kind in the terminal


def describe(data: Any, samples: findings.Samples, found: dict[str, Any]) -> dict[str, Any]:
    """Return the content of check.json, with names instead of indices."""
    names, own = samples.names, isinstance(data, DataModule)
    undecodable = [name for name in getattr(data, "bad", {}) if name not in data.excluded]
    report: dict[str, Any] = {"counts": counts(samples, own), "undecodable": undecodable}
    for key, pairs in (("exact_duplicates", found["exact"]), ("near_duplicates", found["near"])):
        report[key] = [[names[i], names[j], score] for i, j, score in pairs]
    label = class_label(samples)
    report["label_conflicts"] = [[names[i], names[j], label(i), label(j), score] for i, j, score in found["conflicts"]]
    report["suspect_labels"] = [[names[i], *rest] for i, *rest in found["suspects"]]
    outliers = [*found["outliers"]]
    if samples.root is not None:
        sizes, modes = file_facts(samples.root, names)
        outliers += images.odd_sizes(sizes)
        report["sizes"] = {f"{w} x {h}": sizes.count((w, h)) for w, h in [*dict.fromkeys(sizes)][:50]}
        report["modes"] = dict(modes.most_common())
    found["outliers"] = outliers
    report["outliers"] = [[names[i], kind, value] for i, kind, value in outliers]
    report["outliers"] += [[name, "constant column", 0.0] for name in constant_columns(data)]
    report |= {"pixels": found["pixels"]} if "pixels" in found else {}
    report |= {"targets": target_facts(samples)}
    across = [(i, j) for i, j, _ in found["exact"] if samples.splits[i] != samples.splits[j]]
    faults = [f"{name} cannot be decoded" for name in undecodable]
    faults += [f"{each[0]} ({each[2]}) and {each[1]} ({each[3]}) are one picture" for each in report["label_conflicts"]]
    faults += [f"{names[i]} ({samples.splits[i]}) and {names[j]} ({samples.splits[j]}) are copies" for i, j in across]
    report["faults"] = faults + (missing_classes(report["counts"]) if samples.class_names or not own else [])
    report["notes"] = [] if found["complete"] else ["near duplicates within train: too many pictures to compare"]
    if not own:
        report["notes"] += ["data of another project: checked as its loaders yield it, with their augmentation"]
    return report


def class_label(samples: findings.Samples) -> Any:
    classes, names = samples.classes, samples.class_names
    return lambda i: "" if classes is None else names[int(classes[i])] if names else str(int(classes[i]))


def counts(samples: findings.Samples, own: bool) -> dict[str, Any]:
    """Return the number of samples per split, by class if there are classes; of own data, also of an empty split."""
    splits = [split for split in SPLITS if own or split in samples.splits]
    if (classes := samples.classes) is None:
        return {split: {"all": samples.splits.count(split)} for split in splits}
    names, found = samples.class_names or [str(k) for k in range(int(classes.max()) + 1)], {}
    for split in splits:
        inside = classes[torch.tensor([each == split for each in samples.splits])]
        found[split] = dict(zip(names, inside.bincount(minlength=len(names)).tolist(), strict=True))
    return found


def missing_classes(counted: dict[str, dict[str, int]]) -> list[str]:
    """Return which classes a split lacks that another one has."""
    used = {name for split in counted.values() for name, count in split.items() if count}
    lacking = [(split, name) for split, own in counted.items() for name in own if name in used and not own[name]]
    return [f"{split} has no {name}" for split, name in lacking]


def target_facts(samples: findings.Samples) -> dict[str, Any]:
    """Return the distribution of numbers, the share of each class in masks, or of samples with each label."""
    targets = samples.targets
    if targets is None or samples.classes is not None:
        return {}
    if targets.ndim == 3:
        shares = targets.flatten().long().bincount() / targets.numel()
        names = samples.class_names or [str(k) for k in range(len(shares))]
        return {"share of pixels": {names[k]: round(share, 4) for k, share in enumerate(shares.tolist())}}
    values = findings.columns(targets)
    if ((values == 0) | (values == 1)).all():
        return {"share with label": {str(k): round(share, 4) for k, share in enumerate(values.mean(0).tolist())}}
    found, kinds = {}, ("mean", "std", "min", "25 %", "median", "75 %", "max")
    for k, column in enumerate(values.double().T[:10]):
        quarters = column.quantile(torch.arange(5, dtype=torch.float64) / 4)
        facts = [column.mean(), column.std(), *quarters]
        found[f"target {k}"] = {name: round(float(value), 4) for name, value in zip(kinds, facts, strict=True)}
    return found


def summary(report: dict[str, Any]) -> Rows:
    """Return what the terminal shows: counts, and the first of each kind of finding."""
    counted, classes = report["counts"], [*dict.fromkeys(name for own in report["counts"].values() for name in own)]
    rows = [("samples", "".join(f"{split:>9}" for split in counted))]
    for name in classes[:20] if len(classes) > 1 else []:
        rows.append((name[:30], "".join(f"{own.get(name, 0):>9,}" for own in counted.values())))
    rows += [("all", "".join(f"{sum(own.values()):>9,}" for own in counted.values()))]
    if "sizes" in report:
        rows.append(("sizes", listed([f"{n:,} of {size}" for size, n in report["sizes"].items()])))
        rows.append(("modes", listed([f"{n:,} {mode}" for mode, n in report["modes"].items()])))
    if pixels := report.get("pixels"):
        rows += [("pixels", f"mean {pixels['mean']:.1f}, std within a picture {pixels['std']:.1f}")]
    for name, facts in [*report["targets"].items()][:5]:
        rows += [(name, listed([f"{key} {value:.4g}" for key, value in facts.items()], 6))]
    pair = "{}  {}"
    lines = {"undecodable": "", "exact_duplicates": pair, "near_duplicates": pair, "label_conflicts": pair}
    lines |= {"suspect_labels": "{}: {}, rather {}", "outliers": "{}: {}"}
    for key, line in lines.items():
        entries, ranked = report[key], "ranked" if key == "suspect_labels" else "found"
        rows.append((key.replace("_", " "), f"{len(entries):,} {ranked}" if entries else "none"))
        rows += [("", line.format(*each)) for each in entries[:SHOWN] if line]
    return rows + [("note", note) for note in report["notes"]]


def listed(parts: list[str], count: int = 3) -> str:
    if (more := len(parts) - count) > 1:
        return f"{', '.join(parts[:count])} and {more} others"
    return ", ".join(parts)
