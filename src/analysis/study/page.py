"""The page of a study: its winner, its history, which settings matter, and its trials."""

from collections.abc import Sequence
from math import fsum, isfinite
from typing import Any

from src.analysis.page import render
from src.analysis.statistics import student
from src.analysis.study.axes import Axis, counts_text, minutes, number, short_names
from src.analysis.study.charts import TIED, Trial, history, parallel, slice_chart, value_range
from src.analysis.study.importance import BEST, ENOUGH, importances

ROWS, SLICES = 200, 16  # trials in the table, charts of keys


def study_page(
    title: str, monitor: str, mode: str, space: dict[str, Any], trials: Sequence[Trial], **values: Any
) -> str:
    """Return the HTML of a study.

    Args:
        title: of the page.
        monitor: metric that is optimized.
        mode: whether its ``max`` or ``min`` is best.
        space: entry of each key, {choices} or {from, to, log}.
        trials: the best first, then pruned ones and others.
        values: ``commands`` that test and train the winner, and ``folds``, whether the runs of a trial are folds.
    """
    names = short_names([*space])
    axes = [Axis(key, names[key], entry) for key, entry in space.items() if len(entry.get("choices", "ab")) > 1]
    known = [each for each in trials if isfinite(each.value)]
    done = [each for each in known if each.state == "complete"]
    ends = value_range(done or known, mode) if known else (0.0, 1.0)
    matter = importances(axes, done, mode) if axes and len(done) >= ENOUGH else []
    shown = [axis for axis, _, _ in matter] or axes
    return render(
        "search.html", title=title, monitor=monitor, mode=mode, **values, figures=figures(trials, monitor, done),
        best=done[0] if done else None, facts=facts(done[0]) if done else [], axes=axes,
        history=history(known, mode, ends) if len(known) > 1 else None,
        matter=[(x.name, f"{share:.2f}", f"{chance:.2f}") for x, share, chance in matter],
        enough=ENOUGH, top=max(BEST, len(done) // 10),
        parallel=parallel(axes, done, monitor, mode, ends) if axes and len(done) > 1 else None,
        slices=[c for axis in shown[:SLICES] if (c := slice_chart(axis, known, ends))],
        table=table(trials, names), rows=ROWS, trials=trials, failed=[each for each in trials if each.error],
    )  # fmt: skip


def figures(trials: Sequence[Trial], monitor: str, done: Sequence[Trial]) -> list[tuple[str, str, str]]:
    """Return name, value and explanation of the key figures."""
    found = [("trials", f"{len(trials):,}", counts_text(trials))]
    found += [("training time", minutes(fsum(each.seconds for each in trials)), "of all runs")]
    if not done:
        return found
    values = [*(done[0].confirmed or done[0].values).values()]
    mean, half = estimate(values)
    runs = "one run" if len(values) == 1 else f"{len(values)} runs{' with new seeds' * bool(done[0].confirmed)}"
    found.insert(0, (f"{monitor} of trial {done[0].number}", mean, f"± {half}, 95 %, {runs}" if half else runs))
    return found + ([(TIED, str(sum(each.note == TIED for each in trials)), "from the winner")] if half else [])


def facts(best: Trial) -> list[tuple[str, str]]:
    """Return the settings of the winner and the values of its runs."""
    runs = [("runs", best.values), ("runs with new seeds", best.confirmed)]
    texts = [(name, ", ".join(f"{run} {value:.4f}" for run, value in own.items())) for name, own in runs if own]
    return [*((key, number(value)) for key, value in best.settings.items()), *texts]


def estimate(values: Sequence[float]) -> tuple[str, str]:
    """Return the mean of runs and half the length of its 95 % interval, which a single run lacks."""
    half = student(values)
    return f"{fsum(values) / len(values):.4f}" if values else "", f"{half:.4f}" if isfinite(half) else ""


def table(trials: Sequence[Trial], names: dict[str, str]) -> tuple[list[str], list[list[Any]]]:
    """Return head and rows of the table of trials, without the columns that would be empty."""
    from markupsafe import Markup  # only pages need it

    head = ["trial", "state", "value", "± 95 %", "new seeds", "± 95 %", "time", *names.values()]
    rows = []
    for each in trials[:ROWS]:
        figures = [text for own in (each.values, each.confirmed) for text in estimate([*own.values()])]
        settings = [number(each.settings[key]) if key in each.settings else "" for key in names]
        link = Markup(f'<a href="trial_{each.number:04}/">{each.number}</a>')
        rows.append([link, each.note or each.state, *figures, minutes(each.seconds), *settings])
    used = [i for i in range(len(head)) if i < 3 or any(row[i] for row in rows)]
    return [head[i] for i in used], [[row[i] for i in used] for row in rows]
