"""report: one page on a run, or a comparison of several."""

import json as json_module
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from src import require
from src.analysis.outputs import Outputs
from src.analysis.report.comparison import compare, comparison_page
from src.analysis.report.run_page import run_facts
from src.analysis.report.slices import Columns, match
from src.commands.in_use import of_run
from src.commands.page import write_page
from src.config.arguments import Options
from src.runs.folder import Run, write_atomically
from src.runs.records import Records
from src.runs.summary import Rows, echo, end_of, print_rows


def run(
    options: Options,
    *,
    output: Path | None = None,
    json: bool = False,
    baselines: bool = False,
    slices: Path | None = None,
    robust: bool = False,
    eps: list[float] | None = None,
    samples: int = 2000,
    records: Path | None = None,
) -> Any:
    """Write a page on a run, or compare several.

    It has results with intervals, learning curves, errors and the worst pictures; several runs are compared sample by
    sample, so they need the same test split.

    Args:
        output: the page; by default report.html in the folder of the run, or comparison.html here.
        json: print the numbers as JSON, and write no page.
        baselines: measure what trivial models reach on the same test samples, for this page and later ones.
        slices: a CSV file whose columns also divide the test samples; names of the samples are in its column file, or
            in the first.
        robust: measure the metric on noisy, blurred, faded, compressed, turned and adversarial images, also for later.
        eps: with robust, the largest changes of a pixel by FGSM and PGD, in pixel values; by default 2 4 8.
        samples: with robust, the number of test samples.
        records: a folder that predict --records wrote: shows accuracy on feedback, drift, and pictures to label.

    Examples:
        python -m src.cli report runs/digits/version_0
        python -m src.cli report runs/digits/version_0 runs/digits/version_1
        python -m src.cli report runs/digits/version_0 --baselines --robust
    """
    if {"-h", "--help", "--help-all"} & {*options.settings}:  # there are no settings to explain
        echo(f"usage: python -m src.cli report DIR [DIR ...] [options]\n\n{options.description}")
        raise SystemExit(0)
    folders = [each.run for each in (options, *options.others) if each.run]
    require(folders, "report needs run folders: python -m src.cli report runs/digits/version_0")
    typed = " ".join(map(str, [*options.settings, *options.config[1:]]))
    require(not typed, f"report takes run folders and no settings, got {typed[:80]}")
    require(eps is None or robust, "--eps is an option of --robust: add that")
    for each in eps or ():
        require(0 < each <= 255, f"--eps must be in (0, 255], in pixel values, got {each:g}")
    require(samples >= 2, f"--samples must be at least 2, got {samples}")
    if len(folders) == 1:
        outputs, say = Outputs.load(folders[0]), (lambda _: None) if json else print_rows
        columns = read_columns(outputs, slices) if slices else None
        used = of_run(Records.find(records), folders[0], outputs) if records else None
        if baselines or robust:
            from src.commands.measure import measure_baselines, measure_robustness  # imports torch
        if baselines:
            measure_baselines(options, folders[0], outputs, say)
        if robust:
            measure_robustness(options, folders[0], outputs, samples, eps or [2.0, 4.0, 8.0], say)
        facts = run_facts(folders[0], outputs, columns) | ({"in_use": used.facts} if used else {})
        if not json:
            print_rows(used.rows() if used else [])
            write_page(Run(folders[0]), outputs, output, columns, used.section() if used else None)
    else:
        one = not (baselines or slices or robust or records)
        require(one, f"--baselines, --slices, --robust and --records are of one run, got {len(folders)}")
        facts = compare(folders)
        file = output or Path("comparison.html")
        if not json:
            print_rows(comparison_rows(facts))
            write_atomically(file, comparison_page(folders, facts))
            print_rows([("report", str(file))])
    if json:
        echo(json_module.dumps(plain(facts), indent=2, allow_nan=False))
    return facts


def read_columns(outputs: Outputs, file: Path) -> Columns:
    """Return the columns of a table of metadata in the order of the test samples."""
    from src.data.loading.csv_file import is_missing, read_csv  # imports torch

    rows = [{k: "" if is_missing(v) else v for k, v in row.items()} for row in read_csv(file).values()]
    return match(outputs, rows, str(file))


def plain(value: Any) -> Any:
    """Return values that JSON can hold: None for NaN and infinity, texts for what is no number, list or dictionary."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def comparison_rows(facts: dict[str, Any]) -> Rows:
    """Return the metric of each run with its interval, and its difference from the first."""
    rows: Rows = [("run", f"{facts['metric']:>11}  minus the first, 95 % interval, p")]
    for run in facts["runs"]:
        text = f"{run['value']:11.4f}"
        if "difference" in run:
            low, high = run["difference_interval"]
            p = "" if run["p"] is None else f"  {run['p']:.2g}"
            text += f"  {run['difference']:+.4f}  {low:+.4f} to {high:+.4f}{p}"
        rows.append((end_of(run["run"], 32), text))
    return rows
