"""Which samples form each batch, and the loader of batches that depend only on seed, epoch and position."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from multiprocessing.util import get_temp_dir
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from src import UserError, require
from src.data.loading.shared_draws import SharedDraws
from src.data.loading.splits import Samples, copy_to
from src.data.loading.workers import Packed, ignore_group_signals

Sampling = Literal["shuffled", "weighted", "balanced"]
Transform = Callable[[Tensor, Tensor | None, Tensor, int], tuple[Tensor, ...]]
NOTHING: AbstractContextManager[None] = nullcontext()
SETTINGS = ("num_samples", "num_batches", "seed", "sampling", "classes_per_batch")  # they define the batches


class BatchSampler(Sampler):
    """Yield the sample positions (B,) of each batch for one epoch and process; a function of seed and epoch only.

    An epoch is split evenly: 1,000 samples with batch size 300 make 4 batches of 250.

    Args:
        batch_size: maximum number of samples per batch and process.
        shuffle: draw a new order for each epoch.
        classes: class of each sample (N,); needed unless ``sampling`` is ``shuffled``.
        classes_per_batch: with ``balanced``, how many classes a batch has, drawn for each; None for all.
        sampling: ``shuffled``: each sample once per epoch; ``weighted``: each class equally likely, which repeats
            samples of small classes and omits some of large ones; ``balanced``: also equal class counts in each batch,
            to within two.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        classes: Tensor | None = None,
        sampling: Sampling = "shuffled",
        classes_per_batch: int | None = None,
    ) -> None:
        kinds = get_args(Sampling)
        require(sampling in kinds, f"sampling must be one of {', '.join(kinds)}, got {sampling}")
        self.num_samples, self.shuffle, self.seed = num_samples, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.sampling, self.classes_per_batch = sampling, classes_per_batch
        num_batches = -(-num_samples // (batch_size * world_size))
        self.num_batches = min(num_batches, max(1, num_samples // world_size))  # no empty batch if there are enough
        self.members: list[Tensor] = []  # positions of each class
        if classes is not None and shuffle and sampling != "shuffled":
            self.members = [(classes == k).nonzero()[:, 0] for k in classes.unique()]
        self.epoch = self.start = 0
        self.as_arrays = False  # True: for workers, to which each tensor would take a file descriptor
        self.frozen = False  # True: repeat the order of epoch 0
        self.windows: Any = None  # WindowedOrder of samples in shards, instead of a shuffled one

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def seed_epoch(self) -> int:
        """Epoch whose random numbers are drawn."""
        return 0 if self.frozen else self.epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches():
            own = batch if self.world_size == 1 else batch.tensor_split(self.world_size)[self.rank]
            yield own.numpy() if self.as_arrays else own  # type: ignore[misc]

    def batches(self) -> Iterable[Tensor]:
        """Return the sample positions of the batches of all processes, from batch ``start`` on."""
        if self.windows:
            return self.windows.batches(self.seed, self.seed_epoch, self.num_batches, self.start)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.seed_epoch))
        if not self.shuffle:
            order = torch.arange(self.num_samples)
        elif self.members:
            order = self.class_balanced_order(generator)
        else:
            order = torch.randperm(self.num_samples, generator=generator)
        return order.tensor_split(self.num_batches)[self.start :]

    def place(self, position: int) -> tuple[int, int, int]:
        """Return start and number of this process's samples in the batch of all processes, and the length of that."""
        total = self.num_samples // self.num_batches + (position < self.num_samples % self.num_batches)
        count, extra = divmod(total, self.world_size)
        return self.rank * count + min(self.rank, extra), count + (self.rank < extra), total

    def class_balanced_order(self, generator: torch.Generator) -> Tensor:
        """Return positions (N,) with equally likely classes, drawn independently or, if balanced, in rounds."""
        n, num_classes = self.num_samples, len(self.members)
        if self.classes_per_batch:
            batches = torch.arange(n).tensor_split(self.num_batches)
            few = [torch.randperm(num_classes, generator=generator)[: self.classes_per_batch] for _ in batches]
            drawn = torch.cat([k.repeat(len(batch))[: len(batch)] for k, batch in zip(few, batches, strict=True)])
        elif self.sampling == "balanced":
            drawn = torch.rand(-(-n // num_classes), num_classes, generator=generator).argsort(1).flatten()[:n]
        else:
            drawn = torch.randint(num_classes, (n,), generator=generator)
        order = torch.empty(n, dtype=torch.long)
        for k, members in enumerate(self.members):
            places = (drawn == k).nonzero()[:, 0]
            passes = -(-len(places) // len(members))  # each pass uses every sample of the class once
            shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
            order[places] = torch.cat([*shuffled, places[:0]])[: len(places)]
        return order


def derive_seed(*key: int) -> int:
    """Hash integers to a 63-bit seed, the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


class TensorLoader:
    """Iterate over batches on ``device``: images (B, C, H, W) with their targets, or images only without targets.

    Before each training batch, torch's generators are seeded from (seed, epoch, batch, rank), so augmentation and
    dropout depend only on the position, like the order of samples. Several processes augment a batch like one. The
    position is therefore the only state, and an interrupted epoch resumes bit for bit. ``samples.images.num_workers``
    processes, if any, read ahead.

    ``transform`` is called with images, targets or None, dataset indices (B,) and the epoch; it returns the batch.
    """

    def __init__(
        self, samples: Samples, batch_sampler: BatchSampler, transform: Transform, device: torch.device | str = "cpu"
    ) -> None:
        self.samples, self.transform, self.device, self.position = samples, transform, torch.device(device), 0
        self.sampler = batch_sampler  # Lightning sets its epoch under this name
        self.batch_sampler = None  # Lightning reads it
        self.resume_state: dict[str, Any] | None = None
        self.workers: DataLoader | None = None
        if num_workers := getattr(samples.images, "num_workers", 0):
            get_temp_dir()  # created here, because a killed worker would leave its own behind
            settings: dict[str, Any] = {"collate_fn": Packed.of, "worker_init_fn": ignore_group_signals}
            settings |= {"persistent_workers": True, "pin_memory": self.device.type == "cuda", "sampler": batch_sampler}
            batch_sampler.as_arrays = True
            self.workers = DataLoader(samples, None, num_workers=num_workers, **settings)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        state, self.resume_state, self.position = self.resume_state, None, 0
        if state is not None and state["epoch"] == self.sampler.epoch:
            self.check_same_batches(state)
            self.position = state["position"]
        self.sampler.start = self.position
        for index, images, *targets in self.fetch():
            with self.seed_batch() if self.sampler.shuffle else NOTHING:
                moved = copy_to(targets[0], self.device) if targets else None
                batch = self.transform(copy_to(images, self.device), moved, index, self.sampler.seed_epoch)
            self.position += 1
            yield batch if targets else batch[0]

    def fetch(self) -> Iterator[Any]:
        try:
            if self.workers is None:
                yield from map(self.samples.__getitem__, self.sampler)
            else:
                yield from (batch.unpack() if isinstance(batch, Packed) else batch for batch in self.workers)
        except UserError as error:  # a worker's error has its traceback in the text
            raise UserError(str(error).splitlines()[-1].removeprefix("src.UserError: ")) from None

    def seed_batch(self) -> AbstractContextManager[Any]:
        """Seed torch's generators; with several processes, return a context in which they augment like one."""
        key = (self.sampler.seed, self.sampler.seed_epoch, self.position)
        seed = derive_seed(*key, self.sampler.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed spends 75 us on absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if self.sampler.world_size == 1:
            return NOTHING
        return SharedDraws(derive_seed(*key, 0), *self.sampler.place(self.position))

    def state_dict(self) -> dict[str, Any]:
        settings = {name: getattr(self.sampler, name) for name in SETTINGS}
        return {"epoch": self.sampler.epoch, "position": self.position, **settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the stored position; ``__iter__`` checks that the epoch consists of the same batches."""
        self.resume_state = state if state["position"] not in (0, state["num_batches"]) else None

    def check_same_batches(self, state: dict[str, Any]) -> None:
        now = self.state_dict()
        changed = [f"{key} was {state[key]}, is {now[key]}" for key in SETTINGS if state.get(key, now[key]) != now[key]]
        details = f"{', '.join(changed)}; restore the setting"
        require(not changed, f"cannot resume in the middle of epoch {state['epoch']}: {details}")
