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
from src.data.samples import Samples, digest, folded, on_device


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
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if folds < 2:
            raise ValueError(f"folds must be at least 2, got {folds}")
        if not 0 <= fold < folds:
            raise ValueError(f"fold must be in [0, {folds}), got {fold}")
        self.root, self.batch_size, self.augment = Path(root), batch_size, augment or []
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
        if val is None:
            parts = folded(images, targets, self.folds, self.fold, self.split_seed)
        else:
            parts = Samples(images, targets), Samples(*val)
        if len(parts[0]) < self.batch_size:
            raise UserError(f"batch_size must be at most {len(parts[0])}, the training samples, got {self.batch_size}")
        self.parts["train"], self.parts["val"] = parts
        self.split_hash = digest([self.files.get(part) for part in ("train", "val")], *parts)
        self.normalize = Normalize.of(parts[0])
        self.shape = tuple(images[torch.zeros(1, dtype=torch.long)].shape[1:])

    def train_dataloader(self) -> TensorLoader:
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0  # the same few batches each epoch
        return self.loader("train", shuffle=not overfit)

    def val_dataloader(self) -> TensorLoader:
        return self.loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self.loader("test")

    def predict_dataloader(self) -> TensorLoader:
        return self.loader("predict")

    def loader(self, part: str, shuffle: bool = False) -> TensorLoader:
        if self.normalize is None:  # neither trained nor restored from a checkpoint
            self.split()
        transform = nn.Sequential(*(self.augment if part == "train" else []), self.normalize)  # type: ignore[arg-type]
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # of seed_everything
        trainer, samples = self.trainer, self.parts[part]
        if trainer is None:
            return TensorLoader(samples, self.batch_size, transform, shuffle=shuffle, seed=seed)
        device, ranks = trainer.strategy.root_device, (trainer.global_rank, trainer.world_size)
        moved = on_device(samples.images, device)
        for sharer in [other for other in self.parts.values() if other.images is samples.images]:
            sharer.images = moved
        return TensorLoader(samples, self.batch_size, transform, shuffle, seed, device, *ranks)

    def state_dict(self) -> dict[str, Any]:
        hashes = {"split_hash": self.split_hash, "test_hash": self.test_hash}
        state = {"class_names": self.class_names, "shape": list(self.shape), **hashes}
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
