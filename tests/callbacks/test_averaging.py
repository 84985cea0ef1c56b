"""What is validated and saved is the average that a plain loop over the weights of all steps computes."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging

from src.callbacks import EMA, SWA
from src.cli import main
from src.tasks import Task
from tests.conftest import refused, same, weights

SMALL = ["--config=configs/digits.yaml", "--model.net.width=2", "--data.batch_size=256", "--test=false"]  # 6 steps
RUNS = Path("runs/digits")
Weights = dict[str, torch.Tensor]


def preset(average: str) -> list[str]:
    return ["fit", *SMALL, f"--config=configs/presets/{average}.yaml"]


def copy_net(task: Task) -> Weights:
    return {name: value.detach().clone() for name, value in task.net.state_dict().items()}


def saved_net(run: Path) -> Weights:
    return {name.removeprefix("net."): value for name, value in weights(run).items() if name.startswith("net.")}


def fit(monkeypatch: pytest.MonkeyPatch, average: str, *args: str) -> tuple[Weights, list[Weights], list[Weights]]:
    """Return the net that was saved last, the net after each step and the net in each validation."""
    steps: list[Weights] = []
    validated: list[Weights] = []
    monkeypatch.setattr(Task, "on_train_batch_end", lambda task, *_: steps.append(copy_net(task)))
    evaluation_step = Task.evaluation_step

    def watched(task: Task, *args: object) -> None:
        validated.append(copy_net(task))
        evaluation_step(task, *args)

    monkeypatch.setattr(Task, "evaluation_step", watched)
    run = main([*preset(average), "--trainer.num_sanity_val_steps=0", *args]).run.path
    return saved_net(run), steps, validated


def test_ema_is_a_moving_average_whose_decay_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, steps, validated = fit(monkeypatch, "ema", "--trainer.max_epochs=3")
    average = dict(steps[0])
    for step, value in enumerate(steps[1:], 1):
        decay = min(0.998, (1 + step) / (10 + step))
        average = {
            name: decay * average[name] + (1 - decay) * value[name] if value[name].is_floating_point() else value[name]
            for name in value
        }
    assert len(steps) == 18
    torch.testing.assert_close(saved, average)
    torch.testing.assert_close(validated[2], average)
    assert not saved["head.weight"].allclose(steps[-1]["head.weight"])


def test_swa_is_the_mean_over_the_ends_of_the_last_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = '[{"class_path": "src.callbacks.SWA", "init_args": {"start": 0.5}}]'
    saved, steps, validated = fit(monkeypatch, "swa", "--trainer.max_epochs=4", f"--trainer.callbacks={callbacks}")
    ends = steps[5::6]
    assert len(ends) == 4
    for epoch in range(3):
        torch.testing.assert_close(validated[epoch], ends[epoch])
    mean = {name: (ends[2][name] + ends[3][name]) / 2 for name in saved if saved[name].is_floating_point()}
    torch.testing.assert_close({name: saved[name] for name in mean}, mean)
    torch.testing.assert_close({name: validated[3][name] for name in mean}, mean)


def test_swa_starts_by_steps_in_a_run_without_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, steps, _ = fit(monkeypatch, "swa", "--trainer.max_epochs=-1", "--trainer.max_steps=24")
    assert len(steps) == 24
    torch.testing.assert_close(saved, steps[-1])  # the last quarter contains the end of one epoch


def test_before_swa_starts_the_weights_are_validated_and_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[Weights, Weights]] = []
    save = WeightAveraging.on_save_checkpoint

    def watched(swa: SWA, trainer: Trainer, task: Task, checkpoint: dict) -> None:
        save(swa, trainer, task, checkpoint)
        saved.append((copy_net(task), {name: value.clone() for name, value in checkpoint["state_dict"].items()}))

    monkeypatch.setattr(WeightAveraging, "on_save_checkpoint", watched)
    args = ["--trainer.max_epochs=2", "--trainer.val_check_interval=2", "--last.every_n_steps=4"]
    _, steps, validated = fit(monkeypatch, "swa", *args)
    for step, value in zip((2, 4, 6, 8, 10), validated, strict=False):
        torch.testing.assert_close(value, steps[step - 1])
    for live, stored in saved[:3]:
        assert all(value.equal(stored[f"net.{name}"]) for name, value in live.items())


def test_a_run_that_stops_before_swa_starts_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Weights] = []

    def stop(task: Task, *_: object) -> None:
        steps.append(copy_net(task))
        task.trainer.should_stop = len(steps) == 7

    monkeypatch.setattr(Task, "on_train_batch_end", stop)
    bare = ["--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false", "--trainer.max_epochs=9"]
    task = main([*preset("swa"), *bare]).task
    assert len(steps) == 7
    torch.testing.assert_close(copy_net(task), steps[-1])


class SwitchedOffError(Exception):
    """Stands for a machine that is switched off."""


@pytest.mark.parametrize(("average", "step"), [("ema", 5), ("ema", 8), ("swa", 23)])
def test_a_resumed_run_has_the_same_average_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, average: str, step: int
) -> None:
    command = [*preset(average), "--trainer.max_epochs=4", "--last.every_n_steps=4"]
    main(command)

    def interrupt(task: Task, *_: object) -> None:
        if task.global_step == step:
            raise SwitchedOffError

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_before_zero_grad", interrupt)
        with pytest.raises(SwitchedOffError):
            main(command)
    main(["fit", f"--run={RUNS}/version_1"])
    one, two = (torch.load(RUNS / version / "checkpoints/last.ckpt") for version in ("version_0", "version_1"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert same(one[key], two[key]), key


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_fit_and_test_evaluate_the_average(average: str) -> None:
    fitted = main([*preset(average), "--test=true", "--trainer.max_epochs=5"])
    tested = main(["test", f"--run={RUNS}/version_0"])
    assert tested.trainer.callback_metrics["test/loss"] == fitted.trainer.callback_metrics["test/loss"]
    assert same(weights(RUNS / "version_0", "best"), dict(fitted.task.state_dict()))


def test_a_run_that_drops_its_average_resumes_from_the_weights() -> None:
    command = ["fit", *SMALL, "--model.schedule=null"]  # whose length would differ
    main([*command, "--trainer.max_epochs=2"])
    main([*command, "--trainer.max_epochs=1", "--config=configs/presets/ema.yaml"])
    main(["fit", f"--run={RUNS}/version_1", "--trainer.max_epochs=2", "--trainer.callbacks=null"])
    assert same(weights(RUNS / "version_0"), weights(RUNS / "version_1"))


def test_changed_class_weights_apply_in_a_run_with_an_average() -> None:
    weighted = [f"--model.class_weights={[2.0] * 10}", "--model.schedule=null"]
    main([*preset("ema"), *weighted, "--trainer.max_epochs=1"])
    resume = ["fit", f"--run={RUNS}/version_0", "--test=false"]
    task = main([*resume, "--trainer.max_epochs=2", f"--model.class_weights={[9.0] * 10}"]).task
    assert task.loss.weight.tolist() == [9.0] * 10
    assert main([*resume, "--trainer.max_epochs=3", "--model.class_weights=null"]).task.loss.weight is None


@pytest.mark.parametrize(("kind", "value"), [(EMA, 1.0), (EMA, -0.1), (SWA, 1.0), (SWA, -0.1)])
def test_arguments_out_of_range_are_refused(kind: type, value: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\), got {value}"):
        kind(value)


def test_two_averages_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *preset("ema"), "--config=configs/presets/swa.yaml")
    assert "two kinds of weight averaging, which cannot be combined: remove one" in error
