"""Graph: from pixels to what predict returns, as one module that torch.export can trace."""

import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from src import UserError
from src.commands.outputs import outputs
from src.config.build import Experiment
from src.tasks import Task
from src.tasks.ensemble import Ensemble


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
