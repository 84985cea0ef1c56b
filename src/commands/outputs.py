"""What predict_step returned, as named outputs: classes, labels, numbers, masks, embeddings, images or values."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from src import require
from src.config.build import Experiment
from src.protocols import DrawsPredictions
from src.runs.neighbors import embeddings
from src.runs.predictions import named_entries, probabilities
from src.tasks.ensemble import Ensemble


def deciding(task: Any) -> Any:
    """Return the task, or the member of an ensemble, that turns outputs of nets into predictions."""
    return task.averaged if isinstance(task, Ensemble) else task


def kind_of_task(task: Any) -> str | None:
    """Return what a task of this project predicts, None of any other module, or with a predict_step of its own."""
    kinds = type(deciding(task)).__mro__
    own: Any = next((vars(each) for each in kinds if "predict_step" in vars(each)), {})
    return own.get("predicts")


def kind_of(x: Experiment, batches: list[Any]) -> str:
    """Return what a task predicts, given what predict_step returned for batches."""
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
    require(isinstance(value, Tensor) and value.ndim, f"predict_step must return tensors: {what}")
    yield name or "value", value.float() if value.is_floating_point() else value


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
