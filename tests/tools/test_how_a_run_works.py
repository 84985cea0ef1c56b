"""The page that traces a run names only what the run calls, and its picture shows the rooms as they are."""

import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.test_layout import MAY_IMPORT, called

pytestmark = pytest.mark.heavy


def named() -> Iterator[tuple[str, str]]:
    """Yield each file that the page names with an empty name, and each function with the file named before it."""
    file = ""
    for span in re.findall(r"`([^`\n]+)`", (ROOT / "docs/how-a-run-works.md").read_text(encoding="utf-8")):
        if re.fullmatch(r"src/\S+\.py", span):
            file = span
            yield file, ""
        elif span.endswith("()") and span != "breakpoint()":
            yield file, span.removesuffix("()")


def test_a_digits_run_calls_every_function_that_the_page_names():
    calls = called()
    found = {*named()}
    assert len(found) > 50
    assert found - calls - {(file, "") for file, _ in calls} == set()


def test_a_room_of_the_picture_stands_above_those_that_it_imports():
    text = (ROOT / "docs/rooms.svg").read_text(encoding="utf-8")
    heights = {name: float(y) for y, name in re.findall(r'<text class="room" x="\S+" y="(\S+)">(\w+)</text>', text)}
    assert heights.keys() == MAY_IMPORT.keys()
    assert [(a, b) for a, names in MAY_IMPORT.items() for b in names if heights[a] >= heights[b]] == []
