"""The space of a study: of each dotted key its choices or its range. Does not import torch."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src import require
from src.config.checks import check_yaml, did_you_mean

RANGE, CHOICE = ("from", "to", "log", "step", "when"), ("choices", "when")
OWN = {  # settings that a study sets itself -> what to use instead
    "seed_everything": "search.seeds",
    "data.fold": "search.folds",
    "name": "--name",
    "trainer.default_root_dir": "--trainer.default_root_dir",
    "ckpt_path": "--ckpt_path",
    "test": "the test command that search prints",
    "search": "--search.KEY=value",
}
MAX_STEPS = 100_000


def checked(space: dict[str, Any], key: str) -> dict[str, Any]:
    """Return an entry of the space as {choices, when} or {from, to, log, step, when}; refuse any other."""
    where, entry = f"search.space.{key}", space[key]
    require(isinstance(key, str), f"search.space must hold dotted keys, got {key!r}")
    use = OWN.get(key.replace(".init_args", ""))
    require(not use, f"{where}: a study sets {key} itself: use {use}")
    entry = {"choices": entry} if isinstance(entry, list) else entry
    shape = f"{where} must be a list of choices or {{from, to, log, step, when}}"
    require(
        isinstance(entry, dict) and ({"from", "to"} <= entry.keys() or "choices" in entry),
        f"{shape}, got {entry!r:.80}",
    )
    allowed = CHOICE if "choices" in entry else RANGE
    for name in entry:
        hint = did_you_mean(str(name), allowed) or f"; known: {', '.join(allowed)}"
        require(name in allowed, f"{where}: unknown {name}{hint}")
    if "choices" in entry:
        texts = [json.dumps(each) for each in entry["choices"]] if isinstance(entry["choices"], list) else []
        require(texts, f"{where} needs at least one choice, got {entry['choices']!r}")
        repeated = next((text for text in texts if texts.count(text) > 1), None)
        require(repeated is None, f"{where} has the choice {repeated} twice")
        for each in filter(None, entry["choices"]) if key == "config" else ():
            check_yaml(Path(str(each)))
    else:
        check_range(where, entry)
    when = entry.get("when", {})
    require(isinstance(when, dict), f"{where}.when must be {{key: value}}, got {when!r:.60}")
    for other, value in when.items():
        known = list(space)[: list(space).index(key)]
        require(
            other in known,
            f"{where}.when: {other} is no earlier key of the space; earlier: {', '.join(known) or 'none'}",
        )
        choices = space[other].get("choices", [])
        for each in value if isinstance(value, list) else [value]:
            require(each in choices, f"{where}.when: {each!r} is no choice of {other}, whose choices are {choices}")
    return entry


def points(space: dict[str, Any], chosen: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the settings of each point of the grid."""
    chosen = chosen or {}
    left = [key for key in space if key not in chosen and applies(space[key], chosen)]
    if not left:
        yield chosen
        return
    key, entry = left[0], space[left[0]]
    if "choices" not in entry:
        require(entry.get("step"), f"search.space.{key}: a grid needs choices or a step")
        count = math.floor((entry["to"] - entry["from"]) / entry["step"] + 1e-9) + 1
        require(count <= MAX_STEPS, f"search.space.{key} has {count:,} steps, more than {MAX_STEPS:,}")
        values = [round(entry["from"] + i * entry["step"], 12) for i in range(count)]
    for value in entry.get("choices") or values:
        yield from points(space, chosen | {key: value})


def applies(entry: dict[str, Any], chosen: dict[str, Any]) -> bool:
    """Tell whether a key applies to a trial with the chosen settings."""
    return all(
        other in chosen and chosen[other] in (value if isinstance(value, list) else [value])
        for other, value in entry.get("when", {}).items()
    )


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_range(where: str, entry: dict[str, Any]) -> None:
    for name in ("from", "to", "step"):
        value = entry.get(name, 1)
        number = (is_int(value) or isinstance(value, float)) and math.isfinite(value)
        hint = ": YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) else ""
        require(number, f"{where}.{name} must be a number, got {value!r}{hint}")
    low, high, log, step = entry["from"], entry["to"], entry.get("log"), entry.get("step")
    require(low < high, f"{where}: from must be less than to, got from {low} to {high}")
    require(log in (None, True, False), f"{where}.log must be true or false, got {log!r}")
    require(not log or low > 0, f"{where}: a logarithmic range must be above 0, got from {low}")
    require(not (log and step), f"{where} must not have both log and step")
    require(step is None or 0 < step <= high - low, f"{where}.step must be in (0, {high - low:g}], got {step}")
