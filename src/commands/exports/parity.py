"""Parity: what an exported file returns for the whole test set, compared with predict, and how good it is."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from src import require
from src.analysis.outputs import KINDS, difference, headline, score
from src.analysis.outputs import Outputs as Scored
from src.analysis.outputs import kind_of as kind_of_targets
from src.commands.exports.files import Outputs, Session
from src.commands.exports.graph import Graph
from src.commands.outputs import deciding, kind_of, kind_of_task, outputs
from src.config.build import Experiment

TIE = 1e-5  # decisions that differ while probabilities differ by less are ties, which rounding decides
LOSS = 0.005  # of the headline metric that int8 and pruning may cost; of numbers, a share of their deviation


class Predictions(Callback):
    """Keep what predict computes for the test set, as the outputs of the kind, on the CPU."""

    def __init__(self, x: Experiment) -> None:
        self.x, self.kind = x, ""
        self.parts: list[Outputs] = []

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs_: Any, *_: Any) -> None:  # noqa: ARG002
        data: Any = self.x.data
        self.kind = self.kind or kind_of(self.x, [outputs_])
        found = outputs(self.kind, outputs_, data.normalize)
        self.parts.append({name: each.cpu().numpy() for name, each in found.items()})


def predict(x: Experiment) -> tuple[str, Outputs]:
    """Return the kind of a task, and its outputs for the test set as predict computes them."""
    keep = Predictions(x)
    x.trainer.callbacks.append(keep)  # type: ignore[attr-defined]
    x.trainer.predict(x.task, None, x.data, ckpt_path=x.config.ckpt_path, return_predictions=False)
    x.trainer.callbacks.remove(keep)  # type: ignore[attr-defined]
    require(keep.parts, "the test set is empty: an export is compared with it")
    require(keep.parts[0], "export needs a predict_step that returns tensors: it returns nothing")
    require("images" not in keep.parts[0], "no output may be named images, which is the name of the input")
    return keep.kind, joined(keep.parts)


def joined(parts: list[Outputs]) -> Outputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def pictures(x: Experiment, index: torch.Tensor) -> np.ndarray:
    """Return pictures of the test set at positions, (N, C, H, W), uint8."""
    data: Any = x.data
    return data.splits["predict"][index][1].cpu().numpy()  # type: ignore[no-any-return]


def chunks(x: Experiment) -> list[torch.Tensor]:
    """Return the positions of the test set in parts: the first alone, because one is a special size for a net."""
    data: Any = x.data
    positions = torch.arange(len(data.splits["predict"]))
    return [positions[:1], *positions[1:].split(64)] if len(positions) > 1 else [positions]


def answers(x: Experiment, session: Session) -> Outputs:
    """Return the outputs of an exported file for the test set."""
    return joined([session(pictures(x, chunk)) for chunk in chunks(x)])


def compare(x: Experiment, graph: Graph, expected: Outputs, actual: Outputs) -> dict[str, Any]:
    """Return the largest difference, relative to the largest value above 1, and how many decisions differ.

    A decision is a class, a label, a whole number, the mask of a picture, or a gray level that is not next to the
    other. Where it differs by rounding, because two classes are equally probable or a label is at its threshold, it
    does not count.
    """
    n = len(next(iter(expected.values())))
    differs = np.zeros(n, dtype=bool)
    floats = {name: each for name, each in expected.items() if each.dtype.kind == "f"}
    gaps = np.zeros(n)
    for name, a in expected.items():
        b = actual[name]
        require(a.shape == b.shape, f"the exported {name} is {b.shape}, predict returns {a.shape}")
        if name in floats:
            scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0)))
            with np.errstate(invalid="ignore"):
                each = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b) / scale)
            gaps = np.maximum(gaps, np.nan_to_num(each, nan=np.inf).reshape(n, -1).max(1, initial=0))
        elif graph.kind == "images":
            differs |= (np.abs(a.astype(int) - b) > 1).reshape(n, -1).any(1)
        else:
            differs |= (a != b).reshape(n, -1).any(1)
    if graph.kind == "classes":
        differs = (expected["probabilities"].argmax(1) != actual["probabilities"].argmax(1)) & (gaps > TIE)
    if graph.kind == "labels":
        change = actual["probability"] - expected["probability"]
        flips = actual["predicted"] - expected["predicted"]
        ties = (flips * change > 0) & (np.abs(change) <= TIE)  # the probability crossed its threshold by rounding
        differs = ((flips != 0) & ~ties).any(1)
    if graph.kind == "masks":
        gaps = wrong_pixels(x, graph, expected["mask"], actual["mask"], differs)
        differs = gaps > 0
    elif graph.kind == "images":
        gaps = differs.astype(float)
    return {"samples": n, "max_difference": float(gaps.max()), "disagreements": int(differs.sum())}


def wrong_pixels(x: Experiment, graph: Graph, a: np.ndarray, b: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Return the share of the pixels of each picture whose class differs, without ties, (N,)."""
    shares = np.zeros(len(a))
    for i in np.flatnonzero(differs):
        with torch.inference_mode():
            margins = graph.margins(torch.from_numpy(pictures(x, torch.tensor([i]))))[0].numpy()
        shares[i] = ((a[i] != b[i]) & (margins > 2 * TIE)).mean()
    return shares


def scored(x: Experiment, kind: str, found: Outputs) -> Scored | None:
    """Return outputs with the targets of the test set, for the headline metric; None if they have none."""
    data: Any = x.data
    split = data.splits["test"]
    if split.targets is None or kind == "images":
        return None
    preds = next(iter(found.values()))
    targets = split.targets[split.index[: len(preds)]].cpu().numpy()
    if kind == "labels":
        preds = found["predicted"].astype(float)
    classes = data.class_names or ()
    if kind == "values" and len(found) == 1 and preds.shape[1:] == (len(classes),) and preds.dtype.kind == "f":
        preds = np.exp(preds - preds.max(1, keepdims=True))  # logits or their logarithms have the same largest class
        preds /= preds.sum(1, keepdims=True)
        kind = "classes"
    valid = kind != "classes" or bool(((targets >= 0) & (targets < preds.shape[1])).all())
    if kind_of_targets(preds, targets) != kind or not valid:
        return None
    values, loss = score(kind, preds, targets, getattr(deciding(x.task), "num_classes", 0))
    return Scored(kind, values, loss, preds, targets, "")


def headline_name(x: Experiment) -> str | None:
    """Return the name of the metric that the answers of an exported file will have, None if they will have none.

    What a module of another kind predicts is seen in its first batch.
    """
    if kind := kind_of_task(x.task):
        return f"test/{KINDS[kind]}"
    trainer: Any = x.trainer
    limit, trainer.limit_predict_batches = trainer.limit_predict_batches, 1
    first = scored(x, *predict(x))
    trainer.limit_predict_batches = limit
    return f"test/{first.metric}" if first else None


def measured(o: Scored | None) -> dict[str, dict[str, Any]]:
    """Return the headline metric by name, with its 95 % interval."""
    if o is None:
        return {}
    value, (low, high) = headline(o)
    if np.isnan(value):
        return {}
    return {f"test/{o.metric}": {"value": value, "low": low, "high": high, "samples": len(o)}}


def check_loss(before: Scored, after: Scored, what: str) -> str:
    """Return how the headline metric changed; refuse a model that is worse.

    It is refused if the metric is worse by more than LOSS, half a point, and the paired 95 % interval of the change has
    no gain in it.
    """
    change, (low, high), _ = difference(before, after)
    errors = before.kind == "numbers"
    allowed = LOSS * (float(before.targets.std()) if errors else 1)
    worse, gains = (change, low < 0) if errors else (-change, high > 0)
    text = f"test/{before.metric} changes by {change:+.4f}, 95 % between {low:+.4f} and {high:+.4f}"
    refused = worse > allowed and not gains
    hint = "export without --quantize" if what.endswith("int8") else "use a smaller --prune or more --prune_epochs"
    require(not refused, f"{what} costs too much: {text}, at most {allowed:.4f} worse is allowed; {hint}")
    return text
