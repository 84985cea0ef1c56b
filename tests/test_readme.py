"""The README is short, its commands and blocks of code work as printed, and its numbers were measured."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from src.cli import main
from tests.conftest import PATH, heavy
from tests.served import publish
from tests.test_docs import CONFIGS, PAGES, RESULTS, ROOT, commands, copy, run, section, table

README = PAGES["README.md"]


def test_the_readme_has_at_most_160_lines() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.heavy
def test_three_steps_make_a_module_train_resume_test_and_predict(tmp_path: Path) -> None:
    project = copy(tmp_path / "project")
    steps = section(README, "Your own LightningModule in three steps")
    module, config = (
        re.sub(r"^   ", "", block, flags=re.M) for block in re.findall(r"```\w+\n(.*?)   ```", steps, re.S)
    )
    (command,) = re.findall(r"`(python .*?)`", steps)
    (project / "src/tasks/mine.py").write_text(module, encoding="utf-8")
    (project / "configs/mine.yaml").write_text(config, encoding="utf-8")
    out = run(project, *command.split()[1:])
    for rest in (["fit", "--trainer.max_epochs=12"], ["test"], ["predict"]):
        out += run(project, "-m", "src.cli", *rest, "--run", "runs/mine/version_0")
    assert "epoch 12/12" in out
    accuracies = [float(accuracy) for accuracy in re.findall(r"^accuracy +[\d.]+ +([\d.]+)", out, re.M)]
    assert min(accuracies) > 0.9
    assert (project / "runs/mine/version_0/predictions.csv").is_file()


def test_the_notebook_block_predicts_with_a_trained_run(trained: Path) -> None:
    block = re.findall(r"```python\n(.*?)```", section(README, "Trained runs in a notebook"), re.S)[0]
    names: dict[str, object] = {}
    exec(block, names)
    assert str(trained) in block
    main(["predict", f"--run={trained}"])
    rows = csv.DictReader((trained / "predictions.csv").read_text(encoding="utf-8").splitlines())
    predicted = [str(each) for each in names["predicted"].tolist()]
    assert len(predicted) > 50
    assert predicted == [row["prediction"] for row in rows][: len(predicted)]


def write_photos() -> None:
    for split in ("train", "test"):
        for name in "abc":
            Path(f"photos/{split}/{name}").mkdir(parents=True)
            for i in range(20):
                Image.new("L", (12, 10), 10 * i).save(f"photos/{split}/{name}/{i}.png")


def serve(args: list[str]) -> None:
    """Start the server, which says its address, and stop it."""
    publish()
    command = [sys.executable, "-m", "src.cli", *args, "--port=0", "--drain=0"]
    with subprocess.Popen(command, env=os.environ | PATH, stderr=subprocess.PIPE) as process:
        said, _, address = process.stderr.readline().decode().strip().partition(" on ")
        assert said == "digits, version 1, a Classifier,"
        assert json.loads(urlopen(f"{address}/v2/health/ready").read()) == {"ready": True}
        process.terminate()
    assert process.returncode == 0


COMMANDS = [each for each in commands(README, "src.cli") if "mine.yaml" not in each]


@pytest.mark.parametrize("command", heavy(COMMANDS, "configs/folder.yaml", "src.cli show"))
@pytest.mark.usefixtures("trained")
def test_a_command_of_the_readme_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos()
    monkeypatch.setattr("src.commands.new.ROOT", Path("project"))
    args = command.split()[1:]
    if args[0] == "search":
        main([*args, "--workers=0", "--search.trials=1", "--search.confirm=null", "--trainer.max_epochs=1"])
    elif args[0] == "serve":
        serve(args)
    elif args[0] != "fit":
        main(args)
    elif "--run" in args or "--resume" in args:
        assert main([*args, "--trainer.max_epochs=2"]).trainer.global_step == 42
    else:
        assert main([*args, "--trainer.fast_dev_run=2"]).trainer.global_step == 2
    written = {"predict": "runs/digits/version_0/predictions.csv", "new": "project/src/nets/my_net.py"}
    assert Path(written.get(args[0], "configs")).exists()


def test_every_config_of_the_table_of_results_exists() -> None:
    assert len(CONFIGS) > 20
    assert [file.name for file in CONFIGS if not file.is_file()] == []


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_header_of_a_config_states_the_result_of_the_readme(file: Path) -> None:
    header = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    (row,) = [row for row in RESULTS if f"`{file.name}`" in row[0]]
    assert f"python -m src.cli fit --config configs/{file.name}" in header
    result, time = row[4].split(" (")[0], row[5].split(" (")[0]
    if result == "not measured":
        assert "accuracy not measured" in header
    elif found := re.fullmatch(r"accuracy ([\d.]+)( ± [\d.]+)? %", result):
        stated = re.search(rf"([\d.]+){found[2] or ''} % test accuracy", header)[1]
        assert f"{float(stated) + 1e-9:.{len(found[1].split('.')[1])}f}" == found[1]
    else:
        numbers = re.findall(r"[\d.]+ ± [\d.]+|\d+\.\d+", result)
        assert any(number in header for number in numbers)
        (other,) = [
            row for row in table((ROOT / "docs/tasks.md").read_text(encoding="utf-8")) if f"`{file.name}`" in row[5]
        ]
        assert all(number in other[6] for number in numbers)
    assert f"in {time}" in header or not time


def test_the_effects_of_recipes_in_the_readme_were_measured() -> None:
    stated = re.findall(r"\s([+-]\d\.\d\d)\b", section(README, "Recipes and presets"))
    measured = re.findall(r"% \| ([+-]\d\.\d\d) \|", section(PAGES["recipes.md"], "Measured effects"))
    assert len(stated) == 8
    assert sorted(abs(float(each)) for each in stated) == sorted(abs(float(each)) for each in measured)


def test_the_summaries_of_docs_in_the_readme_repeat_their_numbers() -> None:
    ratio, low, high, *counts = re.findall(r"\d\.\d\d|\d{3}", section(README, "More"))
    rows = table(PAGES["performance.md"])
    assert [row[4] for row in rows if row[:2] == ["step, almost empty net", "defaults"]] == [ratio]
    assert sorted(row[4] for row in rows if "MLP" in row[0] and row[1] == "bare") == [low, high]
    measured = {tuple(row[1:3]) for row in table(PAGES["reliability.md"])}
    assert len(counts) == 6
    assert {*zip(counts[::2], counts[1::2], strict=True)} <= measured
