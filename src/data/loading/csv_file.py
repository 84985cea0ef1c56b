"""CSV files: fields by row and column, and columns of numbers or texts."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

from src import UserError, require

MISSING = {"", "?", "na", "n/a", "nan", "null", "none", "-"}
LARGEST = 3e38  # that float32 holds
COMMAS = re.compile(r"[-+]?\d[\d.]*,\d+|[-+]?\d{1,3}(,\d{3})+(\.\d+)?")  # numbers of other notations
Rows = dict[int, dict[str, str]]  # fields by column, by row of the file, whose first is the header


def read_csv(file: Path) -> Rows:
    """Return the fields of each row that is not blank, by column."""
    try:
        require(file.is_file() or not file.exists(), f"{file} must be a CSV file, got a folder, pipe or device")
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = {i: line for i, line in enumerate(csv.reader(stream, strict=True), 1) if line}
    except UnicodeDecodeError:
        raise UserError(f"cannot read the table {file}: it is not UTF-8 text; save it as CSV in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read the table {file}: {getattr(error, 'strerror', None) or error}") from None
    names = [name.strip() for name in next(iter(lines.values()), [])]
    require(len(lines) > 2, f"{file} must have a header and at least two rows, got {max(len(lines) - 1, 0)} rows")
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    require(not twice, f"{file} has several columns {', '.join(twice)[:80]}: give each its own name")
    separators = [each for each in ";\t|" if len(names) == 1 and each in names[0]]
    require(not separators, f"{file} has fields separated by {''.join(separators)!r}: save it with commas")
    del lines[next(iter(lines))]
    for row, line in lines.items():
        require(
            len(line) == len(names), f"{file}, row {row} must have {len(names)} fields as the header, got {len(line)}"
        )
    return {row: dict(zip(names, line, strict=True)) for row, line in lines.items()}


def is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def parse(file: Path, name: str, rows: Rows, may_miss: bool) -> list[Any]:
    """Return the values of a column: all numbers or all texts, None where one is missing."""
    values: list[Any] = []
    kinds: dict[type, int] = {}  # and a row that has one
    for row, fields in rows.items():
        text = fields[name].strip()
        place = f"{file}, row {row}: {name}"
        if is_missing(text):
            hint = "repair it, or set data.missing to drop, mean or median (a target only to drop)"
            require(may_miss, f"{place} is missing; {hint}")
            values.append(None)
            continue
        try:  # float also reads 1_000 and the digits of other scripts
            values.append(float(text) if text.isascii() and "_" not in text else text)
        except ValueError:
            values.append(text)
        finite = isinstance(values[-1], str) or abs(values[-1]) < LARGEST
        require(finite, f"{place} must be a finite number below {LARGEST:.0e}, got {text}")
        kinds[type(values[-1])] = row
    require(kinds, f"{file}: the column {name} has no values")
    commas = {row: text for row, text in zip(rows, values, strict=True) if COMMAS.fullmatch(str(text))}
    if len(commas) > (0 if float in kinds else sum(isinstance(each, str) for each in values) // 2):
        row, text = next(iter(commas.items()))
        raise UserError(f"{file}, row {row}: {name} must be a number such as 1200.5, got {text!r}: remove the comma")
    if len(kinds) > 1:
        text = rows[kinds[str]][name]
        raise UserError(f"{file}, row {kinds[str]}: {name} must be a number as in row {kinds[float]}, got {text!r}")
    return values
