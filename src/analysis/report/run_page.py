"""The page of one run, from the files of its folder."""

from pathlib import Path
from typing import Any

import yaml

from src import quote, read_json
from src.analysis.outputs import Outputs, headline, measured
from src.analysis.page import NAMES, chart, interval, later_range, percent, render
from src.analysis.report import baselines, robust, sections
from src.analysis.report.curves import Curve, read_curves, sentences
from src.analysis.report.slices import Columns, largest_gaps, slices, slices_section
from src.analysis.statistics import confusion

HEADLINES = ("iou", "map", "mae", "accuracy", "f1")  # the curve of the first that the run has is drawn
LAYER_VALUES = {  # of src.callbacks.Monitor
    "activation_zeros": "share of zeros",
    "activation_saturation": "saturation",
    "gradient_norm": "gradient norm",
    "weight_norm": "weight norm",
    "update_ratio": "update / weight",
}
MOST = 1000  # classes up to which programs get the confusion matrix
LAYERS = 60  # layers that the page shows
COMMANDS = {"test": "", "predict": " --images FILE", "fit": " --trainer.max_epochs=N"}
COSTS = {  # of results.json: name on the page, unit
    "seconds": ("time", " s"),
    "parameters": ("parameters", ""),
    "batch_size": ("batch size", ""),
    "samples_per_second": ("throughput", " samples/s"),
    "milliseconds_per_step": ("time per step", " ms"),
    "peak_memory_mib": ("peak memory", " MiB"),
}


def run_facts(folder: Path, o: Outputs, columns: Columns | None = None) -> dict[str, Any]:
    """Return the numbers of a run's page, for other programs."""
    facts = {"run": str(folder), "samples": len(o), "metric": o.metric, **measured(o)}
    facts |= {"results": read_json(folder / "results.json", {})}
    if o.kind == "classes":
        k = o.preds.shape[1]
        matrix = confusion(o.preds.argmax(1), o.targets, k).tolist() if k <= MOST else None
        facts |= {"class_names": o.class_names, "confusion": matrix}
    rows = slices(o, columns)
    facts |= {"slices": rows, "largest_gaps": [text for text, _ in largest_gaps(o, rows)]}
    for name, file in (("baselines", baselines.FILE), ("robust", robust.FILE)):
        found = read_json(folder / file, {})
        facts |= {name: found} if found.get("identity") == o.identity else {}
    return facts | {"says": [text for text, _ in sentences(read_curves(folder / "metrics.csv"))]}


def run_page(
    folder: Path, outputs: Outputs, columns: Columns | None = None, in_use: dict[str, Any] | None = None
) -> str:
    """Return the HTML of a run's page; ``columns`` also divide the test samples, ``in_use`` is of records."""
    results, entries = read_json(folder / "results.json", {}), read_json(folder / "provenance.json", [])
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    curves = read_curves(folder / "metrics.csv")
    (value, ends), kind, metric = headline(outputs), outputs.kind, NAMES.get(outputs.metric, outputs.metric)
    trivial = baselines.baselines_section(read_json(folder / baselines.FILE, {}), outputs)
    figures = [(f"test {metric}", percent(value, kind), interval(ends, kind))]
    if trivial:
        figures += trivial["figures"]
    elif (reference := results.get(f"reference/{outputs.metric}")) is not None:
        figures.append((f"reference {metric}", percent(reference, kind), "without looking at the input"))
    classes = sections.classes_section(outputs) if kind == "classes" else None
    return render(
        "report.html",
        title="/".join(folder.resolve().parts[-2:]),
        samples=len(outputs),
        kind=kind,
        metric=metric,
        figures=[*figures, *(classes["figures"] if classes else [])],
        classes=classes,
        monitor=monitor_section(folder, curves),
        data=data_rows(outputs),
        table=sections.per_class_section(outputs) if kind in ("labels", "masks") else None,
        numbers=sections.numbers_section(outputs) if kind == "numbers" else None,
        worst=sections.worst_section(outputs),
        in_use=in_use,
        baselines=trivial,
        slices=slices_section(outputs, columns),
        robust=robust.robust_section(read_json(folder / robust.FILE, {}), outputs),
        metrics=metric_rows(results),
        cost=[(name, f"{results[key]:,}{unit}") for key, (name, unit) in COSTS.items() if key in results],
        charts=curve_charts(curves),
        says=sentences(curves),
        config=config,
        provenance=provenance_rows(entries[-1] if entries else {}, config),
        commands=[
            *(f"python -m src.cli {each} --run {quote(folder)}{more}" for each, more in COMMANDS.items()),
            f"python -m src.cli report {quote(folder)} --baselines --robust",
        ],
    )


def metric_rows(results: dict[str, Any]) -> list[list[str]]:
    """Return name, validation, test and reference value of each metric."""
    rows = []
    for name in dict.fromkeys(key.split("/")[1] for key in results if key.count("/") == 1):
        values = [results.get(f"{stage}/{name}") for stage in ("val", "test", "reference")]
        rows.append([name, *(f"{value:.4f}" if isinstance(value, int | float) else "" for value in values)])
    return rows


def data_rows(o: Outputs) -> dict[str, Any]:
    """Return the number of samples in each split that was loaded, of up to 30 classes also of each."""
    k, splits = max(map(len, o.splits.values()), default=0), o.splits.values()
    rows = [["samples", *(f"{counts.sum():,}" for counts in splits)]]
    for i in range(k) if 1 < k <= sections.MATRIX else ():
        rows.append([o.class_name(i), *(f"{counts[i : i + 1].sum():,}" for counts in splits)])
    return {"head": ["", *o.splits], "rows": rows if o.splits else []}


def monitor_section(folder: Path, curves: dict[str, Curve]) -> dict[str, Any] | None:
    """Return what ``src.callbacks.Monitor`` warned of, and the last values of each layer; None without a Monitor."""
    layers = dict.fromkeys(key.split("/", 1)[1] for key in curves if key.split("/")[0] in LAYER_VALUES)
    if not layers:
        return None
    rows = []
    for layer in [*layers][:LAYERS]:
        last = [curves.get(f"{kind}/{layer}", ([], []))[1][-1:] for kind in LAYER_VALUES]
        rows.append([layer, *(f"{each[0]:.3g}" if each else "" for each in last)])
    warnings = [str(each.get("text")) for each in read_json(folder / "monitor.json", []) if isinstance(each, dict)]
    head, left = ["layer", *LAYER_VALUES.values()], len(layers) - len(rows)
    return {"rows": rows, "head": head, "warnings": warnings, "left": left}


def curve_charts(curves: dict[str, Curve]) -> list[Any]:
    """Return charts of training and validation values of known metrics, and of the learning rates."""
    charts = []
    known = {name.split("/", 1)[1] for name in curves if "/" in name}
    for name in ("loss", *[name for name in HEADLINES if name in known][:1]):
        both = [(stage, *curves[f"{stage}/{name}"]) for stage in ("train", "val") if f"{stage}/{name}" in curves]
        if both and len(both[0][1]) > 1:
            charts.append(chart(f"{NAMES.get(name, name)} per epoch{gap(both)}", both, later_range(both)))
    rates = [(name.removeprefix("lr-"), *curve) for name, curve in curves.items() if name.startswith("lr-")]
    different = {tuple(ys): (name, xs, ys) for name, xs, ys in rates if len(xs) > 1}
    lines = [(name if len(different) > 1 else "", xs, ys) for name, xs, ys in different.values()]
    return [c for c in (*charts, chart("learning rate by step", lines)) if c]


def gap(both: list[tuple[str, list[int], list[float]]]) -> str:
    """Return how far the validation value is from the training value in the last epoch that has both."""
    train, val = (dict(zip(xs, ys, strict=True)) for _, xs, ys in both) if len(both) == 2 else ({}, {})
    last = max(train.keys() & val.keys(), default=None)
    return "" if last is None else f"; gap {val[last] - train[last]:+.3g}"


def provenance_rows(entry: dict[str, Any], config: str) -> list[tuple[str, str]]:
    """Return where the run comes from."""
    settings, hardware = yaml.safe_load(config) or {}, entry.get("hardware") or {}
    commit = str(entry.get("git_commit") or "")[:12] + (" with uncommitted changes" if entry.get("git_dirty") else "")
    command = " ".join(map(quote, entry.get("command") or []))
    rows = [
        ("started", entry.get("time")), ("command", command), ("commit", commit), ("data split", entry.get("split")),
        ("seed", settings.get("seed_everything")), ("machine", hardware.get("cpu") or hardware.get("machine")),
        ("GPUs", ", ".join(hardware.get("gpus") or [])),
        ("versions", ", ".join(f"{name} {version}" for name, version in (entry.get("versions") or {}).items())),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value not in (None, "")]
