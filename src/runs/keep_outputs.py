"""KeepOutputs: what a test predicts of each sample, with the pictures of the worst, for ``report``."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from src import require
from src.analysis.outputs import Array, Outputs, kind_of, score
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


def as_array(x: Tensor) -> Array:
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()


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
    order = np.argsort(found["index"], kind="stable")
    masks = "values" in found
    targets = found["targets"] if masks else found["targets"][order]
    preds = found["preds"] if masks else found["preds"][order]
    if (kind := "masks" if masks else kind_of(preds, targets)) is None:
        vectors = (preds.ndim, targets.ndim, targets.dtype.kind) in ((2, 1, "i"), (2, 1, "u"))
        require(not vectors, "preds (N, K) of classes must be probabilities, or embeddings of length 1")
        return None
    k = preds.shape[-1]
    require(kind != "classes" or are_classes(targets, k), f"classes must be in [0, {k})")
    values, loss = (found["values"], found["loss"]) if masks else score(kind, preds, targets, 0)
    values, loss = (values[order], loss[order]) if masks else (values, loss)
    require(not np.isnan(values).all(), "no two samples are of one class")
    shown = np.argsort(-loss, kind="stable")[:WORST]
    data = trainer.datamodule
    known = isinstance(data, ImageData) and "test" in data.splits
    o = Outputs(kind, values, loss, preds, targets, "", shown=shown)
    if masks:
        at = {position: i for i, position in enumerate(found["kept"].tolist())}
        rows = [at[position] for position in shown.tolist()]
        o.pictures, o.preds, o.targets = {"mask": preds[rows], "true": targets[rows]}, preds[:0], targets[:0]
    if known:
        add_data(o, data, task)
    own = targets if not masks else values[..., 0] + values[..., 2]  # pixels of each class
    o.test_set = sha256(
        repr([o.kind, o.names]).encode() + np.ascontiguousarray(own).tobytes() + o.test_set.encode()
    ).hexdigest()[:16]
    return o


def add_data(o: Outputs, data: Any, task: Any) -> None:
    """Add class names, file names, and of images their traits and the pictures of the worst."""
    split, n = data.splits["test"], len(o)
    o.class_names = [str(name) for name in data.class_names or ()]
    o.splits = {name: sizes(each) for name, each in data.splits.items() if name in ("train", "val", "test")}
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


def sizes(split: Any) -> Array:
    """Return the number of samples of each class, (K,), or of all, (1,)."""
    return np.array([len(split)]) if split.classes is None else split.classes.bincount().cpu().numpy()


def size_trait(files: list[Path]) -> dict[str, Array]:
    """Return the size of image files, the square root of their pixels, as a trait; none if they are all alike.

    Some are read first: where these are alike, the others are not read.
    """
    from PIL import Image  # only image files need it

    found: dict[str, Array] = {}
    for some in (files[:: max(1, len(files) // 64)], files):
        sizes = []
        for file in some:
            try:
                with Image.open(file) as image:
                    sizes.append((image.width * image.height) ** 0.5)
            except (OSError, ValueError, Image.DecompressionBombError):
                return {}
        if len({*sizes}) < 2:
            return {}
        found = {"size": np.array(sizes)}
    return found


def image_traits(images: Tensor) -> dict[str, Array]:
    """Return brightness, contrast and sharpness of images (N, C, H, W), uint8, all in pixel values [0, 255].

    Contrast is the standard deviation of the gray values, sharpness the mean absolute difference between neighbors.
    """
    gray = images.float().mean(1)
    steps = [(gray.diff(dim=dim)).abs().flatten(1).mean(1) for dim in (1, 2) if gray.shape[dim] > 1]
    sharp = sum(steps) / len(steps) if steps else torch.zeros(len(gray))
    values = {
        "brightness": gray.flatten(1).mean(1),
        "contrast": gray.flatten(1).std(1, correction=0),
        "sharpness": sharp,
    }
    return {name: torch.as_tensor(value).numpy() for name, value in values.items()}
