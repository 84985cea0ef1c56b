"""What is validated and saved is the average that a plain loop over the weights of all steps computes."""

import pytest
import torch

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
    monkeypatch.setattr(SWA.__init__, "__defaults__", (0.5,))
    callbacks = '[{"class_path": "src.callbacks.SWA"}]'
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
