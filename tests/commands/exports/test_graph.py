"""The graph of a task returns what predict does, for any number of pictures, as ONNX and as a program of torch."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from src import UserError
from src.commands.exports.files import open_session, write
from src.commands.exports.graph import Graph, trace
from src.commands.outputs import kind_of
from src.data.loading.transform import Normalize
from src.nets import MLP, LeNet, MobileCNN, ResNet, ResNet9, SequentialCNN, SmallCNN, UNet, WhitenedCNN
from src.tasks import Classifier, Segmenter
from src.tasks.ensemble import Ensemble
from src.tasks.tta import predict_with_tta
from tests.conftest import heavy

NETS: dict[str, tuple[Any, int]] = {
    "MLP": (partial(MLP, image_shape=(3, 32, 32), hidden_sizes=[8]), 32),
    "LeNet": (LeNet, 32),
    "SequentialCNN": (SequentialCNN, 32),
    "SmallCNN": (partial(SmallCNN, in_channels=3, width=4), 8),
    "MobileCNN": (partial(MobileCNN, in_channels=3), 32),
    "ResNet": (partial(ResNet, depth=10, small_images=True, drop_path=0.2, dropout=0.1), 16),
    "ResNet9": (partial(ResNet9, width=8), 32),
    "WhitenedCNN": (partial(WhitenedCNN, widths=[8, 8, 8]), 32),
}


def experiment(task: Any, shape: tuple[int, ...]) -> Any:
    normalize = Normalize([90.0] * shape[0], [60.0] * shape[0])
    return SimpleNamespace(task=task, data=SimpleNamespace(normalize=normalize, shape=shape, class_names=None))


def classifier(net: Any, tta: Any = "plain") -> Classifier:
    torch.manual_seed(0)
    task = Classifier(net=net, num_classes=4, optimizer=torch.optim.SGD, tta=tta).eval()
    for module in task.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return task


def run(x: Any, kind: str, names: list[str], suffix: str = ".onnx", counts: tuple[int, ...] = (1, 5)) -> list[Any]:
    """Export, and return random pixels and the outputs for them, for batches of several sizes."""
    file = Path(f"model{suffix}")
    write(trace(Graph(x, kind), x.data.shape), names, file)
    session = open_session(file, names)
    batches = [np.random.default_rng(n).integers(256, size=(n, *x.data.shape), dtype=np.uint8) for n in counts]
    return [(torch.from_numpy(pixels), session(pixels)) for pixels in batches]


def check(task: Classifier, shape: tuple[int, ...], suffix: str = ".onnx") -> None:
    """Compare a classifier with what it computes, written out."""
    for pixels, found in run(experiment(task, shape), "classes", ["probabilities"], suffix):
        with torch.no_grad():
            right = predict_with_tta(task.net, (pixels.float() - 90) / 60, task.tta).softmax(1)
        assert len(right) == 1 or right.amax(0).sub(right.amin(0)).max() > 2e-5  # they depend on the pixels
        np.testing.assert_allclose(found["probabilities"], right, atol=1e-6)


CASES = [f"{name} {tta} {layout}" for name in NETS for tta in ("plain", "mirror", "mirror_shift") for layout in "CL"]
FEW = ("MLP mirror_shift C",)


@pytest.mark.parametrize("case", heavy(CASES, *(case for case in CASES if case not in FEW)))
def test_every_net_is_exported(case: str) -> None:
    name, tta, layout = case.split()
    net, size = NETS[name]
    task = classifier(net, tta)
    if layout == "L":  # the channels last
        task.to(memory_format=torch.channels_last)
    check(task, (3, size, size))


class Wrapped(nn.Module):
    """A net with what an export must replace: a parametrization, and a compiled module."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(12, 8))
        self.second = torch.compile(nn.Linear(8, outputs), backend="eager")

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)).relu())


@pytest.mark.heavy
def test_compiled_and_parametrized_nets_are_exported_as_what_they_compute() -> None:
    task = classifier(Wrapped)
    plain = deepcopy(task)
    task.compile(backend="eager")
    for pixels, found in run(experiment(task, (3, 2, 2)), "classes", ["probabilities"]):
        with torch.no_grad():
            right = plain((pixels.float() - 90) / 60).softmax(1)
        np.testing.assert_allclose(found["probabilities"], right, atol=1e-6)


@pytest.mark.heavy
def test_an_ensemble_is_one_file_with_the_net_once_for_all_views() -> None:
    tasks = [classifier(NETS["SmallCNN"][0], "mirror_shift") for _ in range(2)]
    for p in tasks[1].parameters():
        p.data.mul_(0.9)
    whole = Ensemble(tasks, [Precision()] * 2, [0.25, 0.75], tasks[0])
    whole.trainer = SimpleNamespace(num_predict_batches=[1])  # type: ignore[assignment]
    for pixels, found in run(experiment(whole, (3, 8, 8)), "classes", ["probabilities"]):
        inputs = (pixels.float() - 90) / 60
        with torch.no_grad():
            each = [predict_with_tta(task.net, inputs, "mirror_shift").softmax(1) for task in tasks]
        np.testing.assert_allclose(found["probabilities"], 0.25 * each[0] + 0.75 * each[1], atol=1e-6)
    assert [node.op_type for node in onnx.load("model.onnx").graph.node].count("Conv") == 12


def test_a_file_of_each_format_names_the_batch_and_no_folder() -> None:
    net = partial(MLP, image_shape=(3, 2, 2), hidden_sizes=[8])
    for suffix in (".onnx", ".pt2"):
        check(classifier(net, "mirror"), (3, 2, 2), suffix)
        content = Path(f"model{suffix}").read_bytes()
        for text in (
            str(Path(__file__).parents[3]),
            str(Path.cwd()),
            str(Path.home()),
            "site-packages",
            "dist-packages",
        ):
            assert text.encode() not in content
    graph = onnx.load("model.onnx").graph
    dims = [(each.name, [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]) for each in graph.input]
    dims += [
        (each.name, [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]) for each in graph.output
    ]
    assert dims == [("images", ["batch", 3, 2, 2]), ("probabilities", ["batch", 4])]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


class Odd(LightningModule):
    """A module of somebody else, whose outputs are given by a function of images (N, 3, 2, 2)."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(12, 12)

    def predict_step(self, images: Tensor, batch_idx: int) -> Any:  # noqa: ARG002
        return self.function(self.layer(images.flatten(1)))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda x: x if x.sum() > 0 else -x,
            r"\(test_graph.py, line \d+, in <lambda>\): an if or a loop depends on the values of a tensor",
        ),
        (lambda x: x.reshape(2, 12), r"one batch size only: use x.shape\[0\] or -1, not len\(x\) or a number"),
        (lambda x: {"name": ["cat"] * len(x)}, "predict_step must return tensors: its name_0 is str"),
        (lambda x: torch.linalg.eigvals(x.reshape(-1, 2, 6)[..., :2]).real, "no ONNX form .*: try --format pt2"),
    ],
)
def test_what_cannot_be_exported_is_named_in_one_line(function: Any, text: str) -> None:
    with pytest.raises(UserError, match=text) as refused:
        run(experiment(Odd(function), (3, 2, 2)), "values", ["value"])
    assert "\n" not in str(refused.value)


def test_values_of_any_module_keep_their_names() -> None:
    task = Odd(lambda x: {"logits": x, "rest": [x.argmax(1), x[:, :2].double()]})
    for pixels, found in run(experiment(task, (3, 2, 2)), "values", ["logits", "rest_0", "rest_1"]):
        with torch.no_grad():
            logits = task.layer(((pixels.float() - 90) / 60).flatten(1))
        np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
        np.testing.assert_array_equal(found["rest_0"], logits.argmax(1))
        assert found["rest_1"].dtype == np.float32


def test_a_kind_is_what_predict_shows() -> None:
    rows = torch.tensor([[0.25, 0.75]])
    kinds = {
        "classes": rows,
        "embeddings": torch.tensor([[0.6, 0.8]]),
        "values": 9 * rows,
        "images": torch.ones(1, 3, 2, 2),
    }
    for kind, output in kinds.items():
        assert kind_of(experiment(nn.Identity(), (3, 2, 2)), [output]) == kind
    assert kind_of(experiment(classifier(MLP), (1, 28, 28)), [rows]) == "classes"


def test_a_segmentation_has_margins() -> None:
    task = Segmenter(net=partial(UNet, width=4, in_channels=3), num_classes=3, optimizer=torch.optim.SGD)
    graph, pixels = Graph(experiment(task, (3, 8, 8)), "masks"), torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    first, second, _ = task((pixels.float() - 90) / 60).softmax(1).sort(1, descending=True).values.unbind(1)
    assert torch.allclose(graph.margins(pixels), first - second)
