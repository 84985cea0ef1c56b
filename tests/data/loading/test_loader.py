"""TensorLoader: each sample once per epoch; order and draws depend only on seed, epoch and position."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from src import UserError
from src.data.loading.image_files import ImageFiles
from src.data.loading.loader import BatchSampler, TensorLoader
from src.data.loading.splits import Samples


def make(num_samples: int = 50, batch_size: int = 8, **settings) -> TensorLoader:
    numbers = torch.arange(num_samples)
    samples = Samples(numbers.view(-1, 1, 1, 1).float(), numbers, numbers)
    sampler = BatchSampler(num_samples, batch_size, **{"shuffle": True, **settings})
    return TensorLoader(samples, sampler, add_noise)


def add_noise(images: Tensor, *targets_index_epoch: Any) -> tuple[Tensor, ...]:
    return images + torch.rand(images.shape), targets_index_epoch[0]


def batches(loader: TensorLoader, epoch: int = 0) -> list[tuple[Tensor, ...]]:
    """Return images and targets of an epoch, and a random draw made after each batch."""
    loader.sampler.set_epoch(epoch)
    return [(*batch, torch.rand(3)) for batch in loader]


def same(first: list[tuple[Tensor, ...]], second: list[tuple[Tensor, ...]]) -> bool:
    return len(first) == len(second) and all(
        a.equal(b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size"),
    [(1, 1, 1), (10, 3, 1), (10, 20, 1), (97, 16, 1), (97, 16, 2), (97, 16, 3), (33, 4, 8), (7, 2, 7), (5, 1, 2)],
)
def test_every_sample_is_used_once_per_epoch(num_samples, batch_size, world_size, shuffle):
    ranks = [
        make(num_samples, batch_size, rank=rank, world_size=world_size, shuffle=shuffle) for rank in range(world_size)
    ]
    targets = [[targets for _, targets, _ in batches(rank)] for rank in ranks]
    assert sorted(torch.cat([t for rank in targets for t in rank]).tolist()) == list(range(num_samples))
    assert [len(rank) for rank in targets] == [len(rank) for rank in ranks] == [len(ranks[0])] * world_size
    sizes = [len(t) for rank in targets for t in rank]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size or batch_size == 1  # two samples where one each is impossible


def test_images_stay_with_their_targets():
    images, targets, _ = batches(make())[0]
    assert images.floor().flatten().equal(targets.float())


def test_order_and_draws_depend_only_on_seed_and_epoch():
    first = batches(make(seed=1), epoch=3)
    torch.manual_seed(99)
    assert same(first, batches(make(seed=1), epoch=3))
    for other in (batches(make(seed=2), epoch=3), batches(make(seed=1), epoch=4)):
        assert not first[0][1].equal(other[0][1])
        assert not first[0][2].equal(other[0][2])


def test_draws_differ_between_batches_and_ranks():
    draws = [draw for rank in (0, 1) for *_, draw in batches(make(rank=rank, world_size=2))]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws) == 8


def test_without_shuffling_order_and_generator_are_untouched():
    torch.manual_seed(0)
    first = batches(make(shuffle=False))
    assert torch.cat([targets for _, targets, _ in first]).equal(torch.arange(50))
    assert not same(first, batches(make(shuffle=False)))  # the generator has advanced


@pytest.mark.parametrize("position", [0, 1, 3, 6])
def test_a_resumed_epoch_is_equal_bit_for_bit(position):
    complete, following = batches(make(), epoch=2), batches(make(), epoch=3)
    stopped = make()
    stopped.sampler.set_epoch(2)
    iterator = iter(stopped)
    for _ in range(position):
        next(iterator)
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    torch.manual_seed(99)
    assert same(batches(resumed, epoch=2), complete[position:])
    assert same(batches(resumed, epoch=2), complete)
    assert same(batches(resumed, epoch=3), following)


def test_a_position_counts_only_in_its_own_epoch():
    stopped, other = make(), make()
    next(iter(stopped))
    other.load_state_dict(stopped.state_dict())
    assert same(batches(other, epoch=1), batches(make(), epoch=1))


def test_the_end_of_an_epoch_resumes_with_any_setting():
    ended, other = make(), make(num_samples=20, seed=5)
    batches(ended)
    other.load_state_dict(ended.state_dict())
    assert same(batches(other, epoch=1), batches(make(num_samples=20, seed=5), epoch=1))


@pytest.mark.parametrize("change", [{"num_samples": 51}, {"seed": 1}, {"batch_size": 9}])
def test_a_position_among_other_batches_is_refused(change):
    stopped = make()
    next(iter(stopped))
    other = make(**change)
    other.load_state_dict(stopped.state_dict())
    with pytest.raises(UserError, match=r"cannot resume in the middle of epoch 0: .* was .*, is "):
        next(iter(other))


def write_images(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("RGB", (2, 2), (i, 2 * i, 3 * i)).save(path)
    return paths


def test_worker_processes_give_the_same_batches_as_memory(tmp_path):
    files = ImageFiles(write_images(tmp_path, 20), (3, 2, 2), num_workers=2)
    everything = torch.arange(20)
    in_memory, on_access = (
        TensorLoader(Samples(images, everything, everything), BatchSampler(20, 6, shuffle=True), add_noise)
        for images in (files[everything], files)
    )
    for epoch in (0, 1):
        assert same(batches(in_memory, epoch), batches(on_access, epoch))


def test_a_worker_names_a_bad_file_in_one_line(tmp_path):
    paths = write_images(tmp_path, 2)
    paths[1].write_text("not an image", encoding="utf-8")
    samples = Samples(ImageFiles(paths, (3, 2, 2), num_workers=1), None, torch.arange(2))
    with pytest.raises(UserError, match=r"1\.png") as caught:
        list(TensorLoader(samples, BatchSampler(2, 2), add_noise))
    assert "\n" not in str(caught.value)


SIGNALED = """
import os, torch
from multiprocessing import active_children
from src.data.loading.loader import BatchSampler
from src.data.loading.loader import TensorLoader
from src.data.loading.splits import Samples

def pair(images, *rest):
    return images, rest[0]

samples = Samples(torch.rand(6, 1, 2, 2), torch.arange(6), torch.arange(6))
samples.images.num_workers = 2
loader = TensorLoader(samples, BatchSampler(6, 2), pair)
iterator = iter(loader)
next(iterator), next(iterator)  # both workers have started
for worker in active_children():
    os.system(f"kill -TERM {worker.pid}; kill -INT {worker.pid}; kill -HUP {worker.pid}; kill -USR1 {worker.pid}")
print(2 + len(list(iterator)), len(active_children()))
iterator = iter(loader)
next(iterator)
"""


@pytest.mark.heavy
def test_workers_survive_signals_but_not_their_parent():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", SIGNALED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "3 2\n", "")


def test_without_targets_a_batch_is_images_only():
    numbers = torch.arange(6)
    loader = TensorLoader(Samples(numbers, None, numbers[3:]), BatchSampler(3, 2), lambda images, *_: (images,))
    assert [batch.tolist() for batch in loader] == [[3, 4], [5]]


def test_an_overfit_run_resumes_at_the_first_batch_of_the_next_epoch():
    samples, sampler = Samples(torch.arange(40).view(40, 1, 1, 1), None), BatchSampler(40, 4, shuffle=True)
    sampler.frozen = True
    loader = TensorLoader(samples, sampler, lambda images, *_: (images,))
    sampler.set_epoch(3)
    batches = [batch.flatten().tolist() for batch, _ in zip(loader, range(5), strict=False)]  # overfit_batches=5
    state = loader.state_dict()
    sampler.set_epoch(4)
    loader.load_state_dict(state)
    assert [batch.flatten().tolist() for batch, _ in zip(loader, range(5), strict=False)] == batches
