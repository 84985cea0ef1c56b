"""The picture in the README shows what a run prints."""

import re
from html import unescape
from pathlib import Path

import pytest

from tools.terminal import PICTURE, draw

pytestmark = pytest.mark.heavy


def names(file: Path) -> list[str]:
    """Return the first words of each line in a picture of a terminal, up to a number or two blanks.

    Not those of errors, whose number depends on the machine.
    """
    lines = re.findall(r"<text [^>]*>(.*?)</text>", file.read_text(encoding="utf-8"))
    found = [re.split(r"\d|  ", unescape(line).replace("\xa0", " "))[0].strip() for line in lines]
    return [name for name in found if name not in ("", "confused")]


def test_the_picture_shows_what_a_run_prints() -> None:
    draw(Path("terminal.svg"))
    assert names(PICTURE) == names(Path("terminal.svg"))
    assert {"epoch", "metric", "best epoch", "run"} <= {*names(PICTURE)}
