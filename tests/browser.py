"""Headless Chromium over the DevTools protocol: what a page logs and requests, keys, screenshots and axe-core."""

import base64
import json
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
SPEC = find_spec("axe_core_python")
AXE = Path(SPEC.origin).with_name("axe.min.js") if SPEC and SPEC.origin else None
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab; ``open`` a page in it, then ask with ``js``."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM
        (child_in, self.writer), (self.reader, child_out) = os.pipe(), os.pipe()
        # the pipes of --remote-debugging-pipe are the descriptors 3 and 4
        redirect = f'exec "$@" 3</proc/self/fd/{child_in} 4>/proc/self/fd/{child_out}'
        self.process = subprocess.Popen(
            ["sh", "-c", redirect, "sh", PROGRAM, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(child_in, child_out), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(child_in)
        os.close(child_out)
        self.events: list[dict[str, Any]] = []
        self.pending, self.count, self.session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.reader)
        os.close(self.writer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            data = os.read(self.reader, 1 << 16)
            assert data, "chromium ended"
            self.pending += data
        message, self.pending = self.pending.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; keep the events that come meanwhile."""
        self.count += 1
        call = {"id": self.count, "method": method, "params": params}
        os.write(self.writer, json.dumps(call | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while (message := self.receive()).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    def open(self, page: Path | str, width: int, scheme: str) -> None:
        """Open a page, a file or an address, and wait until it is loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events = []
        self.send("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def js(self, expression: str) -> Any:
        """Return the value of an expression, or of its promise."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press_tab(self, expression: str) -> Any:
        """Press the tab key, then return the value of an expression."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        return self.js(expression)

    def draw(self, points: list[tuple[float, float]]) -> None:
        """Press the mouse at the first point of the window, move it along the others, and release it."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def wait(self, expression: str) -> None:
        """Wait until an expression is true, at most ten seconds."""
        for _ in range(500):
            if self.js(f"Boolean({expression})"):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}")

    def logged(self) -> list[str]:
        """Return what the page wrote to the console, and the errors it met."""
        self.js("0")  # events before this answer have come
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [str(event["params"])[:900] for event in self.events if event["method"] in kinds]

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for, except its own and those inside of it."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [
            each["request"]["url"]
            for each in sent
            if each["type"] != "Document" or each["requestId"] != each["loaderId"]
        ]
        return [url[:200] for url in urls if not url.startswith("data:")]

    def screenshot(self, file: Path) -> None:
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(image))
