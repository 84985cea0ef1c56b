"""Predictions: what ``predict_step`` returns, as columns of a table."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from src import UserError, require


def probabilities(outputs: list[Any], num_classes: int = 0) -> Tensor | None:
    """Return the outputs as class probabilities (N, K), or None if they are something else, such as logits.

    K is ``num_classes``, if it is known, that is above 0.
    """
    if not outputs or not all(isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] > 1 for each in outputs):
        return None
    if len({each.shape[1] for each in outputs} | ({num_classes} if num_classes else set())) > 1:
        return None
    rows = torch.cat([output.float().cpu() for output in outputs])
    sums_to_one = bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-2)
    return rows if sums_to_one else None


def let_forward_predict(task: LightningModule) -> None:
    """Let a task without ``predict_step`` call ``forward``, with the first entry of a batch if it accepts no batch."""

    def predict_step(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG001
        entries = [*batch.values()] if isinstance(batch, Mapping) else batch
        try:
            return task(batch)
        except (TypeError, AttributeError, RuntimeError) as error:
            if not isinstance(entries, list | tuple):
                raise
            with suppress(TypeError, AttributeError, RuntimeError):
                return task(entries[0])
            text = f"its forward accepts neither a batch nor its first entry ({' '.join(str(error).split())[:150]})"
            raise UserError(f"{type(task).__name__} needs a predict_step, because {text}") from error

    if not is_overridden("predict_step", task):
        task.predict_step = predict_step  # type: ignore[method-assign]


def columns(outputs: list[Any]) -> dict[str, list[Any]]:
    """Return the values of each sample by name, unchanged: numbers of tensors (N, ...), and texts."""
    table: dict[str, list[Any]] = {}
    for output in outputs:
        for name, values in leaves(output):
            table.setdefault(name, []).extend(values)
    lengths = {name: len(values) for name, values in table.items()}
    valid = len({*lengths.values()}) <= 1
    require(valid, f"predict_step must return the same number of values for each sample, got {lengths}")
    return table


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield names and values of a batch: entries are named by key or position; lists of dictionaries hold samples."""
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, Tensor):
        rows = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
        rows = rows.reshape(1) if rows.ndim == 0 else rows
        for i, column in enumerate(rows.flatten(1).T.tolist() if rows.ndim > 1 else [rows.tolist()]):
            yield (f"{name or 'value'}_{i}" if rows.ndim > 1 else name or "value"), column
    elif (entries := named_entries(value)) is not None:
        for key, each in entries.items():
            yield from leaves(each, f"{name}_{key}".lstrip("_"))
    elif isinstance(value, list) and value and all(map(named_entries, value)):
        samples = [named_entries(each) or {} for each in value]
        for key in samples[0]:
            cells = [each.get(key) for each in samples]
            yield f"{name}_{key}".lstrip("_"), [x.tolist() if isinstance(x, Tensor | np.ndarray) else x for x in cells]
    elif isinstance(value, list | tuple) and any(isinstance(each, Tensor | Mapping | list | tuple) for each in value):
        for i, each in enumerate(value):
            yield from leaves(each, f"{name or 'output'}_{i}")
    elif isinstance(value, list | tuple):
        yield name or "value", [*value]
    elif value is not None:
        yield name or "value", [value]


def named_entries(value: Any) -> Mapping[str, Any] | None:
    """Return the entries of a dictionary, dataclass or namedtuple; None of anything else."""
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value):
        return vars(value)
    named = isinstance(value, tuple) and hasattr(value, "__match_args__")
    return dict(zip(value.__match_args__, value, strict=True)) if named else None
