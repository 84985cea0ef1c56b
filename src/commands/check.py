"""check: find what is wrong with data, or with a model, before training."""

import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from src import UserError, require
from src.analysis.data import findings
from src.analysis.drift import looks, reference
from src.analysis.outputs import Outputs
from src.analysis.page import render
from src.commands.check_page import page_values
from src.commands.check_summary import describe, summary
from src.commands.checked_data import other_samples, own_samples
from src.commands.fit_checks import check_fit
from src.commands.in_use import InUse, of_run
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.parser import parse
from src.data import DataModule
from src.runs.records import Records
from src.runs.summary import print_rows

MOST = 5000  # pictures of the test split with which records are compared


def run(
    options: Options,
    *,
    output: Path | None = None,
    fix: Path | None = None,
    loose: bool = False,
    fit: bool = False,
    records: Path | None = None,
) -> Experiment:
    """Find duplicates, suspect labels and broken files in data.

    Looks at all splits, the test split too, and writes check.json and a page with pictures, check.html. Exits with
    code 1 if something must be mended: undecodable files, exact duplicates in two splits, one picture with two labels,
    or a class that a split lacks. Near duplicates, suspect labels and outliers are for you to look at.

    Args:
        output: folder for the page; by default check/NAME.
        fix: write the names of samples to leave out to this file, for data.exclude.
        loose: list also near duplicates that are less alike, with more false alarms.
        fit: check the model instead: its first loss, gradients, one batch, time and memory; code 1 if a check fails.
        records: a folder that predict --records wrote: shows accuracy on feedback, drift, and pictures to label.

    Examples:
        python -m src.cli check --config configs/digits.yaml
        python -m src.cli check --config configs/digits.yaml --fit
    """
    if fit:
        others = output or fix or loose or records
        require(not others, "check --fit writes no files: leave out --output, --fix, --loose and --records")
        x, results = check_fit(options)
        if any(each.ok is False for each in results.values()):
            raise SystemExit(1)
        return x
    use = (Records.find(records), options.run and (options.run, Outputs.load(options.run))) if records else None
    x = build(parse(options), "check")
    folder = output or Path("check", x.config.name)
    require(not folder.is_file(), f"--output must be a folder, got the file {folder}")
    require(fix is None or not fix.is_dir(), f"--fix must be a file, got the folder {fix}")
    for each in (folder, *([fix.parent] if fix else [])):
        try:
            each.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=each).close()
        except OSError as error:
            raise UserError(f"cannot write to {each}: {error.strerror}; choose another place") from None
    return check_data(x, folder, fix, loose, use)


def check_data(
    x: Experiment, folder: Path, fix: Path | None, loose: bool, use: tuple[Records, Any] | None = None
) -> Experiment:
    own = x.data if isinstance(x.data, DataModule) else None
    require(own or fix is None, "--fix needs a data module of this project, whose data.exclude takes the names")
    samples = own_samples(own) if own else other_samples(x)
    found = findings.check(samples, loose)
    report = describe(x.data, samples, found)
    gone = [*report["undecodable"], *(samples.names[i] for i in findings.to_leave_out(samples, found))]
    used = in_use(x, samples, *use) if use else None
    report |= {"in_use": used.facts} if used else {}
    page = render("check.html", **page_values(x, samples, found, report), in_use=used.section() if used else None)
    (folder / "check.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "check.html").write_text(page, encoding="utf-8")
    print_rows([*summary(report), *(used.rows() if used else []), ("page", str(folder / "check.html"))])
    if fix is not None:
        before = sorted(getattr(x.data, "excluded", ()))
        lines = [f"{name}\n" for name in dict.fromkeys([*before, *gone])]
        fix.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        count = f"{len(gone)} sample{'s' if len(gone) != 1 else ''}: add --data.exclude={fix}" if gone else "none"
        print_rows([("to leave out", count)])
    if report["faults"]:
        more = [f"and {len(report['faults']) - 20} others, in check.json"] if len(report["faults"]) > 20 else []
        print_rows([("", ""), *(("" if i else "mend", each) for i, each in enumerate(report["faults"][:20] + more))])
        raise SystemExit(1)
    return x


def in_use(x: Experiment, samples: findings.Samples, records: Records, run: tuple[Path, Outputs] | None) -> InUse:
    """Return what records tell of the model of a run, or of all of a config, by the looks of the test split."""
    if run:
        return of_run(records, *run)
    index = torch.tensor([i for i, split in enumerate(samples.splits) if split == "test"])[:MOST]
    images = samples.images[index].numpy() if samples.images is not None and len(index) else None
    known, name = reference({} if images is None else looks(images)), x.config.name
    return InUse(records, lambda each: name in (each.get("model"), str(each.get("run")).split("/")[0]), None, known)
