"""report: one page on a run, or a comparison of several."""

import json as json_module
from pathlib import Path
from typing import Any

from src import require
from src.analysis.comparison import compare, comparison_page
from src.analysis.outputs import Outputs
from src.analysis.run_page import run_facts
from src.commands.page import write_page
from src.config.arguments import Options
from src.runs.folder import Run, write_atomically
from src.runs.summary import Rows, echo, print_rows


def run(options: Options, *, output: Path | None = None, json: bool = False) -> Any:
    """Write a page on a run, or compare several.

    It has results with intervals, learning curves, errors and the worst pictures; several runs are compared sample by
    sample, so they need the same test split.

    Args:
        output: the page; by default report.html in the folder of the run, or comparison.html here.
        json: print the numbers as JSON, and write no page.

    Examples:
        python -m src.cli report runs/digits/version_0
        python -m src.cli report runs/digits/version_0 runs/digits/version_1
    """
    folders = [each.run for each in (options, *options.others) if each.run]
    require(folders, "report needs run folders: python -m src.cli report runs/digits/version_0")
    typed = [*options.settings, *options.config[1:]]
    require(not typed, f"report takes run folders and no settings, got {' '.join(map(str, typed))[:80]}")
    if len(folders) == 1:
        outputs = Outputs.load(folders[0])
        facts = run_facts(folders[0], outputs)
        if not json:
            write_page(Run(folders[0]), outputs, output)
    else:
        facts = compare(folders)
        file = output or Path("comparison.html")
        if not json:
            print_rows(comparison_rows(facts))
            write_atomically(file, comparison_page(folders, facts))
            print_rows([("report", str(file))])
    if json:
        echo(json_module.dumps(facts, indent=2, default=str))
    return facts


def comparison_rows(facts: dict[str, Any]) -> Rows:
    """Return the metric of each run with its interval, and its difference from the first."""
    rows: Rows = [("run", f"{facts['metric']:>11}  minus the first, 95 % interval, p")]
    for run in facts["runs"]:
        name, text = run["run"], f"{run['value']:11.4f}"
        if "difference" in run:
            low, high = run["difference_interval"]
            p = "" if run["p"] is None else f"  {run['p']:.2g}"
            text += f"  {run['difference']:+.4f}  {low:+.4f} to {high:+.4f}{p}"
        rows.append((name if len(name) <= 32 else f"...{name[-29:]}", text))
    return rows
