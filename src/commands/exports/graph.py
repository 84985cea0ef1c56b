"""Graph: from pixels to what predict returns, as one module that torch.export can trace."""

import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from src import UserError, require
from src.config.build import Experiment
from src.protocols import DrawsPredictions
from src.runs.neighbors import embeddings
from src.runs.predictions import named_entries, probabilities
from src.tasks import Classifier, Embedder, MultiLabel, Regressor, Segmenter, Task
from src.tasks.ensemble import Ensemble

KINDS = {Classifier: "classes", MultiLabel: "labels", Regressor: "numbers", Segmenter: "masks", Embedder: "embeddings"}


def deciding(task: Any) -> Any:
    """Return the task, or the member of an ensemble, that turns outputs of nets into predictions."""
    return task.averaged if isinstance(task, Ensemble) else task


def kind_of_task(task: Any) -> str | None:
    """Return what a task of this project predicts, None of any other module, or with a predict_step of its own."""
    kind: Any = type(deciding(task))
    return next(
        (what for own, what in KINDS.items() if getattr(kind, "predict_step", None) is vars(own)["predict_step"]), None
    )


def kind_of(x: Experiment, batches: list[Any]) -> str:
    """Return what a task predicts, see ``src.runs.exports.KINDS``, given what predict_step returned for batches."""
    data: Any = x.data
    kind = kind_of_task(x.task) or "values"
    if kind in ("values", "classes"):
        kind = "classes" if probabilities(batches, len(data.class_names or ())) is not None else "values"
    if kind == "values" and not isinstance(x.task, DrawsPredictions) and isinstance(batches[0], Tensor):
        restored = all(batch.shape[1:] == data.shape and batch.is_floating_point() for batch in batches)
        return "images" if restored else "embeddings" if embeddings(batches) is not None else "values"
    return kind


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a batch, named by key or position like the columns that predict writes."""
    entries = named_entries(value)
    if isinstance(value, list | tuple) and entries is None:
        entries = {str(i): each for i, each in enumerate(value)}
    if entries is not None:
        for key, each in entries.items():
            yield from leaves(each, f"{name}_{key}".lstrip("_"))
        return
    what = f"its {name or 'value'} is {type(value).__name__}"
    require(isinstance(value, Tensor) and value.ndim, f"export needs a predict_step that returns tensors: {what}")
    yield name or "value", value.float() if value.is_floating_point() else value


class Graph(nn.Module):
    """Pixels (N, C, H, W), uint8, to the outputs of a kind, which ``src.runs.exports`` lists, in a fixed order.

    Weights are in float32, in eval mode; modules are not compiled.
    """

    def __init__(self, x: Experiment, kind: str) -> None:
        super().__init__()
        data: Any = x.data
        self.kind, self.normalize, self.task = kind, data.normalize, x.task
        unwrap(self)
        self.float().eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Task):
                module.tta_now = module.tta

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        task: Any = self.task
        return tuple(outputs(self.kind, task.predict_step(self.normalize(pixels.float()), 0), self.normalize).values())

    def margins(self, pixels: Tensor) -> Tensor:
        """Return how much more probable the class of each pixel is than the second, (N, H, W), of a segmentation."""
        task: Any = self.task
        inputs = self.normalize(pixels.float())
        each = isinstance(task, Ensemble)
        soft = task.average(task.predict_each(inputs, 0)) if each else task.soft_predictions(inputs)
        first, second = soft.topk(2, 1).values.unbind(1)
        return first - second


def outputs(kind: str, predicted: Any, normalize: Any) -> dict[str, Tensor]:
    """Return what predict_step returned for a batch as the outputs of the kind by name."""
    if kind == "labels":
        return {"probability": predicted["probability"].float(), "predicted": predicted["predicted"].long()}
    if kind == "numbers":
        return {"numbers": predicted.float().reshape(predicted.shape[0], -1)}
    if kind == "images":
        return {"image": (predicted.float() * normalize.std + normalize.mean).round().clamp(0, 255).byte()}
    if kind == "values":
        return dict(leaves(predicted))
    name = {"classes": "probabilities", "masks": "mask", "embeddings": "embedding"}[kind]
    return {name: predicted.byte() if kind == "masks" else predicted.float()}


def unwrap(module: nn.Module) -> None:
    """Replace compiled modules within a module by what they compile."""
    for name, child in [*module.named_children()]:
        inner = getattr(child, "_orig_mod", None)
        if inner is not None:
            setattr(module, name, inner)
        unwrap(inner or child)
    vars(module)["_compiled_call_impl"] = None  # of Module.compile


def place(error: BaseException) -> str:
    """Return the line of a net that an error comes from, if its traceback has one."""
    outside = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    own = [(code, line) for code, line in frames if not code.co_filename.startswith(outside)]
    return "".join(f" ({Path(code.co_filename).name}, line {line}, in {code.co_name})" for code, line in own[-1:])


def trace(graph: Graph, shape: tuple[int, ...]) -> ExportedProgram:
    """Return the program of a graph for any number of images (C, H, W); an example of one would fix the number.

    Refuse a net that torch.export cannot trace, in one line.
    """
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    try:
        with torch.no_grad(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it prints what it has traced
            return torch.export.export(graph, (example,), dynamic_shapes=({0: Dim("batch")},))
    except UserError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if re.search("data-dependent|DataDependent|GuardOn", text):
            how = "an if or a loop depends on the values of a tensor: use torch.where or torch.cond instead"
        elif re.search("Constraints violated|specialized|not all values of batch", text):
            how = "it works for one batch size only: use x.shape[0] or -1, not len(x) or a number"
        else:
            how = text[:200]
        raise UserError(f"the net cannot be exported{place(error)}: {how}") from error
