"""The help of a command has no line that is too long, and none that is cut short."""

from itertools import pairwise

import pytest

from src.config.arguments import command_names, describe
from src.config.paragraphs import paragraphs


def test_lines_of_a_paragraph_or_option_are_joined():
    text = "Do it.\n\nOne line\nand another.\n\nArgs:\n    a: first\n        and second.\n    b: other.\n\nExamples:\n"
    expected = ["Do it.", "", "One line and another.", "", "Args:", "    a: first and second.", "    b: other.", ""]
    assert paragraphs(f"{text}    x\n    y") == [*expected, "Examples:", "    x", "    y"]


@pytest.mark.parametrize("name", command_names())
def test_a_line_ends_only_where_the_next_word_does_not_fit(name):
    lines = paragraphs(describe(name)[0])
    assert max(map(len, lines)) <= 80
    for line, after in pairwise(lines):
        continues = after.startswith("      ") or (line[:1].strip() and after[:1].strip())
        assert not continues or len(line) + 1 + len(after.split()[0]) > 80
