"""KeepOutputs: what a test predicts of each sample, with the pictures of the worst, for ``report``."""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from src import require
from src.analysis.outputs import Array, Outputs, as_array, kind_of, score
from src.protocols import DrawsPredictions, ImageData

WORST = 24  # samples whose pictures are kept
CHUNK = 512  # images to read at once


class KeepOutputs(Callback):
    """Collect ``outputs`` of a test whose steps return {"preds": ..., "targets": ...}; None if they do not.

    Of several processes, the first gets the samples of all. A test never fails because its outputs cannot be kept.
    """

    def __init__(self) -> None:
        self.outputs: Outputs | None = None
        self.parts: list[dict[str, Array]] = []  # of each batch
        self.problem: str | None = None  # why there will be no outputs; empty if none were returned

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Any, module: Any, outputs: Any, _batch: Any, batch_idx: int, dataloader_idx: int = 0, /
    ) -> None:
        if self.problem is not None:
            return
        pair: list[Any] = [outputs.get(name) for name in ("preds", "targets")] if isinstance(outputs, dict) else []
        if not pair or not all(isinstance(each, Tensor) for each in pair):
            self.problem = ""
            return
        try:
            require(not dataloader_idx, "there are several test dataloaders")
            start = first_position(trainer, batch_idx, sum(len(part["loss"]) for part in self.parts))
            self.parts.append(batch_part(as_array(pair[0]), as_array(pair[1]), start, module))
        except Exception as error:  # whatever a module returns
            self.problem = one_line(error)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (self.problem, self.parts))
            self.problem = next((problem for problem, _ in gathered if problem is not None), None)
            self.parts = [part for _, parts in gathered for part in parts]
        if self.problem is None and self.parts and trainer.is_global_zero:
            try:
                joined = {key: np.concatenate([part[key] for part in self.parts]) for key in self.parts[0]}
                self.outputs = complete(joined, trainer, pl_module)
            except Exception as error:
                self.problem = one_line(error)
        self.parts = []
        if self.problem:
            rank_zero_warn(f"there will be no report, because the predictions cannot be kept: {self.problem}")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def are_classes(x: Array, k: int) -> bool:
    return bool(((x >= 0) & (x < k)).all())


def batch_part(preds: Array, targets: Array, start: int, module: Any) -> dict[str, Array]:
    """Return what is kept of a batch whose first sample has the position ``start`` in the test split."""
    aligned = preds.ndim and targets.ndim and len(preds) == len(targets)
    require(aligned, f"preds {preds.shape} and targets {targets.shape} must have an entry for each sample")
    require(np.isfinite(preds).all(), "predictions are not finite")
    index = start + np.arange(len(targets))
    if kind_of(preds, targets) != "masks":
        return {"index": index, "preds": preds, "targets": targets, "loss": np.zeros(len(targets))}
    k: Any = getattr(module, "num_classes", None)
    require(isinstance(k, int), f"of masks, {type(module).__name__} must have num_classes")
    require(are_classes(preds, k) and are_classes(targets, k), f"classes of masks must be in [0, {k})")
    values, loss = score("masks", preds, targets, k)
    worst = np.argsort(-loss, kind="stable")[:WORST]  # masks are too large to keep all
    kept = {name: each[worst].astype(np.uint8) for name, each in (("preds", preds), ("targets", targets))}
    return {"index": index, "values": values, "loss": loss, "kept": index[worst], **kept}


def first_position(trainer: Any, batch_idx: int, seen: int) -> int:
    """Return the position in the test split of the first sample of a batch."""
    if trainer.world_size == 1:
        return seen
    sampler: Any = getattr(trainer.test_dataloaders, "sampler", None)
    require(hasattr(sampler, "place"), f"{type(sampler).__name__} does not tell which samples a process gets")
    share, longer = divmod(sampler.num_samples, sampler.num_batches)
    return batch_idx * share + min(batch_idx, longer) + sampler.place(batch_idx)[0]


def complete(found: dict[str, Array], trainer: Any, task: Any) -> Outputs | None:
    """Return the outputs in the order of the test split, with names, traits and pictures of the data."""
    order, preds, targets = np.argsort(found["index"], kind="stable"), found["preds"], found["targets"]
    kind: str | None
    if masks := "values" in found:
        kind, values, loss = "masks", found["values"][order], found["loss"][order]
    else:
        preds, targets = preds[order], targets[order]
        if (kind := kind_of(preds, targets)) is None:
            vectors = (preds.ndim, targets.ndim, targets.dtype.kind) in ((2, 1, "i"), (2, 1, "u"))
            require(not vectors, "preds (N, K) of classes must be probabilities, or embeddings of length 1")
            return None
        k = preds.shape[-1]
        require(kind != "classes" or are_classes(targets, k), f"classes must be in [0, {k})")
        values, loss = score(kind, preds, targets, 0)
        require(not np.isnan(values).all(), "no two samples are of one class")
    o = Outputs(kind, values, loss, preds, targets, "", shown=np.argsort(-loss, kind="stable")[:WORST])
    if masks:
        at = {position: i for i, position in enumerate(found["kept"].tolist())}
        rows = [at[position] for position in o.shown.tolist()]
        o.pictures, o.preds, o.targets = {"mask": preds[rows], "true": targets[rows]}, preds[:0], targets[:0]
    data = trainer.datamodule
    if isinstance(data, ImageData) and "test" in data.splits:
        add_data(o, data, task)
    own = values[..., 0] + values[..., 2] if masks else targets  # pixels of each class
    content = repr([o.kind, o.names]).encode() + np.ascontiguousarray(own).tobytes() + o.test_set.encode()
    o.test_set = sha256(content).hexdigest()[:16]
    return o


def add_data(o: Outputs, data: Any, task: Any) -> None:
    """Add class names, file names, and of images their traits and the pictures of the worst."""
    split, n = data.splits["test"], len(o)
    o.class_names = [str(name) for name in data.class_names or ()]
    for name in [name for name in data.splits if name in ("train", "val", "test")]:
        classes = data.splits[name].classes
        o.splits[name] = np.array([len(data.splits[name])]) if classes is None else classes.bincount().cpu().numpy()
    files = data.files.get("test")
    o.names = [str(files[i]) for i in split.index[:n].tolist()] if files else []
    if not data.holds_images:
        return
    read = lambda index: data.splits["test"][torch.as_tensor(index)][1].cpu()  # noqa: E731
    traits = [image_traits(read(index)) for index in torch.arange(n).split(CHUNK)]
    o.traits = {key: np.concatenate([each[key] for each in traits]) for key in traits[0]}
    o.traits |= size_trait([Path(getattr(data, "root", "."), name) for name in o.names])
    images = read(o.shown)
    o.pictures = {"image": images.numpy(), **o.pictures}
    if o.kind == "masks" and isinstance(task, DrawsPredictions):
        for name in ("mask", "true"):
            o.pictures[name] = task.draw_predictions(images, torch.as_tensor(o.pictures[name]))["overlay"].numpy()
    if not o.names and isinstance(split.images, Tensor):  # tells other images with equal targets apart
        o.test_set = sha256(read(torch.arange(n)[:: max(1, n // 32)]).numpy().tobytes()).hexdigest()


def size_trait(files: list[Path]) -> dict[str, Array]:
    """Return the size of image files, the square root of their pixels, as a trait; none if they are all alike.

    Some are read first: where these are alike, the others are not read.
    """
    from PIL import Image  # only image files need it

    def side(file: Path) -> float:
        with Image.open(file) as image:
            return (image.width * image.height) ** 0.5

    with suppress(OSError, ValueError, Image.DecompressionBombError):
        if len({*map(side, files[:: max(1, len(files) // 64)])}) > 1:
            return {"size": np.array([*map(side, files)])}
    return {}


def image_traits(images: Tensor) -> dict[str, Array]:
    """Return brightness, contrast and sharpness of images (N, C, H, W), uint8, all in pixel values [0, 255].

    Contrast is the standard deviation of the gray values, sharpness the mean absolute difference between neighbors.
    """
    gray = images.float().mean(1)
    steps = [(gray.diff(dim=dim)).abs().flatten(1).mean(1) for dim in (1, 2) if gray.shape[dim] > 1]
    sharp = sum(steps) / len(steps) if steps else torch.zeros(len(gray))
    values = {"brightness": gray.mean((1, 2)), "contrast": gray.std((1, 2), correction=0), "sharpness": sharp}
    return {name: torch.as_tensor(value).numpy() for name, value in values.items()}
