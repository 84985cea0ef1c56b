"""The tables of the changelog name what exists now, and nothing among the old names still exists."""

import inspect
import re
from importlib import import_module
from typing import Any

from tests.test_docs import PAGES, ROOT, table


def test_new_names_in_the_changelog_exist_and_old_ones_do_not() -> None:
    rows = [row for row in table(PAGES["CHANGELOG.md"]) if "`: `" not in row[0]]
    assert len(rows) > 20
    old, new = (" ".join(row[i] for row in rows) for i in (0, 1))
    path, name = r"`((?:configs|src|scripts|tools)/[\w/.]*)`", r"\bsrc(?:\.\w+)+"
    assert [each for each in re.findall(path, new) if not (ROOT / each).exists()] == []
    assert [each for each in re.findall(path, old) if (ROOT / each).exists()] == []
    assert [each for each in re.findall(name, new) if find(each) is None] == []
    assert [each for each in re.findall(name, old) if find(each) is not None] == []


def test_new_arguments_in_the_changelog_exist_and_old_ones_do_not() -> None:
    rows = [row for row in table(PAGES["CHANGELOG.md"]) if "`: `" in row[0]]
    assert len(rows) > 3
    for before, after in rows:
        names, old = before.split(": ")
        for name in re.findall(r"[\w.]+", names):
            known = set(inspect.signature(find(name)).parameters)
            assert {*re.findall(r"\w+", after)} <= known
            assert not {*re.findall(r"\w+", old)} & known


def find(path: str) -> Any:
    """Return what a dotted path names, None if it names nothing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError:
        return None
