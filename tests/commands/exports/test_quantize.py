"""Quantizing is calibrated on pictures of the training split, and keeps the first and last steps in float32."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from src import UserError
from src.commands.exports.files import open_session, write
from src.commands.exports.graph import Graph, trace
from src.commands.exports.quantize import SAMPLES, quantize, training_pictures
from src.data import Digits, RandomFlip
from src.nets import MLP
from tests.commands.exports.test_graph import classifier


def digits() -> Any:
    data = Digits(augment=[RandomFlip()])
    data.setup("fit")
    return SimpleNamespace(data=data, task=None)


def test_training_pictures_are_those_of_the_training_split_as_they_are() -> None:
    x = digits()
    train = x.data.splits["train"]
    pictures = training_pictures(x)
    assert pictures.shape == (SAMPLES, 1, 8, 8)
    assert pictures.dtype == np.uint8
    known = {each.tobytes() for each in train.images[train.index].numpy()}
    assert all(each.tobytes() in known for each in pictures)
    assert np.array_equal(pictures, training_pictures(x))


def test_pictures_of_another_split_are_refused() -> None:
    x = digits()
    state = x.data.state_dict()
    x.data = Digits(fold=1)
    x.data.load_state_dict(state)
    with pytest.raises(UserError, match="the checkpoint was trained on another split of the data"):
        training_pictures(x)


def test_weights_are_small_integers_and_the_outputs_are_near() -> None:
    x = digits()
    x.task = classifier(partial(MLP, image_shape=(1, 8, 8), hidden_sizes=[16]))
    write(trace(Graph(x, "classes"), x.data.shape), ["probabilities"], Path("model.onnx"))
    pictures = training_pictures(x)
    quantize(Path("model.onnx"), Path("int8.onnx"), pictures)
    graph = onnx.load("int8.onnx").graph
    weights = [each for each in graph.initializer if len(each.dims) == 2]
    assert {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    # two products with pixels of 8 bits then fit into the 16 bits of CPUs without VNNI instructions
    assert max(abs(onnx.numpy_helper.to_array(each).astype(int)).max() for each in weights) == 64
    kinds = [node.op_type for node in graph.node if not node.op_type.endswith("Linear")]
    assert kinds[:3] == ["Cast", "Sub", "Div"]
    assert kinds[-1] == "Softmax"
    exact, near = (
        open_session(Path(name), ["probabilities"])(pictures)["probabilities"] for name in ("model.onnx", "int8.onnx")
    )
    assert 0 < np.abs(exact - near).mean() < 0.005
    assert np.allclose(near.sum(1), 1)
    assert not Path("int8.prepared.onnx").exists()
    assert torch.is_grad_enabled()
