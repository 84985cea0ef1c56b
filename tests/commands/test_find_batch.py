"""find_batch: the sizes that fit, the smallest that is nearly as fast as the fastest, and nothing is changed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from src.cli import main
from src.commands import find_batch
from src.commands.find_batch import Sizes
from tests.conftest import refused

GREEDY = ["find_batch", "--config=configs/digits.yaml", "--model.net=tests.spoilers.Greedy"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take one step of each size, as long as its samples by a clock that no machine slows down; return the sizes."""
    seen: list[int] = []

    def measure(trial: Any, batch: Any) -> tuple[float, float]:
        trial.step(batch)
        seen.append(len(batch[0]))
        return (64 + seen[-1]) / 1e4, 0.0

    monkeypatch.setattr(find_batch, "measure", measure)
    return seen


def test_sizes_double_up_to_the_number_of_samples(batches: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    x = main([*GREEDY, "--trainer.accelerator=cpu"])
    printed = capsys.readouterr().out
    assert batches == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert "1,024, because there are 1,293 training samples" in printed
    assert "to use it   --data.batch_size=512" in printed  # 8,889 of 9,412 samples/s; 256 have 8,000
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["configs", "find_batch.png"]
    assert x.data.batch_size == 64


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_largest_that_fits_is_found_also_with_micro_batches(
    where: str, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--model.net.max_images=100", f"--model.net.where={where}"]
    main([*GREEDY, *limits, "--config=configs/presets/micro_batches.yaml"])
    printed = capsys.readouterr().out
    assert batches == [8, 16, 32, 64]
    assert "MicroBatches is off here" in printed
    assert "64, because 128 samples do not fit into memory" in printed


def test_a_batch_that_needs_more_memory_than_is_free_is_not_tried(
    batches: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(find_batch, "memory_by_batch", lambda _: (2**20, 2**20))
    monkeypatch.setattr(find_batch, "free_memory", lambda _: 40 * 2**20)
    main(GREEDY)
    assert batches == [8, 16, 32]
    assert "32, because 64 samples need about 65 MiB" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
@pytest.mark.parametrize(("model", "typed"), [("Gan", "--data.batch_size=32"), ("OwnLoaders", "set the batch size of")])
def test_modules_of_other_projects_are_measured(
    model: str, typed: str, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data=tests.own_code.Loaders"] if model == "Gan" else []
    main(["find_batch", f"--model=tests.own_code.{model}", *data, "--trainer.max_epochs=1"])
    assert batches == [8, 16, 32]
    assert typed in capsys.readouterr().out
    assert imread("find_batch.png").shape[1] > 500


def test_steps_are_really_measured() -> None:
    made: list[Sizes] = []
    knee = Sizes.knee
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "knee", lambda each: made.append(each) or knee(each))
        main([*GREEDY, "--trainer.limit_train_batches=2", "--model.net.max_images=40"])
    assert [*made[0].seconds] == [8, 16, 32]
    assert all(0 < each < 60 for each in made[0].seconds.values())
    assert 0 < made[0].memory[8] < made[0].memory[16]


def test_nothing_that_fits_and_several_processes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "8 samples do not fit" in refused(capsys, *GREEDY, "--model.net.max_images=1")
    assert "find_batch needs one process and device" in refused(capsys, *GREEDY, "--trainer.devices=2")


def test_the_gpu_measures_its_own_memory(gpu: None, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    main(["find_batch", "--config=configs/digits.yaml", "--trainer.accelerator=gpu"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
    assert int(rows[-1][-1].replace(",", "")) > int(rows[0][-1].replace(",", ""))
    assert torch.cuda.max_memory_allocated() > 0
