"""Predictions: what ``predict_step`` returns, as columns of a table."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from src import require


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


def columns(outputs: list[Any]) -> dict[str, list[Any]]:
    """Return the values of each sample by name, unchanged: numbers of tensors (N, ...), and texts."""
    table: dict[str, list[Any]] = {}
    for output in outputs:
        for name, values in leaves(output):
            table.setdefault(name, []).extend(values)
    lengths = {name: len(values) for name, values in table.items()}
    valid = table and len({*lengths.values()}) == 1
    require(valid, f"predict_step must return the same number of values for each sample, got {lengths or 'none'}")
    return table


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield names and values of a batch: entries of dictionaries and tuples are named by key or position."""
    if isinstance(value, Tensor):
        rows = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
        rows = rows.reshape(1) if rows.ndim == 0 else rows
        for i, column in enumerate(rows.flatten(1).T.tolist() if rows.ndim > 1 else [rows.tolist()]):
            yield (f"{name or 'value'}_{i}" if rows.ndim > 1 else name or "value"), column
    elif isinstance(value, Mapping) or hasattr(value, "__match_args__"):  # a dictionary or namedtuple
        pairs = value.items() if isinstance(value, Mapping) else zip(value.__match_args__, value, strict=True)
        for key, each in pairs:
            yield from leaves(each, f"{name}_{key}".lstrip("_"))
    elif isinstance(value, list | tuple) and any(isinstance(each, Tensor | Mapping | list | tuple) for each in value):
        for i, each in enumerate(value):
            yield from leaves(each, f"{name or 'output'}_{i}")
    elif isinstance(value, list | tuple):
        yield name or "value", [*value]
    elif value is not None:
        yield name or "value", [value]
