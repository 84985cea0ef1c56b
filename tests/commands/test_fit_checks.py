"""check --fit: each planted bug is found by its own check, and nothing else is reported."""

from pathlib import Path
from typing import Any

import pytest

from src.cli import main
from src.commands.fit_checks import check_fit
from src.config.arguments import read
from src.config.build import build
from src.config.parser import parse
from tests.conftest import refused, same

DIGITS = "--config=configs/digits.yaml"
SOUND = "--model.net=tests.planted.Sound"
OWN = "tests.own_code"
SLOW = pytest.mark.heavy
CONFIGS = ["digits", "digits_autoencoder", "digits_masks", "digits_multilabel", "digits_retrieval", "digits_rotation"]
PRESETS = ["accumulate", "bf16", "channels_last", "compile", "ema", "micro_batches", "mixup", "muon"]


def check(*args: str) -> tuple[Any, dict[str, Any]]:
    return check_fit(read(["check", "--fit", *args])[0])


def failures(*args: str) -> list[str]:
    return [name for name, result in check(*args)[1].items() if result.ok is False]


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        ("--model.net=tests.planted.Loud", "loss at start"),
        ("--model.net=tests.planted.Softmaxed", "outputs"),
        ("--data=tests.planted.ShuffledDigits", "labels"),
        ("--model.net=tests.planted.Dead", "dead units"),
        pytest.param("--model.net=tests.planted.Noisy", "deterministic", marks=SLOW),
        pytest.param("--model.net=tests.planted.Bounded", "outputs", marks=SLOW),
        pytest.param("--model.net=tests.planted.Still", "train and eval", marks=SLOW),
        pytest.param("--model.loss=tests.planted.negative", "loss at start", marks=SLOW),
        ("--model.net=tests.planted.Mixed", "samples"),
        pytest.param("--model.net=tests.planted.Doubled", "train and eval", marks=SLOW),
        pytest.param("--model.loss=tests.planted.wrong_gradient", "loss gradient", marks=SLOW),
        pytest.param("--model.optimizer.lr=0", "one batch", marks=SLOW),
    ],
)
def test_a_planted_bug_is_found_by_its_own_check_alone(bug: str, name: str) -> None:
    assert failures(DIGITS, SOUND, bug) == [name]


def test_a_failure_prints_what_to_do_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", "--fit", DIGITS, "--model.net=tests.planted.Detached"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1
    assert max(map(len, lines)) <= 80
    (at,) = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[at : at + 2] == [
        "FAIL  gradients       no gradient reaches net.conv.weight and 3 more: is it used",
        "                      in forward, or detached?",
    ]


def test_a_sound_run_passes_and_neither_changes_nor_writes(capsys: pytest.CaptureFixture[str]) -> None:
    x = main(["check", "--fit", DIGITS, SOUND])
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert "pass  whole run       420 steps, 20 epochs: " in out
    assert [path.name for path in Path().iterdir()] == ["configs"]
    unused = build(parse(read(["check", "--fit", DIGITS, SOUND])[0]), "check").task
    assert same(dict(x.task.named_parameters()), dict(unused.named_parameters()))
    assert same(dict(x.task.net.named_buffers()), dict(unused.net.named_buffers()))


@pytest.mark.parametrize("config", ["diabetes", *(pytest.param(each, marks=SLOW) for each in CONFIGS)])
def test_a_shipped_config_raises_no_alarm(config: str) -> None:
    assert failures(f"--config=configs/{config}.yaml") == []


@pytest.mark.parametrize("preset", [pytest.param(each, marks=SLOW) for each in PRESETS])
def test_a_preset_raises_no_alarm(preset: str) -> None:
    assert failures(DIGITS, f"--config=configs/presets/{preset}.yaml") == []


@SLOW
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("config", ["diabetes", *CONFIGS])
def test_no_seed_raises_an_alarm(config: str, seed: int) -> None:
    assert failures(f"--config=configs/{config}.yaml", f"--seed_everything={seed}") == []


@pytest.mark.parametrize("data", ["", "DictLoaders", "NamedLoaders", "StreamLoaders"])
def test_a_module_of_another_project_is_checked(data: str) -> None:
    model = {"": "StepAndEpoch", "DictLoaders": "DictModule"}.get(data, "Plain")
    given = [f"--data={OWN}.{data}"] if data else []
    _, results = check(f"--model={OWN}.{model}", *given, "--trainer.max_epochs=2")
    skipped = ["labels", *(["whole run"] if data == "StreamLoaders" else [])]
    assert {name: result.ok for name, result in results.items() if result.ok is not True} == dict.fromkeys(skipped)
    assert results["loss at start"].figure.endswith("ln 8 = 2.079")


@pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader")
def test_manual_optimization_is_checked_as_far_as_possible() -> None:
    _, results = check(f"--model={OWN}.Gan", f"--data={OWN}.Loaders", "--trainer.max_epochs=2")
    assert [name for name, result in results.items() if result.ok is None] == [
        "loss at start",
        "labels",
        "dead units",
        "loss gradient",
        "one batch",
    ]
    assert results["loss gradient"].figure == "the loss is of several outputs (generator, discriminator)"
    assert results["gradients"].figure == "reach all 4 parameters"


def test_shuffled_labels_in_batches_of_another_project_are_found() -> None:
    given = [f"--model={OWN}.Plain", "--trainer.max_epochs=2"]
    assert failures(*given, "--data=tests.planted.ManyDigits") == []
    assert failures(*given, "--data=tests.planted.ManyDigits", "--data.shuffled=true") == ["labels"]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("bug", "name"), [("Part", "gradients"), ("Broadcast", "outputs")])
def test_a_bug_of_a_module_of_another_project_is_found(bug: str, name: str) -> None:
    assert failures(f"--model=tests.planted.{bug}", f"--data={OWN}.Loaders", "--trainer.max_epochs=2") == [name]


def test_several_processes_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "check", "--fit", DIGITS, "--trainer.devices=2", "--trainer.accelerator=cpu")
    assert "check --fit needs one process and device, got DDPStrategy: add --trainer.devices=1" in line


def test_an_error_of_the_training_step_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError, match="typo"):
        check(f"--model={OWN}.Typo", "--trainer.max_epochs=2")


@SLOW
def test_accumulated_batches_are_counted_as_one_step() -> None:
    _, results = check(DIGITS, SOUND, "--trainer.accumulate_grad_batches=4")
    assert results["whole run"].figure.startswith("105 steps, 20 epochs: ")
