"""The Chinese README has the code, the numbers and the links of the English one, the quick start its commands."""

import re

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.heavy
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def code(text: str) -> list[str]:
    """Return the lines of code, without comments."""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    found = [
        re.sub(r"\s+#\s.*", "", line)
        for line in (*lines, *"".join(re.findall(r"^```.*?^```", text, re.S | re.M)).splitlines())
    ]
    return [line for line in found if line.strip()]


def numbers(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [number for row in rows for number in re.findall(r"\d+(?:[.,]\d+)*", row)]


def test_the_code_is_the_same():
    assert len(code(ENGLISH)) > 30
    assert code(CHINESE) == code(ENGLISH)


def test_the_tables_have_the_same_numbers():
    assert len(numbers(ENGLISH)) > 80
    assert numbers(CHINESE) == numbers(ENGLISH)


@pytest.mark.parametrize(
    "pattern", [r"\]\(([^)]+)\)", r"(?<![`.\w])([+-]\d\.\d\d)", r"^#+ ", r"(?<!`)`([^`\n]+)`(?!`)"]
)
def test_links_effects_headings_and_names_are_the_same(pattern):
    allowed = {
        "README.md",
        "README.zh-CN.md",
        "photos/<class>/",
        "photos/train/<class>/",
        "photos/<类别>/",
        "photos/train/<类别>/",
    }
    found = [{*re.findall(pattern, text, re.M)} - allowed for text in (ENGLISH, CHINESE)]
    assert found[0] == found[1]
    if pattern.startswith("^"):
        assert len(re.findall(pattern, ENGLISH, re.M)) == len(re.findall(pattern, CHINESE, re.M))


def test_the_quick_start_has_the_commands_of_the_english_pages():
    pages = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("index.md", "quick-start.zh.md")}
    start, chinese = ({*code(text)} for text in pages.values())
    others = [file for file in (ROOT / "docs").glob("*.md") if file.name not in pages]
    english = start.union(code(ENGLISH), *(code(file.read_text(encoding="utf-8")) for file in others))
    assert len(start) >= 7
    assert start <= chinese <= english
