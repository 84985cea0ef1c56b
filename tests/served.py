"""Small exported models, and servers of them: as a function of requests, or on a port."""

import asyncio
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from src.commands.serve import listen
from src.commands.serving.app import App
from src.commands.serving.process import Server, make_server, work
from src.commands.serving.settings import Settings
from src.runs.exports import Models

CLASSES = [*"0123456789"]
FOLDER = Path("models/digits")
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


def publish(
    shape: tuple[int, ...] = (1, 8, 8),
    seed: int = 0,
    current: bool = True,
    batch: int | str = "N",
    fails_from: int = 256,
    nan: bool = False,
    **info: Any,
) -> int:
    """Export softmax(pixels @ weights) as the next version; return its number.

    It fails on pictures whose first pixel is at least ``fails_from``.
    """
    weights = np.random.default_rng(seed).normal(0, 0.01, (int(np.prod(shape)), 10)).astype(np.float32)
    weights = np.full_like(weights, np.nan) if nan else weights
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["products"]),
        helper.make_node("Slice", ["rows", "zero", "one", "one"], ["firsts"]),
        helper.make_node("Cast", ["firsts"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zeros", "index"], ["nothing"]),  # an error beyond its end
        helper.make_node("Add", ["products", "nothing"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    arrays = {"weights": weights, "zeros": np.zeros(fails_from, np.float32)}
    arrays |= {"zero": np.array([0]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 10])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return release(model.SerializeToString(), shape, current, **info)


def release(model: bytes, shape: tuple[int, ...], current: bool = True, **info: Any) -> int:
    """Make an ONNX file the next version; return its number."""
    content: dict[str, Any] = {"format": 1, "name": "digits", "task": "Classifier", "kind": "classes"}
    content |= {"input": {"name": "images", "dtype": "uint8", "shape": [*shape], "scale": None}, "file": "model.onnx"}
    content |= {"outputs": [{"name": "probabilities", "dtype": "float32", "shape": [10]}], "classes": CLASSES}
    models = Models(FOLDER)
    with models.draft() as draft:
        (draft / "model.onnx").write_bytes(model)
        (draft / "model.json").write_text(json.dumps(content | info), encoding="utf-8")
        if reference := info.get("reference"):
            (draft / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
        number = models.publish(draft)
    if current:
        models.use(number)
    return number


def picture(seed: int = 0, size: tuple[int, ...] = (8, 8), kind: str = "PNG", first: int = 0) -> bytes:
    """Return an image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, size, np.uint8)
    pixels[0, 0] = first
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def settings(**changes: Any) -> Settings:
    return Settings(FOLDER, **changes)


def call(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body, parsed if it is JSON, of one request to an application."""
    return calls(app, (method, path, body, headers))[0]


def calls(app: App, *requests: tuple[str, str, bytes, dict[str, str]]) -> list[tuple[int, dict[str, str], Any]]:
    """Return the replies to requests that are sent at the same time."""

    async def reply(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        sent: list[dict[str, Any]] = []
        given = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app({"type": "http", "method": method, "path": path, "headers": encoded}, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        content = sent[1]["body"]
        assert found["content-length"] == str(len(content))
        return sent[0]["status"], found, json.loads(content) if found["content-type"] == "application/json" else content

    async def together() -> list[tuple[int, dict[str, str], Any]]:
        return await asyncio.gather(*(reply(*each) for each in requests))

    return asyncio.run(together())


@contextmanager
def running(**changes: Any) -> Iterator[tuple[Server, int]]:
    """Serve on a free port, in a thread; yield the server and its port."""
    server = make_server(settings(drain=0.0, **changes))
    listener = listen("127.0.0.1", 0, secured=True)
    thread = threading.Thread(target=work, args=(server, listener))
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield server, port
    finally:
        server.drain()
        thread.join(30)
        assert not thread.is_alive()


def ask(
    port: int, body: bytes = b"", path: str = "/predict", method: str = "POST", **headers: str
) -> tuple[int, bytes]:
    """Return status and body of a request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def request(file: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(file) + file


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent)
    return connection


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    found = b""
    with connection, suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def until(true: Any, seconds: float = 10) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
