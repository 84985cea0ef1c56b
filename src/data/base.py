"""DataModule: load images, split them, and provide normalized and augmented batches."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from src import UserError, require
from src.data.loading.exclude import NamedSamples, kept, leave_out
from src.data.loading.loader import BatchSampler, Sampling, TensorLoader
from src.data.loading.splits import Folds, Samples, digest, move_to_device, split_fold
from src.data.loading.transform import BatchTransform, Normalize


class DataModule(NamedSamples, LightningDataModule):
    """Images of one shape with their targets. Subclasses implement ``load`` and, for classes, set ``class_names``.

    ``fit`` and ``validate`` load only the training set: one fold of it is the validation split, the others are the
    training split, whose mean and std normalize all images. Only ``test`` and ``predict`` load the test set. Class
    names, image shape and normalization are stored in checkpoints.

    Args:
        root: folder of the data.
        batch_size: maximum number of samples per batch and process.
        folds: number of stratified folds of the training set, at least 2; not stratified unless targets are classes;
            ``groups``: a fold for each group, in the order of their names (leave one group out).
        fold: index of the fold to validate on, in [0, folds).
        split_seed: seed of the folds, independent of the training seed.
        augment: transforms of a training batch (N, C, H, W) with uint8 pixels, applied in this order.
        mix: applied next, to normalized images and one-hot targets: ``src.data.MixUp`` or ``CutMix``; needs classes.
        sampling: ``shuffled``: each sample once per epoch; ``weighted``: each class equally likely; ``balanced``: each
            class equally often in each batch; the last two need classes.
        classes_per_batch: with ``balanced``, the number of classes in a batch, drawn for each; by default all.
        normalize: {mean: [...], std: [...]} of each channel, in pixel values [0, 255], as pretrained weights expect it;
            by default those of the training split.
        exclude: a file of names to leave out of any split, one a line: a file below ``root``, or ``test/123``, split
            and index in the data set. ``check --fix`` writes it. The folds stay the same.
        groups: a CSV file with the columns ``name``, as in ``exclude``, and ``group``, such as the patient of an image:
            no group is in both the training and the validation split.
    """

    class_names: list[str] | None = None  # None unless targets are classes
    holds_images = True
    shrinks = False  # whether batch_size and folds that are too large for the data are reduced instead of refused
    seed: int = 0  # of training: order of samples, augmentation, dropout; set by src.config.parser
    tests: bool = True  # whether fit ends with a test; set by src.config.parser

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        folds: Folds = 10,
        fold: int = 0,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        sampling: Sampling = "shuffled",
        classes_per_batch: int | None = None,
        normalize: dict[str, list[float]] | None = None,
        exclude: str | None = None,
        groups: str | None = None,
    ) -> None:
        super().__init__()
        require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
        require(folds == "groups" or folds >= 2, f"folds must be at least 2, got {folds}")
        require(fold >= 0 and (folds == "groups" or fold < folds), f"fold must be in [0, {folds}), got {fold}")
        require(folds != "groups" or groups, "folds=groups needs data.groups, which says what belongs to which group")
        self.root, self.batch_size = Path(root).expanduser(), batch_size
        few = classes_per_batch is None or (sampling == "balanced" and classes_per_batch >= 2)
        require(few, f"classes_per_batch needs sampling=balanced and at least 2 classes, got {classes_per_batch}")
        self.augment, self.mix, self.sampling, self.classes_per_batch = augment or [], mix, sampling, classes_per_batch
        self.folds, self.fold, self.split_seed, self.groups = folds, fold, split_seed, groups
        self.num_folds = 0  # known once the data is split; 0 with a separate validation set
        self.splits: dict[str, Samples] = {}  # keys: train, val, test, predict
        self.files: dict[str, list[str]] = {}  # file name of each image in a split; empty if not read from image files
        self.exclude = None if exclude is None else Path(exclude).expanduser()
        self.channel_stats = normalize or {}
        self.normalize: Normalize | None = None
        self.shape: tuple[int, ...] = ()  # of one image, (C, H, W)
        self.augmented_shape: tuple[int, ...] = ()  # of the smallest augmented training image, once the data is split
        self.notes: list[tuple[str, str]] = []  # to print when training starts
        self.scale: tuple[float, float] | None = None  # of deep pixels; see ``image_files.decode``
        self.split_hash = self.test_hash = ""  # identify the training and validation split, and a held-out test split

    def load(self, train: bool) -> tuple[Any, Tensor | None]:  # noqa: ARG002
        """Return images (N, C, H, W), uint8, of the training or the test set, and their targets.

        Targets are classes (N,), integers; numbers (N,) or (N, D), floats; masks (N, H, W); or None.
        """
        raise UserError(f"{type(self).__name__} is no dataset: it must define load(train) -> images, targets")

    def load_val(self) -> tuple[Any, Tensor | None] | None:
        """Return a separate validation set like ``load``, or None to validate on a fold of the training set."""
        return None

    @property
    def smallest_shape(self) -> tuple[int, ...]:
        """Shape of the smallest image that a net gets, (C, H, W)."""
        return self.augmented_shape or self.shape

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.splits:
            self.split()
        if stage in ("test", "predict") and stage not in self.splits:
            images, targets = self.load(train=False)
            index = kept(self, "test", len(images)) if self.exclude else torch.arange(len(images))
            self.splits |= {"test": Samples(images, targets, index), "predict": Samples(images, None, index)}

    def split(self) -> None:
        """Load the training set, split off validation data, and compute the normalization."""
        images, targets = self.load(train=True)
        if (separate := self.load_val()) is None:
            train, val = split_fold(self, images, targets)
        else:
            require(self.groups is None, "data.groups divides folds, but there is a separate validation set: remove it")
            train, val = Samples(images, targets), Samples(*separate)
        if self.exclude:
            leave_out(self, train, val)
        self.enforce_limit("batch_size", len(train), "number of training samples")
        self.splits |= {"train": train, "val": val}
        needs = "needs classes as targets, integers (N,)"
        mixable = self.mix is None or (train.classes is not None and self.class_names)
        require(mixable, f"data.mix {needs}, and class_names: remove data.mix")
        balanced = self.sampling == "shuffled" or train.classes is not None
        require(balanced, f"data.sampling={self.sampling} {needs}: set data.sampling=shuffled")
        self.split_hash = digest([self.files.get(split) for split in ("train", "val")], train, val)
        self.measure(train, val)
        self.normalize = Normalize.of(train, self.channel_stats)
        self.shape = tuple(train.images[torch.zeros(1, dtype=torch.long)].shape[1:])
        self.augmented_shape = self.batch_transform("train").try_out(train)

    def measure(self, train: Samples, val: Samples) -> None:
        """Prepare both splits by what only the training split may tell; by default nothing."""

    def enforce_limit(self, name: str, limit: int, meaning: str) -> None:
        """Refuse a setting above what the data allows, or reduce it with a note if the class ``shrinks``."""
        value = getattr(self, name)
        if self.shrinks and value > limit > 1:
            self.notes += [("note", f"{name} is {limit}, the {meaning}, instead of {value}")]
            setattr(self, name, limit)
        require(getattr(self, name) <= limit, f"{name} must be at most {limit}, the {meaning}, got {value}")

    def describe_splits(self) -> list[tuple[str, str]]:
        """Return names and values to print when training starts."""
        return self.notes

    def train_dataloader(self) -> TensorLoader:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self.loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self.loader("test")

    def predict_dataloader(self) -> TensorLoader:
        return self.loader("predict")

    def loader(self, split: str, shuffle: bool = False) -> TensorLoader:
        """Return the batches of a split for this process, on its device."""
        if self.normalize is None:  # neither trained nor restored from a checkpoint
            self.split()
        trainer, subset = self.trainer, self.splits[split]
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        move_to_device(subset, self.splits.values(), device)
        drawn: Any = (subset.classes, self.sampling, self.classes_per_batch)
        sampler = BatchSampler(len(subset), self.batch_size, shuffle, self.seed, *ranks, *drawn)
        sampler.frozen = getattr(trainer, "overfit_batches", 0) > 0  # the same few batches in each epoch
        return TensorLoader(subset, sampler, self.batch_transform(split), device)

    def batch_transform(self, split: str) -> BatchTransform:
        """Return the normalization of a split; for the training split also its augmentation and mixing."""
        changes = (self.augment, self.mix, len(self.class_names or ())) if split == "train" else ()
        return BatchTransform(self.normalize, *changes)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("class_names", "shape", "split_hash", "test_hash")}
        state["test_hash"] += self.excluded_hash
        state["scale"] = self.scale and [*self.scale]
        scales = {} if self.normalize is None else vars(self.normalize)  # mean, std and more
        return state | {name: values.flatten().tolist() for name, values in scales.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore class names, image shape and normalization of a checkpoint trained on the same split."""
        known = isinstance(state, dict) and {"class_names", "shape", "split_hash", "mean", "std"} <= state.keys()
        require(known, f"the checkpoint lacks the state of {type(self).__name__}: start a new run")
        changed = self.split_hash not in ("", state["split_hash"])
        test_hash = self.test_hash + self.excluded_hash
        if changed or test_hash not in ("", state.get("test_hash", test_hash)):
            raise UserError(
                "the checkpoint was trained on another split of the data: evaluation would include training images; "
                "restore the data, folds, fold, split_seed, test_fraction, exclude and groups, or start a new run"
            )
        self.class_names, self.shape, self.split_hash = state["class_names"], tuple(state["shape"]), state["split_hash"]
        self.scale = state.get("scale") and tuple(state["scale"])
        self.normalize = Normalize(state["mean"], state["std"], state.get("typical", ()))
