"""Exported files: write a program as ONNX or .pt2 without paths of this machine, and run it like a server does."""

import errno
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from src import UserError, require
from src.engine.signals import SIGNALS
from src.runs.exports import import_onnxruntime

Outputs = dict[str, np.ndarray]
Session = Callable[[np.ndarray], Outputs]  # from pixels (N, C, H, W), uint8, to outputs by name
ALMOST_NOTHING = 2**20  # bytes that are free
SOURCES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")  # in the meta of a node


@contextmanager
def exit_at_signals(install: bool) -> Iterator[None]:
    """Let signals that end this process raise SystemExit, so that it cleans up, if it may ``install`` handlers."""

    def leave(number: int, frame: Any) -> None:  # noqa: ARG001
        for each in heard:
            signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the cleaning
        raise SystemExit(128 + number)

    heard = [number for number in SIGNALS if install and signal.getsignal(number) is signal.SIG_DFL]
    for each in heard:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files; a UserError names its place if it is full or cannot be written."""
    remedy = "set TMPDIR to a folder with more space"
    try:
        made = tempfile.TemporaryDirectory(prefix="export_")
    except OSError as error:
        raise UserError(f"cannot make a temporary folder: {error.strerror}; {remedy}") from None
    with made as name:
        try:
            yield Path(name)
        except UserError:
            raise
        except Exception as error:
            place = Path(name).parent
            full = shutil.disk_usage(place).free < ALMOST_NOTHING  # ONNX Runtime says only that it failed
            if not full and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f"the folder for temporary files, {place}, is full: {remedy}") from error


def check_installed(onnx: bool, pruning: bool) -> None:
    """Refuse an export whose packages are missing."""
    needed = ["onnx", "onnxscript", "onnxruntime"] if onnx else []
    missing = [name for name in [*needed, *(["torch_pruning"] if pruning else [])] if find_spec(name) is None]
    names = ", ".join(missing).replace("_", "-")
    require(not missing, f"{names} is not installed: run make extras, or uv pip install -r requirements-extras.lock")


def write(program: ExportedProgram, names: list[str], file: Path) -> None:
    """Write a program, whose outputs get names, as the suffix says."""
    if file.suffix == ".pt2":
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                for key in SOURCES:
                    node.meta.pop(key, None)
        content = BytesIO()  # torch aborts the process where it cannot write a file
        with warnings.catch_warnings(action="ignore"):  # of weights with the channels last
            torch.export.save(program, content)
        file.write_bytes(content.getbuffer())
        return
    import onnx

    settings: dict[str, Any] = {"dynamo": True, "verbose": False, "input_names": ["images"], "output_names": names}
    try:
        found = torch.onnx.export(program, (), dynamic_shapes=({0: "batch"},), **settings)
    except Exception as error:
        cause = error.__cause__ or error
        text = " ".join(str(cause).split())[:150]
        raise UserError(f"the net has no ONNX form ({type(cause).__name__}: {text}): try --format pt2") from error
    model = found.model_proto  # type: ignore[union-attr]
    clear(model)
    onnx.save(model, file)


def clear(message: Any) -> None:
    """Remove texts that name source files, which torch keeps for each node, from an ONNX model."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                clear(each)


def open_session(file: Path, names: list[str]) -> Session:
    """Return a function that runs an exported file on one thread of the CPU, as ``serve`` does."""
    if file.suffix == ".pt2":
        return torch_session(torch.export.load(file).module(), names)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: dict(zip(names, session.run(names, {"images": pixels}), strict=True))


def torch_session(module: nn.Module, names: list[str]) -> Session:
    def run(pixels: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return {name: each.numpy() for name, each in zip(names, module(torch.from_numpy(pixels)), strict=True)}

    return run
