"""Small exported models, and a server of its own process for tests that need a real one."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from src.runs.exports import Models

CLASSES = [*"0123456789"]


def publish(
    folder: Path = Path("models/digits"),
    shape: tuple[int, ...] = (1, 8, 8),
    seed: int = 0,
    current: bool = True,
    batch: int | str = "N",
    **info: object,
) -> int:
    """Export softmax(pixels @ weights) as the next version of a folder; return its number."""
    weights = np.random.default_rng(seed).normal(0, 0.01, (int(np.prod(shape)), 10)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 10])],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return release(folder, model.SerializeToString(), current, shape=shape, **info)


def release(folder: Path, model: bytes, current: bool, shape: tuple[int, ...], **info: object) -> int:
    content = {"format": 1, "name": "digits", "task": "Classifier", "kind": "classes", "file": "model.onnx"}
    content |= {"input": {"name": "images", "dtype": "uint8", "shape": [*shape], "scale": None}, "classes": CLASSES}
    content |= {"outputs": [{"name": "probabilities", "dtype": "float32", "shape": [10]}]}
    models = Models(folder)
    with models.draft() as draft:
        (draft / "model.onnx").write_bytes(model)
        (draft / "model.json").write_text(json.dumps(content | info))
        number = models.publish(draft)
    if current:
        models.use(number)
    return number
