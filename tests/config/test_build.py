"""build: the same config gives the same experiment, and the process keeps its state."""

import gc
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from src import UserError
from src.callbacks import EMA
from src.cli import main
from src.config.arguments import Options, read
from src.config.build import Experiment, build
from src.config.parser import parse
from src.data import Digits
from src.engine.checkpoints import BestCheckpoint, LastCheckpoint
from src.engine.launched import random_seed
from src.engine.skip_non_finite import SkipNonFinite
from tests.conftest import FIT, SMALL, process_state, same

LAUNCHER = ("PL_GLOBAL_SEED", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_PORT")
SLURM = ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_ID", "SLURM_STEP_ID")


def built(*args: str, command: str = "fit") -> Experiment:
    return build(parse(read(["fit", *args])[0]), command)


def kinds(x: Experiment) -> set[type]:
    return {type(callback) for callback in x.trainer.callbacks}


def test_two_builds_in_one_process_are_equal_to_the_bit() -> None:
    config = parse(read(["fit", *SMALL, "--trainer.fast_dev_run=3"])[0])
    first, second = build(config), build(config)
    assert first.task is not second.task
    assert same(first.task.state_dict(), second.task.state_dict())
    assert not same(first.task.state_dict(), built(*SMALL, "--seed_everything=1").task.state_dict())
    for x in (first, second):
        x.trainer.fit(x.task, datamodule=x.data)
        assert x.trainer.global_step == 3
    assert same(first.task.state_dict(), second.task.state_dict())


def test_main_twice_in_one_process_gives_equal_results() -> None:
    first, second = (main([*FIT, "--trainer.max_epochs=1"]) for _ in range(2))
    assert same(first.task.state_dict(), second.task.state_dict())
    assert first.trainer.callback_metrics == second.trainer.callback_metrics


def test_build_changes_nothing_in_the_process_but_the_random_state() -> None:
    gc.unfreeze()  # what other tests froze
    before = process_state()
    x = built(*SMALL)
    assert process_state() == before
    drawn = [random.random(), np.random.rand(), float(torch.rand(()))]
    build(x.config)
    assert [random.random(), np.random.rand(), float(torch.rand(()))] == drawn


def test_an_experiment_holds_task_data_trainer_and_config() -> None:
    x = built(*SMALL, "--seed_everything=3")
    assert (x.config.seed_everything, x.data.seed) == (3, 3)
    assert x.trainer.max_epochs == 3
    assert x.best in x.trainer.callbacks
    assert x.progress in x.trainer.callbacks
    assert x.run is None
    assert not x.stored
    assert not Path("runs").exists()
    assert not x.data.splits  # nothing is loaded


def test_only_fit_saves_stops_and_averages() -> None:
    settings = ["--config=configs/presets/ema.yaml", "--config=configs/presets/early_stopping.yaml"]
    settings += ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
    fit = {BestCheckpoint, LastCheckpoint, SkipNonFinite, ModelCheckpoint, EMA}
    assert fit | {EarlyStopping} <= kinds(built(*SMALL, *settings))
    assert not fit & kinds(built(*SMALL, *settings, command="test"))
    assert not {BestCheckpoint, LastCheckpoint} & kinds(built(*SMALL, "--trainer.fast_dev_run=1"))
    assert not {BestCheckpoint, LastCheckpoint} & kinds(built(*SMALL, "--trainer.enable_checkpointing=false"))


def test_max_time_becomes_a_timer_that_stops_after_epochs() -> None:
    x = built(*SMALL, "--trainer.max_time=00:00:10:00")
    (timer,) = [callback for callback in x.trainer.callbacks if isinstance(callback, Timer)]
    assert timer._duration == 600
    assert timer._interval == "epoch"


def test_two_kinds_of_averaging_are_refused() -> None:
    with pytest.raises(UserError, match="two kinds of weight averaging, which cannot be combined: remove one"):
        built(*SMALL, "--config=configs/presets/ema.yaml", "--config=configs/presets/swa.yaml")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set environment variables, of which none is left from a launcher."""
    for name in LAUNCHER + SLURM:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_seeds_drawn_by_a_single_process_differ(environment: Any) -> None:
    environment()
    seeds = {random_seed() for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_drawn_seed_does_not_depend_on_the_seed_of_the_process(environment: Any) -> None:
    environment()
    random.seed(0)
    first = random_seed()
    random.seed(0)
    assert random_seed() != first


@pytest.mark.parametrize(
    ("job", "launchers"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, (10, 10)),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a"}, (10, 20)),
        ({"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, (10, 10)),
        ({"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, (10, 20)),
    ],
    ids=["torchrun", "torchrun on two nodes", "slurm", "slurm on two nodes"],
)
def test_ranks_of_a_job_draw_the_same_seed(
    environment: Any, monkeypatch: pytest.MonkeyPatch, job: dict[str, str], launchers: tuple[int, int]
) -> None:
    seeds = []
    for rank, launcher in zip("01", launchers, strict=True):
        environment(**job, LOCAL_RANK=rank, RANK=rank, SLURM_PROCID=rank, MASTER_PORT="29500")
        monkeypatch.setattr(os, "getppid", lambda launcher=launcher: launcher)
        seeds.append(random_seed())
    assert seeds[0] == seeds[1]
    environment(TORCHELASTIC_RUN_ID="b", SLURM_STEP_ID="1")  # another job draws another seed
    assert random_seed() != seeds[0]


def test_torchrun_without_a_run_id_draws_another_seed_each_time(
    environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none", MASTER_PORT="29500")
    first = random_seed()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert random_seed() != first


def test_a_launched_rank_takes_the_seed_of_its_launcher(environment: Any) -> None:
    environment(PL_GLOBAL_SEED="12", LOCAL_RANK="1", WORLD_SIZE="2")
    assert random_seed() == 12


def test_a_drawn_seed_is_written_into_the_config_and_used(environment: Any) -> None:
    environment()
    fit = ["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"]
    x = main([*fit, "--seed_everything=true"])
    seed = yaml.safe_load(x.run.config.read_text(encoding="utf-8"))["seed_everything"]
    assert type(seed) is int
    assert seed == x.config.seed_everything == x.data.seed == int(os.environ["PL_GLOBAL_SEED"])
    again = main([*fit, f"--seed_everything={seed}"])
    assert same(x.task.state_dict(), again.task.state_dict())


@pytest.mark.parametrize(("data", "expected"), [("src.data.Digits", 10), ("src.data.CIFAR100", 100)])
def test_the_number_of_classes_comes_from_the_data_unless_it_is_typed(data: str, expected: int) -> None:
    args = ["--model=src.tasks.Classifier", "--model.net=src.nets.MLP", "--model.optimizer=torch.optim.SGD"]
    for typed, number in ([], expected), (["--model.num_classes=7"], 7):
        x = build(parse(Options("show", settings=[f"--data={data}", *args, *typed])), "show")
        assert x.task.num_classes == number


def test_the_number_of_classes_must_be_typed_where_the_data_does_not_know_it() -> None:
    settings = ["--model=src.tasks.Classifier", "--model.net=src.nets.MLP", "--model.optimizer=torch.optim.SGD"]
    for data in ([], ["--data=lightning.pytorch.demos.boring_classes.BoringDataModule"]):
        with pytest.raises(
            UserError, match=r"num_classes cannot be read from this data module: set --model\.num_classes"
        ):
            build(parse(Options("show", settings=[*settings, *data])), "show")


def test_the_data_module_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    construct = Digits.__init__
    monkeypatch.setattr(
        Digits, "__init__", lambda self, *args, **settings: made.append(construct(self, *args, **settings))
    )
    x = built("--config=configs/digits.yaml", "--model.num_classes=data", "--data.folds=5", "--seed_everything=3")
    assert (len(made), x.task.num_classes, x.data.folds, x.data.seed) == (1, 10, 5, 3)
    assert x.config.data.init_args.folds == 5
    typed = built("--config=configs/digits.yaml", "--data.folds=5", "--seed_everything=3")
    assert same(x.task.state_dict(), typed.task.state_dict())
