"""The command line before torch is imported: commands, their options, and which run they mean."""

import json
import shutil
from pathlib import Path

import pytest

from src import UserError
from src.cli import main
from src.config import arguments
from src.config.arguments import command_names, describe, read
from src.config.parser import parse
from tests.conftest import refused

DIGITS = ["fit", "--config=configs/digits.yaml"]
NEW_COMMAND = '''
def run(options, *, times: int = 2):
    """Count the settings.

    Examples:
        python -m src.cli count --times=3
    """
    print(options.command, options.config, options.settings, times)
'''


def write_run(name: str, job: str = "", config: str = "model: {}") -> Path:
    """Write the files of a run with a checkpoint, as far as the command line reads them."""
    run = Path(f"runs/{name}")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    (run / "config.yaml").write_text(config, encoding="utf-8")
    (run / "provenance.json").write_text(json.dumps([{"job": job}]), encoding="utf-8")
    return run


def test_a_new_command_is_one_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(arguments.COMMANDS, "commands"))
    (folder / "count.py").write_text(NEW_COMMAND, encoding="utf-8")
    monkeypatch.setattr(arguments, "COMMANDS", folder)
    monkeypatch.setattr("src.commands.__path__", [str(folder)])
    main(["--help"])
    out = capsys.readouterr().out
    assert "\n  count       count the settings\n" in out
    assert "\n  python -m src.cli count --times=3\n" in out
    main(["count"])
    assert capsys.readouterr().out == "count [] [] 2\n"
    main(["count", "--times", "3", "-c", "configs/digits.yaml", "--trainer.max_epochs=1"])
    assert capsys.readouterr().out == "count ['configs/digits.yaml'] ['--trainer.max_epochs=1'] 3\n"
    assert refused(capsys, "count", "--times=few") == "error: --times: invalid int value: 'few'\n"
    assert "--resume is an option of fit, not of count" in refused(capsys, "count", "--resume=auto")
    assert "--times is an option of count, not of fit" in refused(capsys, *DIGITS, "--times=3")
    assert "unknown command 'coun', did you mean count?; commands: fit, validate, test," in refused(capsys, "coun")


def test_a_command_option_of_an_unknown_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("commands")
    folder.mkdir()
    (folder / "helper.py").write_text("def helper():\n    pass\n", encoding="utf-8")  # without run: no command
    (folder / "odd.py").write_text("def run(options, *, when: datetime):\n    pass\n", encoding="utf-8")
    monkeypatch.setattr(arguments, "COMMANDS", folder)
    assert command_names() == ["odd"]
    with pytest.raises(UserError, match=r"^src/commands/odd\.py: when must be one of bool, int, .*, got datetime$"):
        describe("odd")


def test_a_command_is_described_by_its_docstring_and_arguments() -> None:
    names = command_names()
    assert names == ["fit", "validate", "test", "predict", *sorted(names[4:])]
    assert {"check", "report", "schedule", "show"} <= {*names}
    doc, options = describe("fit")
    assert doc.splitlines()[0] == "Train, or resume a run; then test the best checkpoint."
    assert options["resume"] == {"choices": ("auto", "never"), "default": None}
    assert options["no_page"]["action"] == "store_true"
    _, options = describe("predict")
    assert options["images"] == {"type": Path, "nargs": "+", "default": None}


def test_the_help_of_a_command_explains_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "\n    images: image files and folders.\n" in out
    assert "\n    python -m src.cli predict --run " in out
    assert "--trainer.max_epochs" in out


def test_an_option_of_another_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *DIGITS, "--images", "a.png")
    assert error == "error: --images is an option of predict, not of fit\n"


def test_options_of_the_command_line_are_not_settings() -> None:
    options, own = read(
        ["predict", "-c", "configs/digits.yaml", "--trust", "--images", "a.png", "b.png", "--compile=true"]
    )
    images = [Path("a.png"), Path("b.png")]
    others = {"query": None, "output": None, "invert": False, "greedy": False, "soup": False, "records": None}
    assert own == {"images": images} | others
    assert (options.command, options.config, options.trust) == ("predict", ["configs/digits.yaml"], True)
    assert options.settings == ["--compile=true"]
    assert not options.owns_process


def test_words_of_new_are_no_folders_and_an_empty_one_is_kept() -> None:
    Path("data").mkdir()
    options, _ = read(["new", "data", ""])
    assert (options.run, options.settings) == (None, ["data", ""])


def test_resume_auto_finds_the_newest_run_of_the_name_with_a_checkpoint() -> None:
    assert read([*DIGITS, "--resume=auto"])[0].run is None
    write_run("digits/version_2")
    newest = write_run("digits/version_10")
    Path("runs/digits/version_11").mkdir()
    write_run("other/version_12")
    options, _ = read([*DIGITS, "--resume=auto"])
    assert options.run == newest
    assert options.resumed
    assert options.config == [str(newest / "config.yaml")]
    assert read(DIGITS)[0].run is None
    assert read([*DIGITS, "--resume=never"])[0].run is None


@pytest.mark.parametrize("typed", [["--name=mine"], ["--name", "mine"]], ids=" ".join)
def test_resume_auto_uses_the_typed_name(typed: list[str]) -> None:
    write_run("digits/version_0")
    assert read([*DIGITS, "--resume=auto", *typed])[0].run is None
    mine = write_run("mine/version_0")
    assert read([*DIGITS, "--resume=auto", *typed])[0].run == mine


def test_resume_auto_uses_name_and_folder_of_the_config() -> None:
    Path("own.yaml").write_text("name: 2024\ntrainer: {default_root_dir: elsewhere}", encoding="utf-8")
    run = write_run("../elsewhere/2024/version_0")
    found = read(["fit", "--config=own.yaml", "--resume=auto"])[0].run
    assert found is not None
    assert found.resolve() == run.resolve()


def test_resume_auto_adds_nothing_to_a_list_again() -> None:
    write_run("digits/version_0")
    typed = ["--trainer.callbacks+=src.callbacks.EMA", "--trainer.callbacks.decay=0.9", "--trainer.max_epochs=3"]
    typed += ["--data.augment+=[src.data.RandomFlip]", "--model.net.width=4"]
    assert read([*DIGITS, "--resume=auto", *typed])[0].settings == ["--trainer.max_epochs=3", "--model.net.width=4"]
    assert read([*DIGITS, *typed])[0].settings == typed


def test_resume_auto_trusts_a_class_that_is_typed() -> None:
    write_run("digits/version_0", config="model: {class_path: subprocess.Popen}")
    typed, _ = read([*DIGITS, "--model=subprocess.Popen", "--resume=auto"])
    assert typed.run is not None
    with pytest.raises(UserError, match="model: must be a class path of a LightningModule"):  # which is imported
        parse(typed)
    with pytest.raises(UserError, match="add --trust"):
        parse(read([*DIGITS, "--resume=auto"])[0])


@pytest.mark.parametrize(
    ("count", "name"), [("SLURM_RESTART_COUNT", "SLURM_JOB_ID"), ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")]
)
def test_a_restarted_job_resumes_its_own_run(monkeypatch: pytest.MonkeyPatch, count: str, name: str) -> None:
    mine = write_run("digits/version_0", job="7")
    write_run("digits/version_1", job="8")
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv(count, "0")
    assert read(DIGITS)[0].run is None
    monkeypatch.setenv(count, "1")
    assert read(DIGITS)[0].run == mine
    assert read([*DIGITS, "--resume=never"])[0].run is None
    monkeypatch.setenv(name, "9")
    assert read(DIGITS)[0].run is None
