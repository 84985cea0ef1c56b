"""Pages: escaped values, charts with the right points and labels, and pictures of any shape inside the file."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from src.analysis.outputs import Outputs
from src.analysis.page import WIDTH, chart, environment, picture, render, shades, ticks
from src.analysis.report.sections import caption


def parts(call: str, **values: object) -> str:
    return environment().from_string(f'{{% import "parts.html" as parts %}}{{{{ {call} }}}}').render(**values)


def test_names_from_users_are_escaped() -> None:
    assert "<b>" not in parts("parts.table(head, rows, 'x')", head=["<b>"], rows=[["<b>", "a&b"]])
    assert "<script>" not in render("base.html", title="<script>")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.97), (1, 19), (-3, 4), (0.02, 2.5), (0, 1e-7), (5e6, 8e6)])
def test_ticks_are_round_numbers_around_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 3 <= len(found) <= 7
    steps = np.diff(found)
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert f"{steps[0]:.1e}"[0:3] in ("1.0", "2.0", "2.5", "5.0")


def test_one_value_has_one_tick() -> None:
    assert ticks(5, 5) == [5]
    assert ticks(float("nan"), 1)


def test_points_are_where_their_values_are() -> None:
    c = chart("Loss", [("train", [0, 1, 2], [1.0, 0.5, 0.0])])
    points = [tuple(map(float, point.split(","))) for point in c["lines"][0]["points"].split()]
    y_of = {text: y for y, text in c["y_ticks"]}
    x_of = {text: x for x, text in c["x_ticks"]}
    assert points == [(x_of["0"], y_of["1"]), (x_of["1"], y_of["0.5"]), (x_of["2"], y_of["0"])]
    assert all(c["left"] <= x <= c["right"] < WIDTH for x, _ in points)


def test_values_that_are_not_finite_are_left_out() -> None:
    c = chart("Loss", [("a", [0, 1, 2], [1.0, float("nan"), float("inf")]), ("b", [0], [float("nan")])])
    assert [line["name"] for line in c["lines"]] == ["a"]
    assert len(c["lines"][0]["points"].split()) == 1
    assert chart("Loss", [("b", [0], [float("nan")])]) is None


def test_values_beyond_the_axis_are_outside_of_it() -> None:
    c = chart("Loss", [("a", [1, 2, 3], [9.0, 1.0, 0.0])], y_range=(0, 1))
    ys = [float(point.split(",")[1]) for point in c["lines"][0]["points"].split()]
    top, bottom = c["y_ticks"][-1][0], c["y_ticks"][0][0]
    assert ys == pytest.approx([top - 8 * (bottom - top), top, bottom])
    assert c["title"] == "Loss (zoomed in)"
    assert chart("Loss", [("a", [1, 2], [0.5, 1.0])], y_range=(0, 1))["title"] == "Loss"


def test_there_is_no_half_epoch() -> None:
    assert [text for _, text in chart("Loss", [("a", [1, 2, 3], [1, 2, 3])])["x_ticks"]] == ["1", "2", "3"]


def test_of_a_long_name_the_end_is_shown() -> None:
    (line,) = chart("Loss", [("runs/a-long-name/version_12", [1, 2], [1, 2])])["lines"]
    assert line["name"] == "…g-name/version_12"


def test_labels_of_lines_that_end_together_do_not_touch() -> None:
    c = chart("Loss", [(f"run {i}", [0, 1], [1.0, 0.001 * i]) for i in range(8)])
    at = sorted(line["label_y"] for line in c["lines"])
    assert min(np.diff(at)) >= 13
    assert at[-1] <= c["bottom"] + 4  # above those of the x axis


def test_a_chart_is_readable_without_seeing_it() -> None:
    html = parts("parts.chart(c)", c=chart("Loss", [("train", [0, 1], [2.3, 0.1])]))
    assert 'role="img" aria-label="Loss. train: 2.3 to 0.1"' in html
    assert "<script" not in html


@pytest.mark.parametrize("shape", [(28, 28), (1, 8, 8), (3, 32, 32), (32, 32, 3), (3, 200, 90), (1, 300, 1)])
def test_a_picture_is_inside_the_page(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    found = picture(pixels, "a digit")
    image = Image.open(BytesIO(b64decode(found["uri"].split(",")[1])))
    assert max(image.size) <= 96
    height, width = shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else shape[:2]
    assert min(shape[1:]) == 1 or image.size[0] / image.size[1] == pytest.approx(width / height, rel=0.03)
    if max(width, height) <= 48:  # unchanged
        expected = pixels.transpose(1, 2, 0) if pixels.shape[0] in (1, 3) else pixels
        assert np.array_equal(np.asarray(image), expected.squeeze(2) if expected.shape[-1] == 1 else expected)


def test_the_most_frequent_error_is_darkest() -> None:
    dark = shades(np.array([[50, 3, 0], [12, 40, 0], [0, 0, 9]]))
    assert dark[1][0] == 0.6
    assert 0 < dark[0][1] < dark[1][0]
    assert dark[0][2] == 0
    assert shades(np.eye(2, dtype=int))[0] == [0.15, 0]


def test_a_page_loads_nothing_from_anywhere() -> None:
    html = render("base.html", title="x")
    assert not re.findall(r"https?://|@import|url\(", html)


def test_the_caption_of_a_mask_names_true_and_predicted_classes() -> None:
    counts = np.array([[[5, 0, 2], [0, 2, 0], [1, 0, 0], [0, 0, 0]]])  # hits, false positives, false negatives
    o = Outputs("masks", counts, np.array([0.6]), counts, counts, "x", class_names=["back", "cat", "dog", "cow"])
    assert caption(o, 0) == ["IoU 40.0 %", "true: back, dog", "predicted: back, cat, dog"]
