"""The right labels that people give afterwards: which of them can be compared with predictions."""

import json
from typing import Any, NoReturn

from src.commands.serving.messages import SANE_ID, Refused
from src.runs.exports import Version


def read_feedback(content: bytes) -> tuple[str, Any]:
    """Return the id of an answer and its right label, of the body of a request."""
    try:
        given = json.loads(content, parse_constant=no_json)
        name, label = given["id"], given["label"]
        valid = given.keys() == {"id", "label"} and SANE_ID.fullmatch(name.encode())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise Refused(400, 'feedback must be {"id": the id of an answer, "label": the right label}')
    return name, label


def no_json(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def refusal(version: Version, label: Any) -> str | None:
    """Return why a label cannot be that of a prediction of this version; None if it can."""
    kind, (output, *_) = version.info["kind"], version.info["outputs"]
    got = json.dumps(label)[:100]
    if kind in ("classes", "labels"):
        names = version.info["classes"] or [str(k) for k in range(*output["shape"])]
        labels = label if isinstance(label, list) and kind == "labels" else [label]
        known = json.dumps(names)[:200]
        return None if all(each in names for each in labels) else f"the label must be of the classes {known}, got {got}"
    if kind == "numbers":
        first, *others = output["shape"]
        shape = (first, *others) if first > 1 else (*others,)  # see src.runs.answers
        expected = f"{'x'.join(map(str, shape))} numbers" if shape else "a number"
        return None if fits(label, shape) else f"the label must be {expected}, got {got}"
    return f"feedback is for classes, labels and numbers, and this model returns {kind}"


def fits(value: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether a value is finite numbers in lists of this shape."""
    if shape:
        return isinstance(value, list) and len(value) == shape[0] and all(fits(each, shape[1:]) for each in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # nor NaN
