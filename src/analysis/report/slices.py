"""Slices: the metric of subsets of the test samples, by class, by traits of the images, and by columns of a table."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from src import require
from src.analysis.outputs import DRAWS, Array, Outputs, macro
from src.analysis.page import NAMES, interval, p_text, percent, signed
from src.analysis.statistics import fisher, holm, resampling, welch, wilson

FEW = 8  # different numbers of a column up to which each is a slice, instead of the quarters of the samples
MANY = 50  # different texts of a column above which it is no slice but a name
SHOWN = 30  # slices of one kind on a page; of more, the weakest
LEVEL = 0.05  # of the adjusted p-value below which a gap is named
PROPORTIONS = ("classes", "embeddings")  # kinds of outputs whose samples are right or wrong
CLASS, NUMBER = "class", "true number"  # what slices of the targets are called
Columns = Mapping[str, Sequence[str | None]]  # values of each test sample, None where unknown


def scores(o: Outputs) -> Array:
    """Return one number per sample, (N,): whether it is right, its error, or its mean F1 or IoU over classes.

    A sample without labels of which none is predicted has an F1 of 1.
    """
    if o.values.ndim == 1:
        return o.values
    each = macro(o.values, o.kind, per_sample=True)
    return np.where(o.values.any((1, 2)), each, 1.0)


def slices(o: Outputs, columns: Columns | None = None) -> list[dict[str, Any]]:
    """Return the metric of each slice with its 95 % interval, and the p-value that it differs from all other samples.

    Intervals are Wilson's for proportions, otherwise of the bootstrap; p-values are adjusted by Holm's method.
    """
    values = scores(o)
    known = ~np.isnan(values)
    rows: list[dict[str, Any]] = []
    members, ps = [], []
    for by, name, inside in groups(o, columns or {}):
        inside, rest = inside & known, ~inside & known
        if not (inside.any() and rest.any()):
            continue
        a, b = values[inside], values[rest]
        facts = {"samples": len(a), "value": float(a.mean()), "rest": float(b.mean())}
        rows.append({"by": by, "slice": name, **facts})
        members.append(inside)
        proportion = o.kind in PROPORTIONS
        ps.append(fisher(int(a.sum()), len(a), int(b.sum()), len(b)) if proportion else welch(a, b))
    ends: list[Any] = []
    if o.kind in PROPORTIONS:
        ends = [wilson(row["samples"] * row["value"], row["samples"]) for row in rows]
    elif rows:
        ends = resampled_means(np.where(known, values, 0), np.stack(members, 1))
    return [row | {"p": p, "interval": [*both]} for row, p, both in zip(rows, holm(ps), ends, strict=True)]


def resampled_means(values: Array, inside: Array) -> list[list[float]]:
    """Return the 95 % percentile bootstrap interval of the mean of each slice, given its samples (N, S)."""
    weights, members = resampling(len(values), DRAWS), inside.astype(np.float32)
    with np.errstate(invalid="ignore"):  # a small slice may have no sample in a draw
        means = (weights @ (values[:, None] * members).astype(np.float32)) / (weights @ members)
    return np.nanquantile(means, [0.025, 0.975], axis=0).T.tolist()


def groups(o: Outputs, columns: Columns) -> Iterator[tuple[str, str, Array]]:
    """Yield what the samples are divided by, the name of a slice, and which samples it has, (N,)."""
    if o.kind == "numbers":
        targets = o.targets.reshape(len(o), -1)
        for d in range(min(targets.shape[1], FEW)):
            by = NUMBER if targets.shape[1] == 1 else f"{NUMBER} {d + 1}"
            yield from quarters(by, targets[:, d])
    elif o.kind in PROPORTIONS:
        for k in np.unique(o.targets).tolist():
            yield CLASS, o.class_name(k), o.targets == k
    else:
        for k in range(o.values.shape[1]):
            yield CLASS, o.class_name(k), o.values[:, k, 0] + o.values[:, k, 2] > 0  # samples that have the class
    for by, trait in o.traits.items():
        yield from quarters(by, trait)
    for by, texts in columns.items():
        taken = by in (CLASS, *o.traits) or by.startswith(NUMBER)
        yield from by_column(f"column {by}" if taken else by, texts)


def quarters(by: str, values: Array) -> Iterator[tuple[str, str, Array]]:
    """Divide samples by the quartiles of a number; equal numbers stay together, NaN is in no slice."""
    x = np.asarray(values, dtype=float)
    known = np.isfinite(x)
    place = np.searchsorted(np.quantile(x[known], [0.25, 0.5, 0.75]) if known.any() else [], x)
    for k in np.unique(place[known]).tolist():
        inside = known & (place == k)
        yield by, f"{x[inside].min():.4g} to {x[inside].max():.4g}", inside


def by_column(by: str, texts: Sequence[str | None]) -> Iterator[tuple[str, str, Array]]:
    """Divide samples by the texts of a column, or by the quartiles of its numbers."""
    different = sorted({text for text in texts if text is not None})
    if len(different) > FEW and all(isfinite(number(text)) for text in different):
        yield from quarters(by, np.array([number(text) for text in texts]))
    elif len(different) <= MANY:
        for text in different:
            yield by, text, np.array([each == text for each in texts])


def number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def match(o: Outputs, rows: Sequence[Mapping[str, str]], file: str) -> dict[str, list[str | None]]:
    """Return the columns of a table of metadata in the order of the test samples.

    The samples' names, of files below the data folder or test/0, test/1, ..., are in the column ``file``, else in the
    first one.
    """
    names = o.names or [f"test/{i}" for i in range(len(o))]
    key = "file" if "file" in rows[0] else next(iter(rows[0]))
    found = {row[key].strip(): row for row in rows}
    require(len(found) == len(rows), f"{file} has the same name twice in its column {key}: keep one row for each")
    example = f"got {next(iter(found))[:60]!r}, expected names such as {names[0][:60]!r}"
    require(found.keys() & {*names}, f"{file}: no name in its column {key} is one of the test samples; {example}")
    columns = [column for column in rows[0] if column and column != key]
    require(columns, f"{file} has no column but {key}: add one to slice by")
    texts = {column: [found[name][column].strip() if name in found else None for name in names] for column in columns}
    return {column: [text or None for text in values] for column, values in texts.items()}


def largest_gaps(o: Outputs, rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return a sentence on the slice that is weakest against all others, with its rule, if that is more than chance.

    There is one for the classes or true numbers, whose gaps are common, and one for all other slices.
    """
    sign, found = 1 if o.kind == "numbers" else -1, []  # errors are better low
    metric = NAMES.get(o.metric, o.metric)
    for of_targets in (True, False):
        own = [row for row in rows if (row["by"] == CLASS or row["by"].startswith(NUMBER)) == of_targets]
        clear = [row for row in own if row["p"] is not None and row["p"] < LEVEL]
        if not clear:
            continue
        gap = max(clear, key=lambda row: (sign * (row["value"] - row["rest"]) > 0, abs(row["value"] - row["rest"])))
        value, rest = (percent(gap[key], o.kind) for key in ("value", "rest"))
        text = f"Largest gap by {'true value' if of_targets else 'other traits'}: {metric} is {value}"
        text += f" ({interval(gap['interval'], o.kind)}) on the {gap['samples']:,} samples"
        text += f" with {gap['by']} {gap['slice']}, {rest} on the others."
        p = f"p {'' if gap['p'] < 1e-4 else '= '}{p_text(gap['p'])}"
        found.append((text, f"{p}, {test_of(o, rows)}; named if below {LEVEL}."))
    return found


def test_of(o: Outputs, rows: Sequence[Any]) -> str:
    test = "Fisher's exact test" if o.kind in PROPORTIONS else "Welch's t-test"
    return f"{test} against all other samples, adjusted for {len(rows)} slices by Holm's method"


def slices_section(o: Outputs, columns: Columns | None = None) -> dict[str, Any] | None:
    """Return the table of slices and the sentence on the largest gap."""
    rows, shown = slices(o, columns), []
    for by in dict.fromkeys(row["by"] for row in rows):
        own = [row for row in rows if row["by"] == by]
        if len(own) > SHOWN:
            own = sorted(own, key=lambda row: row["value"], reverse=o.kind == "numbers")[:SHOWN]
        for row in own:
            cells = [f"{by} {row['slice']}", f"{row['samples']:,}", percent(row["value"], o.kind)]
            cells += [interval(row["interval"], o.kind), signed(o.kind, row["value"] - row["rest"])]
            shown.append([*cells, p_text(row["p"])])
    metric = NAMES.get(o.metric, o.metric) + (" of a sample" if o.values.ndim > 1 else "")
    head = ["slice", "samples", metric, "95 % interval", "minus others", "p"]
    facts = {"head": head, "rows": shown, "says": largest_gaps(o, rows), "note": f"p: {test_of(o, rows)}."}
    return facts if rows else None
