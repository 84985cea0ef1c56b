"""DataModule: load images, split them, hand out normalised and augmented batches."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from src import UserError
from src.data.loader import TensorLoader
from src.data.normalize import Normalize
from src.data.order import Order, Sampling
from src.data.prepare import Prepare
from src.data.samples import Samples, digest, folded, move


class DataModule(LightningDataModule):
    """Images of one shape and their classes. Subclasses set ``class_names`` and implement ``load``.

    ``fit`` and ``validate`` see the training set alone: one stratified fold of it is the validation part; the others
    are trained on, and their mean and deviation normalise every image. ``test`` alone loads the test set. Class names,
    image shape and normalisation travel in the checkpoint.

    Args:
        root: folder of the data.
        batch_size: most samples per batch and process.
        folds: number of stratified folds of the training set, at least 2.
        fold: the fold to validate on, in [0, folds).
        split_seed: seed of the folds, independent of the training seed.
        augment: applied one after the other to each training batch (N, C, H, W) of uint8 pixels.
        mix: then applied to normalised images and one-hot targets: ``src.data.MixUp`` or ``CutMix``.
        sampling: whether an epoch has each sample once, or each class equally often, perhaps in each batch too.
    """

    class_names: list[str]

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        folds: int = 10,
        fold: int = 0,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("folds", folds, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= fold < folds:
            raise ValueError(f"fold must be in [0, {folds}), got {fold}")
        self.root, self.batch_size = Path(root), batch_size
        self.augment, self.mix, self.sampling = augment or [], mix, sampling
        self.folds, self.fold, self.split_seed = folds, fold, split_seed
        self.parts: dict[str, Samples] = {}
        self.normalize: Normalize | None = None
        self.shape: tuple[int, ...] = ()  # of one image: (C, H, W)
        self.files: dict[str, list[str]] = {}  # names of those that each part was read from, if any
        self.split_hash = self.test_hash = ""  # of which samples are in which part, and which are held out of train

    def load(self, train: bool) -> tuple[Any, Tensor]:
        """Return images (N, C, H, W), uint8, of the training or the test set and their classes (N,), int64."""
        raise NotImplementedError

    def load_val(self) -> tuple[Any, Tensor] | None:
        """Return the validation part where it is not to be a fold of the training set."""
        return None

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.parts:
            self.split()
        if stage in ("test", "predict") and stage not in self.parts:
            images, targets = self.load(train=False)
            self.parts |= {"test": Samples(images, targets), "predict": Samples(images, None)}

    def split(self) -> None:
        """Load the training set, divide it into training and validation part, and measure its pixels."""
        images, targets = self.load(train=True)
        val = self.load_val()
        cut = (self.folds, self.fold, self.split_seed)
        parts = folded(images, targets, *cut) if val is None else (Samples(images, targets), Samples(*val))
        if len(parts[0]) < self.batch_size:
            raise UserError(f"batch_size must be at most {len(parts[0])}, the training samples, got {self.batch_size}")
        self.parts["train"], self.parts["val"] = parts
        self.split_hash = digest([self.files.get(part) for part in ("train", "val")], *parts)
        self.normalize = Normalize.of(parts[0])
        self.shape = tuple(images[torch.zeros(1, dtype=torch.long)].shape[1:])
        self.seen_shape = Prepare(self.normalize, self.augment, self.mix, len(self.class_names)).try_out(parts[0])

    def train_dataloader(self) -> TensorLoader:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self.loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self.loader("test")

    def predict_dataloader(self) -> TensorLoader:
        return self.loader("predict")

    def loader(self, part: str, shuffle: bool = False) -> TensorLoader:
        if self.normalize is None:  # neither trained nor restored from a checkpoint
            self.split()
        trainer, samples = self.trainer, self.parts[part]
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        move(samples, self.parts.values(), device)
        changes = (self.augment, self.mix, len(self.class_names)) if part == "train" else ()
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # of seed_everything
        order = Order(len(samples), self.batch_size, shuffle, seed, *ranks, samples.classes, self.sampling)
        order.frozen = getattr(trainer, "overfit_batches", 0) > 0  # the same few batches each epoch
        return TensorLoader(samples, order, Prepare(self.normalize, *changes), device)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("class_names", "shape", "split_hash", "test_hash")}
        return state | ({} if self.normalize is None else self.normalize.as_lists())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take class names, image shape and normalisation from a checkpoint that was trained on the same split."""
        changed = self.split_hash not in ("", state["split_hash"])
        if changed or self.test_hash not in ("", state.get("test_hash", self.test_hash)):
            raise UserError(
                "the checkpoint was trained on another split of the data: it would be judged on images that it was "
                "trained on; restore the data, folds, fold, split_seed and test_share, or start a new run"
            )
        self.class_names, self.shape = state["class_names"], tuple(state["shape"])
        self.normalize = Normalize(state["mean"], state["std"])
