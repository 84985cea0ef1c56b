"""What a study found: the table on the terminal, results.csv and best.yaml. Does not import torch."""

import csv
import io
import math
from pathlib import Path
from uuid import uuid4

import yaml

from src import UserError, quote, replace_file
from src.analysis.statistics import student
from src.analysis.study.axes import counts_text, number, short_names
from src.analysis.study.charts import TIED, WINNER, Trial
from src.analysis.study.page import study_page
from src.commands.studies.plan import as_text
from src.commands.studies.record import Record, Study
from src.runs.folder import Run, write_atomically
from src.runs.summary import Rows, print_rows


def settings_text(study: Study, record: Record) -> str:
    names = short_names([*study.plan.space])
    return " ".join(f"{names[key]}={number(value)}" for key, value in record.settings.items())


def estimate(record: Record, confirmed: bool = False) -> str:
    """Return the mean of a trial's runs, with half the length of its 95 % interval if there are several."""
    mean, half = record.mean(confirmed), record.half(confirmed)
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} ± {half:.4f}"


def winner(study: Study) -> Record | None:
    """Return the best trial, by runs with new seeds if some trials have them."""
    return next(iter([*study.ranked(confirmed=True), *study.ranked()]), None)


def ties(study: Study) -> list[Record]:
    """Return the trials that the 95 % interval of the paired difference does not tell from the winner."""
    if (best := winner(study)) is None:
        return []
    confirmed = study.is_confirmed(best)
    found = []
    for other in [each for each in study.ranked(confirmed) if each is not best]:
        ours, theirs = best.values(confirmed), other.values(confirmed)
        gaps = [ours[name] - theirs[name] for name in ours.keys() & theirs.keys()]
        if len(gaps) > 1 and abs(math.fsum(gaps) / len(gaps)) <= student(gaps):
            found.append(other)
    return found


def write_table(study: Study) -> None:
    """Write results.csv, a row for each trial."""
    figures = ["value", "half_interval", "confirmed", "confirmed_half_interval", "seconds"]
    text = io.StringIO()
    rows = csv.DictWriter(text, ["trial", "state", *figures, "error", *study.plan.space], lineterminator="\n")
    rows.writeheader()
    for each in study.records():
        found = [each.mean(), each.half(), each.mean(confirmed=True), each.half(confirmed=True)]
        row = dict(zip(figures, ("" if math.isnan(figure) else repr(figure) for figure in found), strict=False))
        row |= {name: each.content.get(name, "") for name in ("seconds", "error")}
        settings = {key: as_text(value) for key, value in each.settings.items()}
        rows.writerow({"trial": each.number, "state": each.state} | row | settings)
    publish(study.folder / "results.csv", text.getvalue())


def write_results(study: Study) -> None:
    """Write results.csv, search.html, and best.yaml, the config of the winner."""
    study.known.clear()  # later runs may have confirmed some
    write_table(study)
    if (best := winner(study)) is not None:
        config, base = yaml.safe_load(run_of(study, best).config.read_text(encoding="utf-8")), study.content["base"]
        config |= {"name": base["name"], "test": base["test"]}
        config["trainer"]["default_root_dir"] = base["trainer"]["default_root_dir"]
        publish(study.folder / "best.yaml", yaml.safe_dump(config, sort_keys=False))
    publish(study.folder / "search.html", page_of(study))


def publish(file: Path, text: str) -> None:
    """Replace a file that several processes may write at the same time."""
    own = file.with_name(uuid4().hex)
    write_atomically(own, text)
    replace_file(own, file)


def page_of(study: Study) -> str:
    best, notes = winner(study), {each.number: TIED for each in ties(study)}
    notes |= {best.number: WINNER} if best else {}
    others = sorted(study.records(), key=lambda each: (each.state != "pruned", each.number))
    ordered = {each.number: each for each in [*study.ranked(confirmed=True), *study.ranked(), *others]}
    confirmed = {each.number: each.values(confirmed=True) if study.plan.confirm else {} for each in ordered.values()}
    trials = [
        Trial(
            each.number, each.state, each.settings, each.values(), confirmed[each.number], each.seconds(),
            each.content.get("error", ""), notes.get(each.number, ""),
        )
        for each in ordered.values()
    ]  # fmt: skip
    first = (f"Study {study.folder.name}", study.content["monitor"], study.content["mode"], study.plan.space, trials)
    return study_page(*first, commands=commands(study, best) if best else [], folds=study.plan.folds is not None)


def commands(study: Study, best: Record) -> list[str]:
    """Return the commands that test and train the winner."""
    run, config = (quote(path) for path in (run_of(study, best).path, study.folder / "best.yaml"))
    return [f"python -m src.cli test --run {run}", f"python -m src.cli fit --config {config}"]


def run_of(study: Study, record: Record) -> Run:
    """Return the first run of a trial."""
    name, _ = study.runs()[0]
    return Run(next(iter(sorted((record.folder / name).glob("version_*/results.json")))).parent)


def print_results(study: Study) -> None:
    records, best = study.records(), winner(study)
    rows: Rows = [("study", f"{study.folder}: {counts_text(records)}")]
    failed = [each for each in records if each.state == "failed"]
    for each in failed[:3]:
        rows.append(("failed", f"trial {each.number}: {each.content.get('error')}"))
    if best is None:
        print_rows(rows)
        raise UserError(f"no trial of {study.folder} is complete: see its log.txt files")
    confirmed = study.is_confirmed(best)
    count = len(best.values(confirmed))
    runs = f"{count} runs" if count > 1 else "one run"
    metric = study.content["monitor"]
    rows.append(
        ("best", f"trial {best.number}: {metric} {estimate(best, confirmed)}, {runs}{' with new seeds' * confirmed}")
    )
    rows += [("", f"{key}={number(value)}") for key, value in best.settings.items()]
    others = [str(each.number) for each in ties(study)]
    if others:
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        rows.append(("note", f"not distinguishable from it: trial {', '.join(others[:8])}{more}"))
    if count == 1 and len(records) > 1:
        rows += [
            ("note", "one run a trial: differences may be chance; confirm the best with"),
            ("", '--search.confirm="{top: 5, seeds: [1, 2, 3]}"'),
        ]
    rows += [("results", str(study.folder / "results.csv")), ("page", str(study.folder / "search.html"))]
    print_rows([*rows, *zip(("test it", "train it"), commands(study, best), strict=True)])
