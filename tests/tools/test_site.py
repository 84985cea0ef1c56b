"""The site of docs/ has every page and every public name, and its build fails at a broken link."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.heavy
ROOMS = ("callbacks", "data", "losses", "nets", "optim", "tasks")
BUILD = ROOT / ".tools/docs/bin/zensical"


def listed(entry: object) -> set[str]:
    if isinstance(entry, str):
        return {entry}
    found = entry.values() if isinstance(entry, dict) else entry
    return {name for each in found for name in listed(each)}


def test_the_site_has_every_page():
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    assert listed(project["nav"]) == pages


@pytest.mark.parametrize("room", ROOMS)
def test_the_api_has_what_a_room_exports(room):
    body = ast.parse((ROOT / "src" / room / "__init__.py").read_text(encoding="utf-8")).body
    names = {name.name for node in body if isinstance(node, ast.ImportFrom) for name in node.names}
    page = (ROOT / f"docs/api/{room}.md").read_text(encoding="utf-8")
    assert {*re.findall(rf"^::: src\.{room}\.(\w+)$", page, re.M)} == names


@pytest.mark.skipif(not BUILD.is_file(), reason="make docs installs it")
@pytest.mark.parametrize("link", ["gone.md", "deploy.md#gone"])
def test_a_broken_link_fails_the_build(link, tmp_path):
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    assert build(tmp_path).returncode == 0
    with (tmp_path / "docs/index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[a link]({link})\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "index.md" in done.stdout + done.stderr


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUILD, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False)
