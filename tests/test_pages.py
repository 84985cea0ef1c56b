"""Pages in headless Chromium: silent, readable at any width in light and dark, usable by keyboard; and their size."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.analysis.outputs import FILE, Outputs, score
from src.analysis.page import render
from src.analysis.report.comparison import compare, comparison_page
from src.analysis.report.run_page import run_page
from src.analysis.study.page import study_page
from src.cli import main
from tests.browser import AXE, PROGRAM, Browser
from tests.studies import SPACE, VALUES, made_trials

LOOKS = [(360, "light"), (1400, "dark"), (360, "dark"), (1400, "light")]
FAST = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=3"]
LONG = [f"a class name, {k:05d}" for k in range(30)]  # 19 characters
ODD = [
    "<b>bold</b>",
    "<script>alert(1)</script>",
    "a & \"b\" 'c'",
    "naïve façade",
    "日本語の分類",
    "Ελληνικά",
    "עברית",
    "🐈",
]

LAYOUT = """
(() => {
  const found = [], root = document.documentElement, text = e => e.textContent.trim().slice(0, 40)
  if (root.scrollWidth > root.clientWidth) found.push(`wider than the window: ${root.scrollWidth} px`)
  for (const svg of document.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect()
    const labels = [...svg.querySelectorAll("text")].filter(text).map(e => [text(e), e.getBoundingClientRect()])
    for (const [name, b] of labels) {
      if (b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 2 || b.bottom > box.bottom + 2)
        found.push(`label outside of its chart: ${name}`)
      for (const [other, o] of labels)
        if (b !== o && b.left < o.right - 1 && o.left < b.right - 1 && b.top < o.bottom - 3 && o.top < b.bottom - 3)
          found.push(`labels touch: ${name}, ${other}`)
    }
  }
  for (const cell of document.querySelectorAll("th, td, h1, h2, h3, p, figcaption, li, b, small"))
    if (cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).display != "inline")
      found.push(`text outside of its box: ${text(cell)}`)
  for (const image of document.images) {
    if (!image.naturalWidth) found.push("broken picture")
    const change = image.clientWidth / image.clientHeight / image.naturalWidth * image.naturalHeight
    if (getComputedStyle(image).objectFit != "contain" && Math.abs(change - 1) > 0.1) found.push("flattened picture")
  }
  return found
})()
"""
FOCUS = """
(() => {
  const e = document.activeElement, style = getComputedStyle(e)
  if (e === document.body || e.dataset.reached) return null
  e.dataset.reached = "yes"
  const seen = parseFloat(style.outlineWidth) > 0 && style.outlineStyle != "none"
  return seen ? "seen" : `focus not seen: ${e.outerHTML.slice(0, 80)}`
})()
"""
UNREACHED = """
[...document.querySelectorAll("*")].filter(e => {
  const style = getComputedStyle(e), scrolls = /auto|scroll/.test(style.overflowX + style.overflowY)
  const wide = e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1
  // Chromium focuses regions that scroll by itself, other browsers only those with a tabindex
  const seen = e.matches("summary, a[href], button, input, select") && e.checkVisibility()
  return !e.dataset.reached && seen || scrolls && wide && e.tabIndex < 0
}).map(e => `not reached by keyboard: ${e.outerHTML.slice(0, 80)}`)
"""
SERIOUS = """
axe.run().then(r => r.violations.filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => `axe: ${v.id}: ${v.nodes[0].html.slice(0, 120)}`))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip("needs chromium or google-chrome")
    if not AXE:
        pytest.skip("needs axe-core-python")
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def faults(browser: Browser, page: Path, looks: Sequence[tuple[int, str]] = LOOKS) -> list[str]:
    """Return what is wrong with a page at each width and color scheme."""
    assert AXE
    found: list[str] = []
    for width, scheme in looks:
        browser.open(page, width, scheme)
        own = browser.logged() + [f"requests {url}" for url in browser.requested()]
        browser.js("document.querySelectorAll('details').forEach(e => { e.open = true })")
        while state := browser.press_tab(FOCUS):
            own += [] if state == "seen" else [state]
        own += browser.js(UNREACHED)
        own += browser.js(LAYOUT)
        browser.js(AXE.read_text(encoding="utf-8") + ";0")
        own += browser.js(SERIOUS)
        found += [f"{width} px, {scheme}: {text}" for text in own]
    return found


def made_run(
    folder: Path,
    names: Sequence[str] = tuple("0123456789"),
    samples: int = 400,
    epochs: int = 20,
    right: float = 0.8,
    shape: tuple[int, ...] = (1, 8, 8),
    worst: int = 24,
    loss: float = 1.0,
) -> Outputs:
    """Write the files of a run folder that a page is made of, without training, and return its outputs."""
    draw, k = np.random.default_rng(0), len(names)
    targets = np.arange(samples) % k
    logits = (
        draw.normal(size=(samples, k))
        + 9 * np.eye(k)[np.where(draw.random(samples) < right, targets, (targets * 7 + 3) % k)]
    )
    if right == 1:
        logits = 20 * np.eye(k)[targets]
    preds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    values, losses = score("classes", preds, targets, k)
    pictures = {"image": draw.integers(256, size=(worst, *shape)).astype(np.uint8)}
    o = Outputs(
        "classes", values, losses, preds, targets, "made", list(names),
        splits={"train": np.full(k, 90), "test": np.bincount(targets, minlength=k)},
        shown=np.argsort(-losses)[:worst], pictures=pictures,
    )  # fmt: skip
    folder.mkdir(parents=True)
    o.save(folder / FILE)
    (folder / "config.yaml").write_text(
        f"seed_everything: {folder.name[-1]}\nname: {'long ' * 60}\ntrainer:\n  max_epochs: {epochs}\n",
        encoding="utf-8",
    )
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["epoch", "step", "train/loss", "val/loss", "val/accuracy", "lr-AdamW/pg1"])
        for i in range(epochs):
            table.writerow(
                [i, 10 * i, loss * 3 / (i + 1), loss * 3.3 / (i + 1), 0.9 - 0.5 / (i + 1), 0.004 * (epochs - i)]
            )
    results = {
        f"{stage}/{name}": loss * 0.5 for stage in ("val", "test") for name in ("loss", "accuracy", "top5_accuracy")
    }
    (folder / "results.json").write_text(
        json.dumps({**results, "parameters": 123_456_789, "seconds": 12_345.6, "peak_memory_mib": 883}),
        encoding="utf-8",
    )
    (folder / "provenance.json").write_text(
        json.dumps([{"time": "2026-01-01T00:00:00+0000", "command": ["python", "-m", "x" * 80]}]), encoding="utf-8"
    )
    return o


def page(name: str = "version_0", **options: Any) -> Path:
    """Return the page of a made run."""
    outputs, file = made_run(Path(name), **options), Path(f"{name}.html").resolve()
    file.write_text(run_page(Path(name), outputs), encoding="utf-8")
    return file


def trained(config: str) -> Path:
    main(["fit", f"--config=configs/{config}.yaml", *FAST])
    (file,) = Path("runs").glob("*/*/report.html")
    return file.resolve()


def measured() -> Path:
    file = trained("digits")
    main(["report", str(file.parent), "--baselines", "--robust", "--samples=60"])
    return file


def checked() -> Path:
    for i, label in enumerate([*"aaaabbbb"] * 6):
        folder = Path("photos", ("train", "test")[i % 3 // 2], label * 30 + "<b>")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(256, size=(9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{'long name ' * 5}{i}.png")
    for name in (f"test/{'a' * 30}<b>/copy.png", f"train/{'b' * 30}<b>/copy.png"):
        Image.fromarray(pixels).resize((64, 64)).save(Path("photos", name))
    Path("photos/train", "a" * 30 + "<b>", "bad.png").touch()
    with pytest.raises(SystemExit):
        main(["check", "--config=configs/folder.yaml", "--data.root=photos", "--data.batch_size=8", "--output=found"])
    return Path("found/check.html").resolve()


def compared(count: int) -> Path:
    folders = [Path(f"a run with a long name/version_{i}") for i in range(count)]
    for i, folder in enumerate(folders):
        made_run(folder, right=0.8 - 0.05 * i, epochs=20 + i)
    file = Path("comparison.html").resolve()
    file.write_text(comparison_page(folders, compare(folders)), encoding="utf-8")
    return file


def searched(count: int, keys: int = len(SPACE), runs: int = 3) -> Path:
    space = dict([*SPACE.items()][:keys])
    trials, file = made_trials(count, space, runs), Path("search.html").resolve()
    page = study_page(f"Study {'long' * 30}", "val/accuracy", "max", space, trials, **VALUES)
    file.write_text(page, encoding="utf-8")
    return file


PAGES: dict[str, Callable[[], Path]] = {
    **{
        name: partial(trained, name)
        for name in ("digits", "digits_masks", "digits_rotation", "digits_multilabel", "digits_retrieval", "diabetes")
    },
    "trivial models and robustness": measured,
    "a check of data": checked,
    "two runs": partial(compared, 2),
    "eight runs": partial(compared, 8),
    "a study": partial(searched, 60),
    "a study of one trial": partial(searched, 1),
    "a study of seeds": partial(searched, 1, keys=0),
    "a study with one run a trial": partial(searched, 9, keys=4, runs=1),
    "a study of nothing yet": partial(searched, 0),
    "30 classes with long names": partial(page, names=LONG, samples=3000),
    "100 classes": partial(page, names=[f"{name} {i}" for i in range(4) for name in LONG[:25]], samples=3000),
    "names with HTML and of other scripts": partial(page, names=ODD, right=0.3),
    "two classes": partial(page, names=["cat", "dog"]),
    "no errors": partial(page, right=1),
    "metrics that are NaN": partial(page, loss=float("nan")),
    "one epoch": partial(page, epochs=1),
    "no training": partial(page, epochs=0),
    "photos": partial(page, shape=(3, 96, 70)),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("name", PAGES)
def test_a_page_works_in_a_browser(browser: Browser, name: str) -> None:
    assert not faults(browser, PAGES[name]())


def test_a_small_page_works_in_a_browser(browser: Browser) -> None:
    assert not faults(browser, page(names=["cat", "dog"], samples=40, worst=2), LOOKS[:1])


GIF = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
FAULTS = {  # what is found, and a page's content in which it is to be found
    "broken script": '<script>console.error("broken script")</script>',
    "unknown_name is not defined": "<script>unknown_name</script>",
    "requests http://127.0.0.1:9/": '<img src="http://127.0.0.1:9/" alt="x" width="9" height="9">',
    "requests file:": '<link rel="stylesheet" href="other.css">',
    "wider than the window": '<div style="width: 400px">x</div>',
    "axe: image-alt": f'<img src="{GIF}">',
    "axe: color-contrast": '<p style="color: #aaa; background: #fff">pale</p>',
    "broken picture": '<img src="data:image/png;base64,AAAA" alt="x">',
    "flattened picture": f'<img src="{GIF}" alt="x" style="width: 90px; height: 20px">',
    "not reached by keyboard: <div": '<div style="overflow: auto; width: 20px; white-space: nowrap">wide wide</div>',
    "not reached by keyboard: <button": '<button tabindex="-1">x</button>',
    "focus not seen": '<button style="outline: none">x</button>',
    "label outside of its chart": '<svg viewBox="0 0 90 20" width="90"><text x="70" y="15">validation</text></svg>',
    "labels touch": '<svg viewBox="0 0 90 20"><text x="2" y="12">train</text><text x="9" y="14">val</text></svg>',
    "text outside of its box": '<p style="width: 20px; overflow-wrap: normal">several</p>',
}


def test_each_fault_of_a_page_is_found(browser: Browser) -> None:
    file = Path("x.html").resolve()
    file.write_text(
        render("base.html", title="x").replace("</main>", "\n".join(FAULTS.values()) + "</main>"), encoding="utf-8"
    )
    found = faults(browser, file, LOOKS[:1])
    assert [name for name in FAULTS if not any(name in text for text in found)] == []
    file.write_text(render("base.html", title="x"), encoding="utf-8")
    assert not faults(browser, file, LOOKS[:1])


@pytest.mark.parametrize("classes", [100, 300])
def test_a_page_is_small(classes: int) -> None:
    file = page(names=[f"a class name, {k:05d}" for k in range(classes)], samples=2000, shape=(3, 96, 96), worst=48)
    html = file.read_text(encoding="utf-8")
    pictures = re.findall(r'"data:image[^"]*"', html)
    assert len(pictures) == 48
    assert len(html.encode()) < 1_000_000
    assert len(html.encode()) - sum(map(len, pictures)) < 100_000
    assert html.count("<tr>") < 250
