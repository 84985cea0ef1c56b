"""The page of the server in headless Chromium, against a server that answers like it."""

import json
import os
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from re import S, findall
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.analysis.page import render
from src.cli import main
from src.runs.answers import answer
from src.runs.records import Records
from tests.browser import AXE, PROGRAM, Browser
from tests.conftest import PATH, heavy
from tests.test_pages import FOCUS, LAYOUT, LOOKS, UNREACHED

pytestmark = pytest.mark.skipif(not (PROGRAM and AXE), reason="needs chromium or google-chrome, and axe-core-python")
INFO = {"name": "digits", "task": "Classifier", "created": "2026-01-02T03:04:05", "run": "digits/version_0"}
INFO |= {"metrics": {"test/accuracy": {"value": 0.985, "low": 0.97, "high": 0.99, "samples": 360}}}
LONG = [f"a class name, {k:05d}" for k in range(30)]
DRAW = np.random.default_rng(0)
MASK = (np.arange(96 * 64) // 2500).reshape(96, 64).astype(np.uint8)
KINDS: dict[str, tuple[list[int], list[str] | None, dict[str, np.ndarray]]] = {  # shape, classes, outputs
    "classes": ([1, 28, 28], None, {"probabilities": DRAW.dirichlet(np.full(10, 0.3), 1)}),
    "labels": ([3, 32, 32], LONG, {"probability": DRAW.random((1, 30)), "predicted": np.arange(30)[None] < 2}),
    "numbers": ([1, 28, 28], None, {"numbers": np.array([[-12.3456]])}),
    "masks": ([3, 96, 64], ["background", "cat", "dog"], {"mask": MASK[None]}),
    "embeddings": ([1, 28, 28], None, {"embedding": DRAW.normal(size=(1, 64))}),
    "images": ([1, 8, 8], None, {"image": DRAW.integers(256, size=(1, 1, 8, 8)).astype(np.uint8)}),
    "values": ([3, 224, 224], None, {"mean": np.array([0.5]), "logits": DRAW.normal(size=(1, 50))}),
}  # fmt: skip
DIGITS: dict[str, list[list[tuple[float, float]]]] = {  # strokes in a box of 1 x 1
    "0": [[(0.5 + 0.35 * np.sin(t), 0.5 - 0.5 * np.cos(t)) for t in np.linspace(0, 6.3, 30)]],
    "1": [[(0.3, 0.2), (0.5, 0), (0.5, 1)]],
    "2": [[(0.1, 0.25), (0.3, 0.02), (0.6, 0), (0.85, 0.2), (0.8, 0.45), (0.1, 1), (0.9, 1)]],
    "3": [
        [(0.15, 0.05), (0.5, 0), (0.8, 0.2), (0.7, 0.4), (0.4, 0.47), (0.75, 0.55), (0.85, 0.8), (0.5, 1), (0.1, 0.93)]
    ],
    "4": [[(0.25, 0), (0.1, 0.55), (0.9, 0.55)], [(0.7, 0), (0.65, 1)]],
    "5": [[(0.8, 0), (0.25, 0), (0.2, 0.45), (0.6, 0.42), (0.8, 0.65), (0.7, 0.92), (0.4, 1), (0.15, 0.92)]],
    "6": [
        [(0.65, 0), (0.3, 0.35), (0.15, 0.7), (0.3, 0.97), (0.6, 1), (0.8, 0.8), (0.7, 0.58), (0.45, 0.55), (0.2, 0.7)]
    ],
    "7": [[(0.1, 0), (0.85, 0), (0.4, 1)]],
    "8": [
        [(0.5, 0.45), (0.25, 0.25), (0.5, 0), (0.75, 0.2), (0.5, 0.45), (0.2, 0.75), (0.5, 1), (0.8, 0.75), (0.5, 0.45)]
    ],
    "9": [[(0.75, 0.2), (0.5, 0), (0.25, 0.2), (0.35, 0.42), (0.6, 0.42), (0.77, 0.2), (0.7, 0.6), (0.6, 1)]],
}


class Server(ThreadingHTTPServer):
    """Answers like ``serve`` for one kind of model, and keeps what was posted."""

    def __init__(self, kind: str, key: str = "", records: bool = True, **more: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        shape, classes, self.outputs = KINDS[kind]
        self.info = INFO | {"kind": kind, "classes": classes, "input": {"shape": shape}} | more
        self.key, self.posted = key, []  # path and body
        page = render("serve.html", info=self.info, version=3, needs_key=bool(key), records=records).encode()
        hashes = [
            f"'sha256-{b64encode(sha256(each).digest()).decode()}'"
            for tag in (b"script", b"style")
            for each in findall(rb"<%s\b[^>]*>(.*?)</%s>" % (tag, tag), page, S)
        ]
        policy = "default-src 'none'; script-src {0}; style-src {0}; img-src 'self' blob: data:; connect-src 'self'"
        self.page, self.policy = page, policy.format(" ".join(hashes))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reply(self, path: str, body: bytes, key: str | None) -> tuple[int, Any]:
        if self.key and key != self.key:
            return 401, {"error": "a valid API key is needed"}
        self.posted.append((path, body))
        if path == "/feedback":
            return 200, {}
        try:
            Image.open(BytesIO(body)).load()
        except OSError:
            return 415, {"error": "no picture of a known format: PNG, JPEG"}
        return 200, {"id": "a1", "model": "digits", "version": 3} | answer(self.info, self.outputs, 0)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        policy = self.server.policy
        self.send(200, self.server.page, Content_Type="text/html; charset=utf-8", Content_Security_Policy=policy)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = self.server.reply(self.path, body, self.headers["X-API-Key"])
        self.send(status, json.dumps(answer).encode(), Content_Type="application/json")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*args: Any, **more: Any) -> Server:
        servers.append(Server(*args, **more))
        return servers[-1]

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


DROP = """
(() => {
  const binary = Uint8Array.from(atob("%s"), c => c.charCodeAt(0)), data = new DataTransfer()
  data.items.add(new File([binary], "picture", {type: "image/png"}))
  document.body.dispatchEvent(new %s, {%s: data, bubbles: true}))
})()
"""


def picture(width: int = 60, height: int = 40) -> bytes:
    pixels = np.indices((height, width)).sum(0)[..., None] * np.array([1, 2, 3]) // 4 % 256
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def drop(browser: Browser, content: bytes, event: str = "DragEvent", field: str = "dataTransfer") -> None:
    kind = {"DragEvent": "drop", "ClipboardEvent": "paste"}[event]
    browser.js(DROP % (b64encode(content).decode(), f'{event}("{kind}"', field))
    browser.wait("!document.getElementById('empty').offsetHeight")


def text(browser: Browser, name: str) -> str:
    return str(browser.js(f"document.getElementById('{name}').innerText"))


def draw(browser: Browser, strokes: list[list[tuple[float, float]]], x: float, y: float, side: float) -> None:
    box = browser.js(
        "(({left, top, width}) => [left, top, width])(document.getElementById('draw').getBoundingClientRect())"
    )
    for stroke in strokes:
        browser.draw([(box[0] + box[2] * (x + side * u), box[1] + box[2] * (y + side * v)) for u, v in stroke])


def sent(server: Server) -> Image.Image:
    """Return the last picture that was posted."""
    (path, body) = server.posted[-1]
    assert path == "/predict"
    return Image.open(BytesIO(body))


def posted(server: Server, count: int) -> None:
    """Wait until as many pictures and labels were posted."""
    end = time.monotonic() + 10
    while len(server.posted) < count and time.monotonic() < end:
        time.sleep(0.02)
    assert len(server.posted) == count


HEADLINES = {
    "classes": "7, 26.3 %",
    "labels": "a class name, 00000, a class name, 00001",
    "numbers": "-12.35",
    "masks": "background 40.7 %, cat 40.7 %, dog 18.6 %",
    "embeddings": "Choose another picture to compare.",
    "images": "Before and after",
    "values": "",
}
AXE_RUN = "axe.run().then(r => r.violations.map(v => `axe: ${v.id}: ${v.nodes[0].html.slice(0, 120)}`))"


@pytest.mark.parametrize("kind", heavy(KINDS, "numbers", "masks", "embeddings", "images", "values", "labels"))
def test_the_page_of_each_kind_works(browser, serve, kind):
    assert AXE
    server, found = serve(kind, key="k"), []
    for width, scheme in LOOKS[:1] if kind == "classes" else LOOKS[:2]:
        browser.open(server.url, width, scheme)
        browser.js("document.getElementById('key').value = 'k'")
        drop(browser, picture())
        browser.wait("document.getElementById('facts').innerText")
        assert text(browser, "headline") == HEADLINES[kind]
        assert text(browser, "facts").startswith("digits, version 3, ")
        browser.js("document.querySelectorAll('details').forEach(e => { e.open = true })")
        while state := browser.press_tab(FOCUS):
            found += [] if state == "seen" else [state]
        found += browser.js(UNREACHED)
        found += browser.js(LAYOUT)
        browser.js(AXE.read_text(encoding="utf-8") + ";0")
        found += browser.js(AXE_RUN)
        found += browser.logged()
        assert {*browser.requested()} == {f"{server.url}predict"}
    assert found == []
    assert server.posted[-1][1] == picture()


@pytest.mark.parametrize("place", heavy([(0.5, 0.45, 0.5), (0.05, 0.1, 0.3), (0.1, 0.1, 0.8)], "0.1"))
def test_a_drawing_is_sent_like_a_digit_of_mnist(browser, serve, place):
    server = serve("classes")
    browser.open(server.url, 1400, "light")
    draw(browser, DIGITS["4"], *place)
    browser.wait("document.getElementById('facts').innerText")
    pixels = np.asarray(sent(server).convert("RGB"))
    assert pixels.shape == (28, 28, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert pixels.max() == 255
    mass = pixels[..., 0] / pixels[..., 0].sum()
    center = (np.indices((28, 28)) * mass).sum((1, 2))
    assert center == pytest.approx([13.5, 13.5], abs=0.3)
    rows, columns = (np.flatnonzero(pixels[..., 0].max(axis) > 60) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(20, abs=1)


@pytest.mark.heavy
def test_black_and_white_are_swapped(browser, serve):
    server = serve("classes")
    browser.open(server.url, 1400, "light")
    draw(browser, DIGITS["1"], 0.2, 0.2, 0.5)
    browser.wait("document.getElementById('facts').innerText")
    plain = np.asarray(sent(server).convert("L"))
    browser.js("document.getElementById('invert').click()")
    posted(server, 2)
    assert np.array_equal(np.asarray(sent(server).convert("L")), 255 - plain)
    drop(browser, picture(), "ClipboardEvent", "clipboardData")
    posted(server, 3)
    assert np.array_equal(np.asarray(sent(server).convert("RGB")), 255 - np.asarray(Image.open(BytesIO(picture()))))
    browser.js("document.getElementById('clear').click()")
    assert text(browser, "headline") == ""


def test_what_goes_wrong_is_said_in_one_line(browser, serve):
    server = serve("classes", key="secret")
    browser.open(server.url, 360, "light")
    drop(browser, picture())
    browser.wait("document.getElementById('error').innerText")
    assert text(browser, "error") == "a valid API key is needed"
    assert browser.js("document.activeElement.id") == "key"
    browser.send("Input.insertText", text="secret")
    browser.js("document.getElementById('keys').requestSubmit()")
    browser.wait("document.getElementById('facts').innerText")
    assert text(browser, "error") == ""
    drop(browser, b"no picture")
    browser.wait("document.getElementById('error').innerText")
    assert text(browser, "error") == "no picture of a known format: PNG, JPEG"
    assert browser.js("document.getElementById('found').offsetHeight") == 0
    server.shutdown()
    server.server_close()
    drop(browser, picture())
    browser.wait("document.getElementById('error').innerText.includes('does not answer')")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "right", "fill", "other"),
    [
        ("classes", "7", "e.value = '3'", "3"),
        ("labels", LONG[:2], "e.options[0].selected = false", LONG[1:2]),
        ("numbers", -12.3456, "e.value = '1.5'", 1.5),
    ],
)
def test_feedback_is_sent_with_the_id(browser, serve, kind, right, fill, other):
    server = serve(kind)
    browser.open(server.url, 1400, "dark")
    drop(browser, picture())
    browser.wait("document.querySelector('#feedback button')")
    browser.js("document.querySelector('#feedback button').click()")
    browser.wait("document.querySelector('#feedback [role=status]').innerText.startsWith('Thank you')")
    browser.js(f"(e => {{ {fill} }})(document.getElementById('label'))")
    browser.js("document.querySelectorAll('#feedback button')[1].click()")
    browser.wait("document.querySelector('#feedback [role=status]').innerText.includes('Thank you')")
    posted(server, 3)
    assert [json.loads(body) for path, body in server.posted if path == "/feedback"] == [
        {"id": "a1", "label": right},
        {"id": "a1", "label": other},
    ]
    assert (
        browser.js("document.querySelectorAll('.bars tr').length") == {"classes": 11, "labels": 11, "numbers": 0}[kind]
    )


@pytest.mark.heavy
def test_a_server_without_records_asks_for_no_feedback(browser, serve):
    server = serve("labels", records=False)
    browser.open(server.url, 1400, "dark")
    drop(browser, picture())
    browser.wait("document.querySelector('.bars')")
    assert not browser.js("document.getElementById('feedback')")
    browser.js("document.querySelector('#details button').click()")
    assert browser.js("document.querySelectorAll('.bars tbody tr').length") == 30


@pytest.mark.heavy
def test_a_mask_is_drawn_over_the_picture(browser, serve):
    server = serve("masks")
    browser.open(server.url, 1400, "dark")
    drop(browser, picture())
    browser.wait("document.getElementById('over')")
    read = "[...document.getElementById('view').getContext('2d').getImageData(5, %d, 1, 1).data].slice(0, 3)"
    with_mask = [browser.js(read % y) for y in (5, 90)]
    browser.js("document.getElementById('over').click()")
    without = [browser.js(read % y) for y in (5, 90)]
    assert with_mask[0] == without[0]  # background
    swatch = browser.js(
        "getComputedStyle(document.querySelectorAll('.swatch')[2]).backgroundColor.match(/\\d+/g).map(Number)"
    )
    blended = np.array(swatch) * 150 / 255 + np.array(without[1]) * 105 / 255
    assert with_mask[1] == pytest.approx(blended, abs=3)


@pytest.mark.heavy
def test_pictures_are_compared_by_their_embeddings(browser, serve):
    server = serve("embeddings")
    browser.open(server.url, 1400, "dark")
    drop(browser, picture())
    browser.wait("document.querySelector('.strip')")
    first = server.outputs["embedding"][0]
    second = np.roll(first, 1)
    server.outputs = {"embedding": second[None]}
    drop(browser, picture(50))
    browser.wait("document.getElementById('headline').innerText.startsWith('similarity')")
    cosine = first @ second / np.linalg.norm(first) ** 2
    assert text(browser, "headline") == f"similarity {cosine:.3f} to the picture before"


@pytest.mark.heavy
def test_a_name_of_a_class_or_model_is_no_html(browser, serve):
    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"]
    server = serve("classes", classes=names, name="<b>odd</b>")
    server.outputs = {"probabilities": np.array([[0.4, 0.6]])}
    browser.open(server.url, 1400, "dark")
    drop(browser, picture())
    browser.wait("document.getElementById('facts').innerText")
    assert text(browser, "headline") == f"{names[1]}, 60.0 %"
    assert not browser.logged()
    assert browser.js("document.images.length") == 0


@pytest.mark.heavy
def test_the_page_works_with_the_server(browser, trained):
    main(["export", f"--run={trained}"])
    command = [sys.executable, "-m", "src.cli", "serve", "models/digits", "--port=0", "--records=records"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=os.environ | PATH, **pipes) as process:
        try:
            url = next(found[0] for line in process.stdout if (found := findall(r"http://[\d.:]+", line)))
            browser.open(f"{url}/", 360, "dark")
            draw(browser, DIGITS["1"], 0.1, 0.1, 0.6)
            browser.wait("document.getElementById('facts').innerText")
            browser.js("document.querySelector('#feedback button').click()")
            browser.wait("document.querySelector('#feedback [role=status]').innerText")
            assert browser.logged() == []
        finally:
            process.terminate()
    (kept,) = Records.find(Path("records")).read()
    assert kept["label"] == kept["prediction"]
    assert text(browser, "headline").startswith(f"{kept['prediction']}, ")
    assert {"brightness", "confidence"} <= kept["traits"].keys()
