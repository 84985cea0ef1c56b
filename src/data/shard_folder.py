"""ShardFolder: shards that the command ``shard`` has written, local or remote."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from src import require
from src.data.base import DataModule
from src.data.folder import check_same_classes
from src.data.loading.loader import TensorLoader
from src.data.loading.report import split_table
from src.data.loading.shards import ShardFiles, Store


class ShardFolder(DataModule):
    """Shards that ``python -m src.cli shard`` has written, in a folder or at an address.

    Validation images are those of shards of their own, or a fold of the training set, the same as of the data that were
    written. Only the shards of a window are open at a time. Every file that arrives from an address is checked; the
    shards in a folder are checked sample by sample, as they are read.

    Args:
        root: folder with ``manifest.json``, or an address that fsspec knows, such as s3://bucket/folder.
        size: height and width of the images; by default those of the data that were written.
        num_workers: number of processes that read ahead; by default one per core, at most 8.
        cache: folder for what is downloaded.
        cache_gb: the most that downloaded shards may take there, in GB; those used last stay. By default all stay.
        sampling: ``windowed``: each sample once per epoch, from a window of shards; for others see
            ``src.data.DataModule``; they read all shards at any time.
        window: number of shards that are open at a time; several processes share them if their number divides it.
        kwargs: see ``src.data.DataModule``.
    """

    shrinks = True

    def __init__(
        self,
        root: str = "data",
        size: int | None = None,
        num_workers: int | None = None,
        cache: str = "data/cache",
        cache_gb: float | None = None,
        sampling: Literal["windowed", "shuffled", "weighted", "balanced"] = "windowed",
        window: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, sampling="shuffled" if sampling == "windowed" else sampling, **kwargs)
        require(size is None or size >= 1, f"size must be at least 1, got {size}")
        require(num_workers is None or num_workers >= 0, f"num_workers must be at least 0, got {num_workers}")
        require(window >= 1, f"window must be at least 1, got {window}")
        require(cache_gb is None or cache_gb > 0, f"cache_gb must be more than 0, got {cache_gb}")
        self.address, self.size, self.num_workers = root, size, num_workers
        self.cache, self.limit = Path(cache).expanduser(), cache_gb and cache_gb * 1e9
        self.window = window if sampling == "windowed" else None
        self.opened: Store | None = None

    @property
    def store(self) -> Store:
        self.opened = self.opened or Store(self.address, self.cache, self.limit)
        return self.opened

    @property
    def num_classes(self) -> int:
        require(self.store.manifest["classes"], f"the targets of {self.address} are no classes: set model.num_classes")
        return len(self.store.manifest["classes"])

    def load(self, train: bool) -> tuple[Any, Tensor | None]:
        return self.read("train" if train else "test")

    def load_val(self) -> tuple[Any, Tensor | None] | None:
        return self.read("val") if "val" in self.store.manifest["splits"] else None

    def read(self, split: str) -> tuple[ShardFiles, Tensor | None]:
        manifest = self.store.manifest
        self.check_classes(self.class_names or manifest["classes"])
        self.class_names, self.scale = manifest["classes"], manifest["scale"] and tuple(manifest["scale"])
        shards = manifest["splits"].get(split, [])
        largest = max((self.store.files[name]["bytes"] for name in shards), default=0)
        count = min(self.window or len(shards), len(shards)) + 1  # one may be on its way
        small = self.store.remote and self.limit is not None and self.limit < count * largest
        require(not small, f"cache_gb must be at least {count * largest / 1e9:.6f}, for {count} shards of the window")
        index, targets = self.store.index(split)
        channels, height, width = manifest["shape"]
        fixed = targets is None or targets.ndim < 3 or self.size is None or (height, width) == (self.size, self.size)
        require(fixed, f"size must be {height}, as of the masks in {self.address}, got {self.size}")
        shape = (channels, self.size or height, self.size or width)
        self.files[split] = [name.decode(errors="surrogateescape") for name in index["name"].tolist()]
        return ShardFiles(self.store, split, index, shape, self.num_workers), targets

    def loader(self, split: str, shuffle: bool = False) -> TensorLoader:
        loader = super().loader(split, shuffle)
        if shuffle and self.window:
            samples = self.splits[split]
            loader.sampler.windows = samples.images.order(samples.index, self.window)
            loader.sampler.sampling = f"windowed by {self.window}"  # type: ignore[assignment]  # which a resumed run compares
        return loader

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.check_classes(state["class_names"])
        super().load_state_dict(state)

    def check_classes(self, expected: list[str] | None) -> None:
        text = f"{self.address} must have the checkpoint's classes"
        check_same_classes(self.store.manifest["classes"] or [], expected or [], text)

    def describe_splits(self) -> list[tuple[str, str]]:
        """Return the number of images per class and split, and of shards."""
        rows = [("shards", f"{len(self.store.files):,} files in {self.address}")]
        if self.class_names:
            known = {name: each for name, each in self.splits.items() if name != "predict"}
            counted: Any = {name: (each.index, each.classes) for name, each in known.items()}
            rows += split_table(counted, self.class_names)
        return rows + super().describe_splits()
