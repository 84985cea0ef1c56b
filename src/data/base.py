"""DataModule: load images, split them, normalise and augment them, hand out batches."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from src import UserError
from src.data.files import Files
from src.data.loader import Samples, TensorLoader


class DataModule(LightningDataModule):
    """Images of one shape and their classes. Subclasses set ``class_names`` and implement ``load``.

    ``fit`` and ``validate`` see the training set alone: one stratified fold of it is the validation set; the others
    are trained on, and their mean and deviation normalise every image. ``test`` alone loads the test set. Class names,
    image shape and normalisation travel in the checkpoint, so that ``predict`` needs no data set.

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
        self.split_hash = ""

    def load(self, train: bool) -> tuple[Any, Tensor]:
        """Return images (N, C, H, W), uint8, of the training or the test set and their classes (N,), int64."""
        raise NotImplementedError

    def load_val(self) -> tuple[Any, Tensor] | None:
        """Return the validation set where it is not to be a fold of the training set."""
        return None

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.parts:
            self.split()
        if stage in ("test", "predict") and stage not in self.parts:
            images, targets = self.load(train=False)
            self.parts["test"] = Samples(images, targets, torch.arange(len(targets)))
            self.parts["predict"] = Samples(images, None, torch.arange(len(targets)))

    def split(self) -> None:
        """Load the training set, divide it into training and validation part, and measure its pixels."""
        images, targets = self.load(train=True)
        own_val = self.load_val()
        if own_val is None:
            train, val = fold_indices(targets, self.folds, self.fold, self.split_seed)
            own_val = images, targets
        else:
            train, val = torch.arange(len(targets)), torch.arange(len(own_val[1]))
        if len(train) < self.batch_size:
            raise UserError(f"batch_size must be at most {len(train)}, the training samples, got {self.batch_size}")
        self.parts |= {"train": Samples(images, targets, train), "val": Samples(*own_val, val)}
        self.split_hash = sha256(train.numpy().tobytes() + val.numpy().tobytes()).hexdigest()[:16]
        self.shape = tuple(images[torch.zeros(1, dtype=torch.long)].shape[1:])
        self.normalize = Normalize(*pixel_statistics(images, train))

    def predict_files(self, paths: list[Path]) -> None:
        """Let ``predict`` read these images, prepared like those of the run, instead of the test set."""
        self.parts["predict"] = Samples(Files(paths, self.shape), None, torch.arange(len(paths)))

    @property
    def predicts_files(self) -> bool:
        """Whether this is a prediction of image files, which needs no data set."""
        return self.trainer is not None and self.trainer.state.fn == "predict" and "predict" in self.parts

    def predict_names(self) -> list[str]:
        """Return what the predicted images are called: their files, or their place in the test set."""
        images = self.parts["predict"].images
        return (
            [str(path) for path in images.paths]
            if isinstance(images, Files)
            else [f"test/{i}" for i in range(len(images))]
        )

    def train_dataloader(self) -> TensorLoader:
        fixed = self.trainer is not None and self.trainer.overfit_batches > 0  # the same few batches each epoch
        return self.loader("train", shuffle=not fixed)

    def val_dataloader(self) -> TensorLoader:
        return self.loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self.loader("test")

    def predict_dataloader(self) -> TensorLoader:
        images = self.parts["predict"].images
        if isinstance(images, Files):
            images.shape = self.shape  # known once the checkpoint is read
        return self.loader("predict")

    def loader(self, part: str, shuffle: bool = False) -> TensorLoader:
        if self.normalize is None:  # neither trained nor restored from a checkpoint
            self.split()
        samples, trainer = self.parts[part], self.trainer
        place: dict[str, Any] = {}
        if trainer is not None:
            place = {
                "device": trainer.strategy.root_device,
                "rank": trainer.global_rank,
                "world_size": trainer.world_size,
            }
            self.move(samples, trainer.strategy.root_device)
        return TensorLoader(
            samples,
            self.batch_size,
            nn.Sequential(*(self.augment if part == "train" else []), self.normalize),
            shuffle=shuffle,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),  # of seed_everything
            num_workers=min(8, os.cpu_count() or 1) if isinstance(samples.images, Files) else 0,
            **place,
        )

    def move(self, samples: Samples, device: torch.device) -> None:
        """Put images that are in memory on an accelerator that has room for them and as much again."""
        images = samples.images
        if device.type != "cuda" or not isinstance(images, Tensor) or images.device == device:
            return
        if 2 * images.nbytes < torch.cuda.mem_get_info(device)[0]:
            moved = images.to(device)
            for part in self.parts.values():
                part.images = moved if part.images is images else part.images

    def state_dict(self) -> dict[str, Any]:
        state = {"class_names": self.class_names, "shape": list(self.shape), "split_hash": self.split_hash}
        if self.normalize is not None:
            state |= {"mean": self.normalize.mean.flatten().tolist(), "std": self.normalize.std.flatten().tolist()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take class names, image shape and normalisation from a checkpoint.

        Raises:
            UserError: if the checkpoint was trained on images that are now for validation.
        """
        if self.split_hash not in ("", state["split_hash"]):
            raise UserError(
                f"the checkpoint was trained on another split ({state['split_hash']}, now {self.split_hash}): its "
                "validation would include training images; restore data, folds, fold and split_seed, or start a new run"
            )
        self.class_names, self.shape = state["class_names"], tuple(state["shape"])
        self.normalize = Normalize(torch.tensor(state["mean"]), torch.tensor(state["std"]))


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its deviation; both (C,), in units of the pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float().view(-1, 1, 1))
        self.register_buffer("std", std.float().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.to(images.device)
        return (images - self.mean) / self.std


def fold_indices(targets: Tensor, folds: int, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation samples, both sorted, stratified by class."""
    largest = int(targets.bincount().max())
    if folds > largest:
        raise UserError(f"folds must be at most {largest}, the training samples of the largest class, got {folds}")
    folds_of = StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets)
    train, val = list(folds_of)[fold]
    return torch.from_numpy(train), torch.from_numpy(val)


def pixel_statistics(images: Any, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel, (C,): exact for images in memory, else of 5,000 spread evenly."""
    if not isinstance(images, Tensor):
        index = index[:: max(1, len(index) // 5000)]
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for part in index.split(1000):
        pixels = images[part].double()
        count += pixels[:, 0].numel()
        total = total + pixels.sum((0, 2, 3))
        square = square + pixels.square().sum((0, 2, 3))
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=1e-12).sqrt()
