"""What is validated and saved is the average that a plain loop over the weights of all steps computes."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging

from src.callbacks import EMA, SWA
from src.cli import main
from src.tasks import Task

FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--data.batch_size=256", "--test=false"]
Weights = dict[str, torch.Tensor]


def weights(task: Task) -> Weights:
    return {name: value.detach().clone() for name, value in task.net.state_dict().items()}


def fit(monkeypatch: pytest.MonkeyPatch, average: str, *typed: str) -> tuple[Weights, list[Weights], list[Weights]]:
    """Return the weights that were saved last, those after each step and those of each validation."""
    steps: list[Weights] = []
    validated: list[Weights] = []
    monkeypatch.setattr(Task, "on_train_batch_end", lambda task, *_: steps.append(weights(task)))
    evaluate = Task.judge
    monkeypatch.setattr(Task, "judge", lambda task, *args: (validated.append(weights(task)), evaluate(task, *args)))
    preset = [f"--config=configs/presets/{average}.yaml", "--trainer.num_sanity_val_steps=0"]
    run = main([*FIT[:2], *preset, *FIT[2:], *typed]).run.path
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {name[4:]: value for name, value in saved.items() if name.startswith("net.")}, steps, validated


def test_ema_is_the_moving_average_with_a_decay_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_swa_is_the_mean_of_the_ends_of_the_last_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = '[{"class_path": "src.callbacks.SWA", "init_args": {"start": 0.5}}]'
    saved, steps, validated = fit(monkeypatch, "swa", "--trainer.max_epochs=4", f"--trainer.callbacks={callbacks}")
    ends = steps[5::6]
    assert len(ends) == 4
    torch.testing.assert_close(validated[0], ends[0])
    torch.testing.assert_close(validated[1], ends[1])
    mean = {name: (ends[2][name] + ends[3][name]) / 2 for name in saved if saved[name].is_floating_point()}
    torch.testing.assert_close(validated[2], ends[2])
    torch.testing.assert_close({name: saved[name] for name in mean}, mean)
    torch.testing.assert_close({name: validated[3][name] for name in mean}, mean)


class CutOffError(Exception):
    pass


@pytest.mark.parametrize(("average", "step"), [("ema", 5), ("ema", 8), ("swa", 23)])
def test_a_continued_run_has_the_same_average_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, average: str, step: int
) -> None:
    command = [*FIT[:2], f"--config=configs/presets/{average}.yaml", *FIT[2:]]
    command += ["--trainer.max_epochs=4", "--last.every_n_steps=4"]
    main(command)
    with monkeypatch.context() as patch:

        def cut(self: Task, *_: object) -> None:
            if self.global_step == step:
                raise CutOffError

        patch.setattr(Task, "on_before_zero_grad", cut)
        with pytest.raises(CutOffError):
            main(command)
    main(["fit", "--run=runs/digits/version_1"])
    runs = [torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (0, 1)]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert runs[0][key].keys() == runs[1][key].keys()
        assert all(value.equal(runs[1][key][name]) for name, value in runs[0][key].items()), key


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_the_average_is_what_fit_test_and_validate_judge(average: str) -> None:
    command = [*FIT[:2], f"--config=configs/presets/{average}.yaml", *FIT[2:-1], "--trainer.max_epochs=5"]
    cli = main(command)
    judged = cli.trainer.callback_metrics["test/loss"]
    assert main(["test", "--run=runs/digits/version_0"]).trainer.callback_metrics["test/loss"] == judged
    best = torch.load("runs/digits/version_0/checkpoints/best.ckpt", weights_only=True)
    assert all(value.equal(best["state_dict"][name]) for name, value in cli.model.state_dict().items())


@pytest.mark.parametrize(("kind", "setting"), [(EMA, 1.0), (EMA, -0.1), (SWA, 1.0), (SWA, -0.1)])
def test_settings_out_of_range_are_refused(kind: type, setting: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\), got {setting}"):
        kind(setting)


def test_two_averages_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, "--config=configs/presets/ema.yaml", "--config=configs/presets/swa.yaml"])
    assert stop.value.code == 2
    assert "trainer.callbacks has two averages of the weights" in capsys.readouterr().err


def test_swa_begins_at_its_share_of_the_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--trainer.max_epochs=-1", "--trainer.max_steps=24"]
    saved, steps, _ = fit(monkeypatch, "swa", *typed)
    assert len(steps) == 24
    torch.testing.assert_close(saved, steps[-1])  # the last quarter holds the end of one epoch alone


def test_until_swa_begins_the_weights_are_validated_and_saved_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--trainer.max_epochs=2", "--trainer.val_check_interval=2", "--last.every_n_steps=4"]
    saved_weights: list[tuple[Weights, Weights]] = []
    save = WeightAveraging.on_save_checkpoint

    def note(self: SWA, trainer: Trainer, task: Task, checkpoint: dict) -> None:
        save(self, trainer, task, checkpoint)
        saved_weights.append((weights(task), {k: v.clone() for k, v in checkpoint["state_dict"].items()}))

    monkeypatch.setattr(WeightAveraging, "on_save_checkpoint", note)
    _, steps, validated = fit(monkeypatch, "swa", *typed)
    for step, value in zip((2, 4, 6, 8, 10), validated, strict=False):
        torch.testing.assert_close(value, steps[step - 1])
    for live, stored in saved_weights[:3]:
        assert all(value.equal(stored[f"net.{name}"]) for name, value in live.items())


def test_a_run_that_goes_on_without_its_average_has_the_weights_that_were_averaged() -> None:
    schedule = "--model.schedule=null"  # whose length would differ
    main([*FIT, schedule, "--trainer.max_epochs=2"])
    main([*FIT, schedule, "--trainer.max_epochs=1", "--config=configs/presets/ema.yaml"])
    main(["fit", "--run=runs/digits/version_1", "--trainer.max_epochs=2", "--trainer.callbacks=null"])
    plain, dropped = (
        torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for i in (0, 1)
    )
    assert all(value.equal(dropped[name]) for name, value in plain.items())


def test_a_run_that_ends_before_swa_begins_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Weights] = []

    def stop(task: Task, *_: object) -> None:
        steps.append(weights(task))
        task.trainer.should_stop = len(steps) == 7

    monkeypatch.setattr(Task, "on_train_batch_end", stop)
    bare = ["--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false", "--trainer.max_epochs=9"]
    task = main([*FIT, *bare, "--config=configs/presets/swa.yaml"]).model
    assert len(steps) == 7
    torch.testing.assert_close(weights(task), steps[-1])


def test_class_weights_that_changed_are_used_beside_an_average_too() -> None:
    weighted = [f"--model.class_weights={[2.0] * 10}", "--model.schedule=null"]
    main([*FIT, *weighted, "--trainer.max_epochs=1", "--config=configs/presets/ema.yaml"])
    more = ["fit", "--run=runs/digits/version_0", "--test=false"]
    task = main([*more, "--trainer.max_epochs=2", f"--model.class_weights={[9.0] * 10}"]).model
    assert task.loss.weight.tolist() == [9.0] * 10
    assert main([*more, "--trainer.max_epochs=3", "--model.class_weights=null"]).model.loss.weight is None
