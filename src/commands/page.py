"""The page of a run, written by fit and report."""

import sys
from pathlib import Path
from typing import Any

from src.analysis.outputs import FILE, Outputs, headline
from src.analysis.report.run_page import run_page
from src.analysis.report.sections import confused
from src.runs.folder import Run, write_atomically
from src.runs.summary import Rows, echo, print_rows

PAGE = "report.html"


def finish_page(run: Run, outputs: Outputs) -> None:
    """Keep what a test predicted, and write the page; if that fails, training has not: only tell it."""
    try:
        outputs.save(run.path / FILE)
        write_page(run, outputs)
    except Exception as error:  # whatever it is, the run is complete
        echo(f"warning: no report: {type(error).__name__}: {error}"[:200], sys.stderr)


def outputs_rows(o: Outputs) -> Rows:
    """Return the headline metric with its interval, and the most frequent errors."""
    value, (low, high) = headline(o)
    rows = [(f"test/{o.metric}", f"{value:10.4f}  95 % between {low:.4f} and {high:.4f}")]
    worst = confused(o, 3) if o.kind == "classes" else []
    texts = [f"{true} as {predicted}: {count} of {total}" for true, predicted, count, total in worst]
    return [*rows, *(("confused" if not i else "", f"    {text}") for i, text in enumerate(texts))]


def write_page(run: Run, outputs: Outputs, output: Path | None = None, columns: Any = None, in_use: Any = None) -> None:
    """Write the page of a run, by default in its folder, and print where it is."""
    file = output or run.path / PAGE
    write_atomically(file, run_page(run.path, outputs, columns, in_use))
    print_rows([("report", str(file))])
