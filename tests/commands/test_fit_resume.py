"""fit --run and --resume: an interrupted run resumes bit for bit, with what is typed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.cli import main
from src.tasks import Task
from tests.conftest import SMALL, add_configs, refused, rows, same, weights

RUN = Path("runs/digits/version_0")
RESUME = ["fit", f"--run={RUN}", "--trainer.max_epochs=2", "--test=false"]
LIMITS = [["--trainer.max_epochs=3"], ["--trainer.max_epochs=-1", "--trainer.max_steps=63"]]


class PowerCutError(Exception):
    """The power fails."""


@pytest.fixture(scope="module", params=LIMITS, ids=["max_epochs", "max_steps"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of three epochs, and the command that trained it."""
    folder, args = tmp_path_factory.mktemp("uninterrupted"), ["fit", *SMALL, "--last.every_n_steps=5", *request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        add_configs(folder)
        main(args)
    return folder / RUN, args


HEAVY = [pytest.param(step, marks=pytest.mark.heavy) for step in (21, 42)]  # ends of epochs


@pytest.mark.parametrize("step", [25, 50, *HEAVY])
def test_an_interrupted_run_resumes_bit_for_bit(uninterrupted: tuple[Path, list[str]], step: int) -> None:
    complete, args = uninterrupted
    with pytest.MonkeyPatch.context() as patch:

        def interrupt(self: Task, *_: object) -> None:
            if self.global_step == step:
                raise PowerCutError

        patch.setattr(Task, "on_before_zero_grad", interrupt)
        with pytest.raises(PowerCutError):
            main(args)
    main(["fit", f"--run={RUN}"])
    once, twice = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (complete, RUN))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(once[key], twice[key]), key
    assert same(weights(complete, "best"), weights(RUN, "best"))
    rates = ("lr-AdamW/pg1", "lr-AdamW/pg2")  # logged in other steps
    first, second = ([{k: v for k, v in row.items() if k not in rates} for row in rows(run)] for run in (complete, RUN))
    assert first == second
    main(["fit", f"--run={RUN}"])  # complete: nothing is trained, nothing is written
    assert len(json.loads((RUN / "provenance.json").read_text(encoding="utf-8"))) == 2


def test_fit_resumes_from_the_checkpoint_that_is_typed() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=2", "--test=false", "--best.monitor=val/loss", "--best.mode=max"])
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 0
    x = main(["fit", f"--run={RUN}", f"--ckpt_path={RUN}/checkpoints/best.ckpt"])
    assert x.trainer.current_epoch == 2


def test_a_run_started_from_a_checkpoint_resumes_from_its_own(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    shutil.move(trained, "before")
    args = ["fit", *SMALL, "--resume=auto", "--ckpt_path=before/checkpoints/last.ckpt"]
    main([*args, "--trainer.max_epochs=2"])
    assert "after step 21" in capsys.readouterr().out
    main(args)
    assert f"resumed  {RUN}, after step 42" in capsys.readouterr().out
    main([*args, "--data.fold=1"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("complete  3 epochs")
    assert printed[1].split(maxsplit=1) == ["note", "settings other than those it was trained with were not used"]


def test_what_is_typed_wins_over_what_the_checkpoint_stored() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--model.schedule=null", "--model.warmup_steps=0", "--test=false"])
    x = main([*RESUME, "--model.optimizer.lr=0.125", "--model.optimizer.weight_decay=0.5"])
    decayed, exempt = x.trainer.optimizers[0].param_groups
    assert (decayed["lr"], exempt["lr"]) == (0.125, 0.125)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.5, 0.0)
    assert yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))["trainer"]["max_epochs"] == 2
    assert len(list(RUN.glob("config_*.yaml"))) == 1
    x = main(["fit", f"--run={RUN}", "--trainer.max_epochs=3", "--test=false"])
    assert x.trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_the_first_resumed_epoch_has_a_throughput(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    main(["fit", f"--run={trained}", "--trainer.max_epochs=2", "--test=false"])
    out = capsys.readouterr().out
    assert "epoch 2/2" in out
    assert "  0 samples/s" not in out


def test_a_longer_run_stretches_its_schedule(trained: Path) -> None:
    x = main(["fit", f"--run={trained}", "--trainer.max_epochs=4", "--test=false"])
    assert x.trainer.global_step == 4 * 21
    assert x.trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0] == pytest.approx(0)
    x = main(["fit", *SMALL, "--trainer.max_epochs=4", "--trainer.max_steps=62", "--test=false"])
    assert x.trainer.global_step == 62


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "another kind than the checkpoint's"),
        (["--model.schedule=null"], "another kind than the checkpoint's"),
        (["--model.warmup_steps=10"], "warmup_steps was 40, is 10"),
        (
            ["--model.optimizer.amsgrad=true"],
            "error: amsgrad was False, is True, for which the checkpoint lacks optimizer state",
        ),
        (["--data.fold=3"], "trained on another split"),
    ],
    ids=["optimizer", "schedule", "warmup", "amsgrad", "fold"],
)
def test_a_change_that_cannot_resume_is_refused(
    settings: list[str], message: str, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    files = [*trained.glob("*.json"), *trained.glob("*.yaml"), *trained.glob("checkpoints/*")]
    before = [file.read_bytes() for file in files]
    assert message in refused(capsys, *RESUME, *settings)
    assert [file.read_bytes() for file in files] == before
    assert not list(trained.glob("*_0.*"))
    main(RESUME)  # the run is unchanged and still resumes


def test_another_warmup_without_a_schedule_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", "--model.schedule=null"])
    assert "warmup_steps was 40, is 10" in refused(capsys, *RESUME, "--model.warmup_steps=10")


def test_groups_of_other_parameters_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    first, other = (f"--model.groups=[{{match: '{layer}.bias', lr: 0.001}}]" for layer in (1, 4))
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", first])
    assert "parameter groups differ from the checkpoint's" in refused(capsys, *RESUME, other)
    main(RESUME)


def test_another_length_of_a_torch_schedule_is_applied() -> None:
    linear = ["--model.schedule=torch.optim.lr_scheduler.LinearLR", "--model.schedule.total_iters=500"]
    main(["fit", *SMALL, *linear, "--trainer.max_epochs=1", "--test=false"])
    schedule = main([*RESUME, "--model.schedule.total_iters=900"]).trainer.lr_scheduler_configs[0].scheduler
    assert schedule._schedulers[1].total_iters == 900


def test_a_run_resumes_with_truncated_logs(trained: Path) -> None:
    for name in ("metrics.csv", "provenance.json"):
        text = (trained / name).read_text(encoding="utf-8")
        (trained / name).write_text(text[: len(text) - 30], encoding="utf-8")
    main(RESUME)
    assert len(json.loads((trained / "provenance.json").read_text(encoding="utf-8"))) == 1
    assert (trained / "provenance.damaged").is_file()
    assert sum(bool(row["train/loss"]) for row in rows(trained)) >= 1


def test_another_warm_up_than_that_of_the_checkpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", "--model.warmup_steps=0.2"])  # of 21 steps
    error = refused(capsys, *RESUME, "--model.warmup_steps=10")
    assert "warmup_steps was 4, is 10: restore it, or start a new run" in error


def test_a_folder_in_place_of_the_results_is_kept(trained: Path) -> None:
    (trained / "results.json").unlink()
    (trained / "results.json").mkdir()
    main(["fit", f"--run={trained}"])
    assert (trained / "results.json").is_file()
    assert (trained / "results_0.json").is_dir()


def test_resume_auto_refuses_a_run_whose_config_is_no_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "config.yaml").write_bytes(b"name: \xb4\n")
    line = refused(capsys, "fit", "--config=configs/digits.yaml", "--resume=auto")
    assert "config runs/digits/version_0/config.yaml is not UTF-8 text" in line


@pytest.mark.filterwarnings("ignore:checkpoint .* is damaged")
@pytest.mark.parametrize("means", [[1], {"loss": [1], "samples": None}])
def test_a_checkpoint_with_wrong_means_is_one_line(
    trained: Path, means: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("best", "last"):
        stored = torch.load(trained / f"checkpoints/{name}.ckpt", weights_only=True)
        torch.save(stored | {"train_means": means}, trained / f"checkpoints/{name}.ckpt")
    line = refused(capsys, "fit", f"--run={trained}", "--trainer.max_epochs=2")
    assert "train_means is of another type" in line or "the checkpoint does not match this run" in line


def test_a_run_without_a_seed_is_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = trained / "config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("seed_everything: 0", "seed_everything: null"), encoding="utf-8"
    )
    assert "seed_everything must be an integer" in refused(capsys, "validate", f"--run={trained}")
