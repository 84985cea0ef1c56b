"""The site of docs/ has every page and public name, fails at a broken link, and works in a browser without the net."""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.browser import PROGRAM, Browser
from tests.conftest import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.long]
ROOMS = ("callbacks", "data", "losses", "nets", "optim", "tasks")
BUILD = ROOT / ".tools/docs/bin/zensical"
needs_build = pytest.mark.skipif(not BUILD.is_file(), reason="make docs installs it")
SIDEWAYS = """
(() => {
  const found = [], width = document.documentElement.clientWidth
  const inside = e => e && (/auto|scroll/.test(getComputedStyle(e).overflowX) || inside(e.parentElement))
  if (document.documentElement.scrollWidth > width) found.push("the page scrolls")
  for (const e of document.querySelectorAll("article *")) {
    const { left, right } = e.getBoundingClientRect()
    if ((left < 0 || right > width) && right > left && !inside(e.parentElement)) found.push(e.outerHTML.slice(0, 100))
  }
  return found
})()
"""
SEARCH = "[...document.querySelectorAll('*')].find(e => e.shadowRoot?.querySelector('input')).shadowRoot"
BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


def listed(entry: object) -> set[str]:
    if isinstance(entry, str):
        return {entry}
    found = entry.values() if isinstance(entry, dict) else entry
    return {name for each in found for name in listed(each)}


def copied(folder: Path) -> Path:
    """Copy what the site is built from."""
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUILD, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False)


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


@needs_build
@pytest.mark.parametrize("link", ["gone.md", "deploy.md#gone"])
def test_a_broken_link_fails_the_build(link, tmp_path):
    copied(tmp_path)
    assert build(tmp_path).returncode == 0
    with (tmp_path / "docs/index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[a link]({link})\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "index.md" in done.stdout + done.stderr


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Print no line for each request."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("site"))
    assert build(folder).returncode == 0
    return folder / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on loopback: files that are opened cannot be searched."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip("needs chromium or google-chrome")
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@needs_build
@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_is_as_wide_as_the_window_and_asks_no_other_server(browser, site, address, width):
    pages = [page.relative_to(site).as_posix() for page in site.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:
        browser.open(address + page, width, "light")
        assert browser.js(SIDEWAYS) == [], page
        assert browser.logged() == [], page
        assert [url for url in browser.requested() if not url.startswith(address)] == [], page


@needs_build
def test_a_page_that_is_too_wide_is_found(browser, address):
    browser.open(f"{address}index.html", 390, "light")
    assert browser.js(SIDEWAYS) == []
    browser.js("document.querySelector('article').insertAdjacentHTML('beforeend', '<p style=\"width: 400px\">x</p>')")
    assert any("<p style" in found for found in browser.js(SIDEWAYS))


@needs_build
@pytest.mark.parametrize(("word", "page"), [("muon", "recipes.html"), ("断点", "quick-start.zh.html")])
def test_the_search_finds_a_page(browser, address, word, page):
    browser.open(f"{address}index.html", 1200, "light")
    browser.js("document.querySelector('.md-search__button').click()")
    browser.wait("[...document.querySelectorAll('*')].some(e => e.shadowRoot?.activeElement)")
    browser.send("Input.insertText", text=word)
    browser.wait(f"[...{SEARCH}.querySelectorAll('a')].some(a => a.href.includes('/{page}'))")
    assert [url for url in browser.requested() if not url.startswith(address)] == []


@needs_build
def test_dark_mode_follows_the_system(browser, address):
    is_shown = {"light": f"Math.min(...{BACKGROUND}) > 192", "dark": f"Math.max(...{BACKGROUND}) < 64"}
    for scheme in ("light", "dark", "light"):  # a theme may remember the scheme of the first visit
        browser.open(f"{address}index.html", 1200, scheme)
        browser.wait(is_shown[scheme])
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(is_shown["dark"])  # the page is still open
