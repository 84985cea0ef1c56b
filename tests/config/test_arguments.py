"""Which run a command line means."""

import json
from pathlib import Path

import pytest

from src.arguments import read


def begun(name: str, job: str = "", config: str = "model: {}") -> Path:
    run = Path(f"runs/{name}")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    (run / "config.yaml").write_text(config)
    (run / "provenance.json").write_text(json.dumps([{"job": job}]))
    return run


FIT = ["fit", "--config=configs/digits.yaml"]


def test_resume_auto_takes_the_newest_run_of_that_name_that_has_a_checkpoint() -> None:
    assert read([*FIT, "--resume=auto"])[1].run is None
    begun("digits/version_2")
    newest = begun("digits/version_10")
    Path("runs/digits/version_11").mkdir()
    begun("other/version_12")
    options = read([*FIT, "--resume=auto"])[1]
    assert options.run == newest
    assert options.config == [str(newest / "config.yaml")]
    assert read(FIT)[1].run is None
    assert read([*FIT, "--resume=never"])[1].run is None


@pytest.mark.parametrize("typed", [["--name=mine"], ["--name", "mine"]])
def test_a_name_that_is_typed_counts(typed: list[str]) -> None:
    begun("digits/version_0")
    assert read([*FIT, "--resume=auto", *typed])[1].run is None
    mine = begun("mine/version_0")
    assert read([*FIT, "--resume=auto", *typed])[1].run == mine


def test_a_name_and_a_folder_of_the_config_count() -> None:
    Path("own.yaml").write_text("name: 2024\ntrainer: {default_root_dir: elsewhere}")
    run = begun("../elsewhere/2024/version_0")
    assert read(["fit", "--config=own.yaml", "--resume=auto"])[1].run.resolve() == run.resolve()


def test_what_was_added_to_a_list_is_not_added_again() -> None:
    begun("digits/version_0")
    typed = ["--trainer.callbacks+=src.callbacks.EMA", "--trainer.callbacks.decay=0.9", "--trainer.max_epochs=3"]
    typed += ["--data.augment+=[src.data.RandomFlip]", "--model.net.width=4"]
    assert read([*FIT, "--resume=auto", *typed])[1].settings == ["--trainer.max_epochs=3", "--model.net.width=4"]
    assert read([*FIT, *typed])[1].settings == typed


def test_a_class_that_was_typed_needs_no_trust_when_the_same_command_goes_on() -> None:
    begun("digits/version_0", config="model: {class_path: subprocess.Popen}")
    assert read([*FIT, "--model=subprocess.Popen", "--resume=auto"])[1].run is not None
    with pytest.raises(ValueError, match="type --trust"):
        read([*FIT, "--resume=auto"])


@pytest.mark.parametrize(
    ("count", "name"), [("SLURM_RESTART_COUNT", "SLURM_JOB_ID"), ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")]
)
def test_a_job_that_is_started_again_goes_on_with_its_own_run(
    monkeypatch: pytest.MonkeyPatch, count: str, name: str
) -> None:
    mine = begun("digits/version_0", job="7")
    begun("digits/version_1", job="8")
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv(count, "0")
    assert read(FIT)[1].run is None
    monkeypatch.setenv(count, "1")
    assert read(FIT)[1].run == mine
    assert read([*FIT, "--resume=never"])[1].run is None
    monkeypatch.setenv(name, "9")
    assert read(FIT)[1].run is None
