"""Axes of a study: places and labels of values, and texts."""

from typing import Any

import pytest

from src.analysis.study.axes import Axis, minutes


def axis(**entry: Any) -> Axis:
    return Axis("a.key", "key", {{"low": "from", "high": "to"}.get(key, key): value for key, value in entry.items()})


@pytest.mark.parametrize(
    ("entry", "value", "place"),
    [
        ({"low": 0.001, "high": 0.1, "log": True}, 0.01, 0.5),
        ({"low": 0.001, "high": 0.1, "log": True}, 0.1, 1.0),
        ({"low": 4, "high": 12}, 6, 0.25),
        ({"choices": [32, 64, "a", None]}, 64, 0.375),
        ({"choices": [32, 64, "a", None]}, None, 0.875),
        ({"choices": [True, 1, 1.0]}, 1, 0.5),
    ],
)
def test_a_value_is_at_its_place(entry: dict[str, Any], value: Any, place: float) -> None:
    assert axis(**entry).place({"a.key": value}) == pytest.approx(place)
    assert axis(**entry).place({"another": value}) is None


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.003, 0.3, ["0.003", "0.01", "0.03", "0.1", "0.3"]),
        (1e-5, 0.1, ["1e-05", "0.0001", "0.001", "0.01", "0.1"]),
        (0.02, 0.07, ["0.02", "0.05"]),
        (0.021, 0.024, ["0.021", "0.022", "0.023", "0.024"]),
        (1e-12, 1e3, ["1e-12", "1e-08", "0.0001", "1"]),
    ],
)
def test_a_logarithmic_axis_has_few_round_labels(low: float, high: float, labels: list[str]) -> None:
    found = axis(low=low, high=high, log=True).ticks(5)
    assert [text for _, text in found] == labels
    for place, text in found:
        assert place == pytest.approx(axis(low=low, high=high, log=True).place({"a.key": float(text)}))


def test_choices_have_short_labels_that_differ() -> None:
    def labels(*choices: Any, count: int = 9) -> list[str]:
        return [text for _, text in axis(choices=[*choices]).ticks(count, 8)]

    assert labels("torch.optim.SGD", "torch.optim.AdamW") == ["SGD", "AdamW"]
    assert labels("a.SGD", "b.SGD") == ["a.SGD", "b.SGD"]
    assert labels(0.25, 1.25, None, "presets/long.yaml") == ["0.25", "1.25", "null", "…ng.yaml"]
    assert labels(*range(10), count=5) == ["0", "2", "4", "6", "8"]


def test_times_have_a_unit_in_which_they_are_short() -> None:
    assert [minutes(each) for each in (3.2, 89, 99, 5399, 6000)] == ["3 s", "89 s", "1.6 min", "90.0 min", "1.7 h"]
