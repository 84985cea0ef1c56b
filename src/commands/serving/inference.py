"""The Open Inference Protocol, version 2, with its extensions for binary tensors and classification.

https://github.com/kserve/open-inference-protocol, and the extensions of Triton Inference Server.
"""

import json
import struct
from itertools import chain
from typing import Any

import numpy as np

from src.commands.serving.messages import Refused, Reply, encode
from src.commands.serving.model import LARGEST_BATCH, Outputs
from src.runs.answers import plain
from src.runs.exports import Version

TYPES = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL"}
TYPES |= {f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
MOST_JSON = 2 << 20  # bytes; nothing else runs while they are parsed
EXTENSIONS = ["binary_tensor_data", "classification"]
HEADER = b"inference-header-content-length"


def describe(version: Version, numbers: list[int]) -> dict[str, Any]:
    """Return the metadata of a model whose versions have these numbers."""
    info = version.info
    tensors = [
        [{"name": each["name"], "datatype": TYPES[each["dtype"]], "shape": [-1, *each["shape"]]} for each in group]
        for group in ([info["input"]], info["outputs"])
    ]
    names = {"name": info["name"], "versions": [str(number) for number in numbers], "platform": "onnxruntime_onnx"}
    return names | {"inputs": tensors[0], "outputs": tensors[1]}


def parse(body: bytes, head_size: str, version: Version) -> tuple[dict[str, Any], np.ndarray]:
    """Return the JSON of an inference request and its pictures (N, C, H, W), uint8."""
    try:
        size = int(head_size) if head_size else len(body)
        if not 0 < size <= len(body):
            raise ValueError(f"{HEADER.decode()} is {size}, but the body has {len(body)} bytes")
        if size > MOST_JSON:
            raise Refused(413, f"the JSON may have at most {MOST_JSON:,} bytes: send the pixels in binary")
        head = json.loads(body[:size])
        if not isinstance(head, dict) or not isinstance(head["inputs"], list) or len(head["inputs"]) != 1:
            raise ValueError("expected an object whose inputs are a list of one tensor")
        pixels = read_tensor(head["inputs"][0], body[size:], version)
        known, asked = [output["name"] for output in version.info["outputs"]], head.get("outputs", [])
        if not isinstance(asked, list) or not isinstance(head.get("id", ""), str):
            raise ValueError("outputs must be a list, and id text")
        for each in asked:
            if each["name"] not in known:
                raise ValueError(f"expected each of the outputs {known} once, got {each['name']!r:.100}")
            known.remove(each["name"])
            classes = parameters(each).get("classification", 0)
            if type(classes) is not int or classes < 0:
                raise ValueError("classification must be a number of classes")
        parameters(head)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = " ".join(str(error).split())[:300] if isinstance(error, ValueError) else "a part has the wrong type"
        what = f"no {error}" if isinstance(error, KeyError) else what
        raise Refused(400, f"not an inference request: {what}") from None
    return head, pixels


def parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise ValueError("parameters must be an object")
    return found


def read_tensor(given: dict[str, Any], rest: bytes, version: Version) -> np.ndarray:
    name, shape = version.info["input"]["name"], tuple(given["shape"])
    fits = all(type(n) is int for n in shape) and shape[1:] == version.shape and 1 <= shape[0] <= LARGEST_BATCH
    if given["name"] != name or given["datatype"] != "UINT8" or not fits:
        expected = f"{name}, UINT8 [1 to {LARGEST_BATCH}, {', '.join(map(str, version.shape))}]"
        got = f"{given['name']!r:.50}, {given['datatype']!r:.20} {given['shape']!r:.50}"
        raise ValueError(f"the input must be {expected}, got {got}")
    size, count = parameters(given).get("binary_data_size"), int(np.prod(shape))
    if size is not None:
        if size != count or len(rest) != count:
            raise ValueError(f"the input has {count} bytes, got binary_data_size {size!r:.20} and {len(rest)} bytes")
        return np.frombuffer(rest, np.uint8).reshape(shape)
    values = np.array(given["data"])  # flat or nested
    fits = values.dtype.kind in "if" and values.size == count and values.min() >= 0 and values.max() <= 255
    if not fits or (values != values.round()).any():
        raise ValueError(f"data must hold {count} integers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def respond(version: Version, head: dict[str, Any], outputs: Outputs) -> Reply:
    """Return the outputs that a request asks for, each as JSON or, after it, in binary."""
    asked = head.get("outputs") or [{"name": name} for name in outputs]
    entries, blobs = [], []
    for each in asked:
        wants, values = parameters(each), outputs[each["name"]]
        binary = wants.get("binary_data", parameters(head).get("binary_data_output", False))
        if count := wants.get("classification", 0):
            rows = classify(values, version.info["classes"], count)
            data: list[Any] | None
            kind, shape, data = "BYTES", [len(rows), len(rows[0])], [*chain(*rows)]
            blob = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, data))
        else:
            kind, shape, data = TYPES[values.dtype.name], [*values.shape], None if binary else plain(values.ravel())
            blob = values.tobytes() if binary else b""
        entry: dict[str, Any] = {"name": each["name"], "datatype": kind, "shape": shape}
        if binary:
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = data
        entries.append(entry)
    names = {"model_name": version.info["name"], "model_version": str(version.number)}
    names |= {"id": head["id"]} if head.get("id") else {}
    text = encode(names | {"outputs": entries}).encode()
    if not blobs:
        return Reply(text)
    return Reply(text + b"".join(blobs), media="application/octet-stream", headers={HEADER.decode(): str(len(text))})


def classify(values: np.ndarray, classes: list[str] | None, count: int) -> list[list[str]]:
    """Return the largest values of each row as value:index:class."""
    rows = values.reshape(len(values), -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    named = classes if classes and len(classes) == rows.shape[1] else None
    return [
        [f"{row[k]:f}:{k}" + (f":{named[k]}" if named else "") for k in ks]
        for row, ks in zip(rows, order.tolist(), strict=True)
    ]
