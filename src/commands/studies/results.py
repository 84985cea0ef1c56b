"""What a study found: the table on the terminal, results.csv and best.yaml. Does not import torch."""

import csv
import io
import math
from shlex import quote
from typing import Any

import yaml

from src import UserError
from src.analysis.statistics import student
from src.commands.studies.plan import typed
from src.commands.studies.record import Record, Study
from src.runs.folder import Run, write_atomically
from src.runs.summary import Rows, print_rows

STATES = ("complete", "running", "pruned", "failed")


def short_names(keys: list[str]) -> dict[str, str]:
    """Return for each dotted key the fewest of its last words that no other key ends with."""
    ends = {key: [key.split(".", i)[-1] for i in range(key.count("."), -1, -1)] for key in keys}
    return {
        key: next(end for end in ends[key] if sum(other == end or other.endswith(f".{end}") for other in keys) == 1)
        for key in keys
    }


def settings_text(study: Study, record: Record) -> str:
    names = short_names([*study.plan.space])
    return " ".join(f"{names[key]}={number(value)}" for key, value in record.settings.items())


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else typed({"": value})[0].removeprefix("--=")


def estimate(record: Record, confirmed: bool = False) -> str:
    """Return the mean of a trial's runs, with half the length of its 95 % interval if there are several."""
    mean, half = record.mean(confirmed), record.half(confirmed)
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} ± {half:.4f}"


def counts_text(records: list[Record]) -> str:
    return ", ".join(f"{n} {state}" for state in STATES if (n := sum(each.state == state for each in records)))


def winner(study: Study) -> Record | None:
    """Return the best trial: of those confirmed with new seeds if there are any."""
    return next(iter([*study.ranked(confirmed=True), *study.ranked()]), None)


def ties(study: Study) -> list[Record]:
    """Return the trials that the 95 % interval of the paired difference does not tell from the winner."""
    if (best := winner(study)) is None:
        return []
    confirmed = bool(best.values(confirmed=True))
    found = []
    for other in [each for each in study.ranked(confirmed) if each is not best]:
        ours, theirs = best.values(confirmed), other.values(confirmed)
        gaps = [ours[name] - theirs[name] for name in ours.keys() & theirs.keys()]
        if len(gaps) > 1 and abs(math.fsum(gaps) / len(gaps)) <= student(gaps):
            found.append(other)
    return found


def write_results(study: Study) -> None:
    """Write results.csv, a row for each trial, and best.yaml, the config of the winner."""
    study.known.clear()  # later runs may have confirmed some
    keys = [*study.plan.space]
    head = [
        "trial",
        "state",
        "value",
        "half_interval",
        "confirmed",
        "confirmed_half_interval",
        "seconds",
        "error",
        *keys,
    ]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(head)
    for each in study.records():
        figures = [each.mean(), each.half(), each.mean(confirmed=True), each.half(confirmed=True)]
        shown = ["" if math.isnan(figure) else repr(figure) for figure in figures]
        settings = ["" if key not in each.settings else typed({"": each.settings[key]}) for key in keys]
        values = [each[0].removeprefix("--=") if each else "" for each in settings]
        rows.writerow(
            [each.number, each.state, *shown, each.content.get("seconds", ""), each.content.get("error", ""), *values]
        )
    write_atomically(study.folder / "results.csv", text.getvalue())
    best = winner(study)
    if best is not None:
        config = yaml.safe_load(run_of(study, best).config.read_text(encoding="utf-8"))
        base = study.content["base"]
        config |= {"name": base["name"], "test": base["test"]}
        config["trainer"]["default_root_dir"] = base["trainer"]["default_root_dir"]
        text_of_best = yaml.safe_dump(config, sort_keys=False)
        write_atomically(study.folder / "best.yaml", text_of_best)


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
    confirmed = bool(best.values(confirmed=True))
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
            ("", "--search.confirm='{top: 5, seeds: [1, 2, 3]}'"),
        ]
    rows += [("results", str(study.folder / "results.csv"))]
    rows += [("test it", f"python -m src.cli test --run {quote(str(run_of(study, best).path))}")]
    rows += [("train it", f"python -m src.cli fit --config {quote(str(study.folder / 'best.yaml'))}")]
    print_rows(rows)
