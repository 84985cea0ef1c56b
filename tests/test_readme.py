"""What the README tells people to type works as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from src.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def copy(folder: Path) -> Path:
    """Copy the checkout, so that files can be added to it."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_three_steps_make_a_module_of_ones_own_train_continue_test_and_predict(tmp_path: Path) -> None:
    project = copy(tmp_path / "project")
    section = README[README.index("in three steps") : README.index("## Presets")]
    module, config, command = (
        re.sub(r"^   ", "", block, flags=re.M) for block in re.findall(r"```\w*\n(.*?)   ```", section, re.S)
    )
    (project / "src/tasks/mine.py").write_text(module)
    (project / "configs/mine.yaml").write_text(config)
    run = "python -m src.cli {} --run runs/mine/version_0{}"
    commands = [
        command,
        run.format("fit", " --trainer.max_epochs=12"),
        run.format("test", ""),
        run.format("predict", ""),
    ]
    out = ""
    for line in commands:
        args = [sys.executable, *line.split()[1:]]
        done = subprocess.run(args, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        out += done.stdout
    assert "epoch 12/12" in out
    accuracies = [float(a) for a in re.findall(r"^accuracy +[\d.]+ +([\d.]+)", out, re.M)]
    assert min(accuracies) > 0.9
    assert (project / "runs/mine/version_0/predictions.csv").is_file()


@pytest.mark.parametrize(
    "line", [line.split("#")[0].strip() for line in README.splitlines() if "python -m src.cli" in line]
)
def test_each_command_in_the_readme_is_one(line: str) -> None:
    Path("photos").mkdir()
    Path("mine/train").mkdir(parents=True)
    if "configs/mine.yaml" in line:
        return  # the three steps above
    args = line.replace("...", "").split()[3:]
    if "--run" in args:
        main(["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1", "--model.net.width=2", "--test=false"])
    if "--images" in args:
        from PIL import Image

        Image.new("L", (8, 8)).save("photos/black.png")
    if "mine" in line:
        with pytest.raises(SystemExit) as stop:  # the folder is empty: understood, then refused
            main(args)
        assert stop.value.code == 2
        return
    main(
        [
            *args,
            *(["--trainer.max_epochs=2", "--model.net.width=2"] if args[0] == "fit" and "--run" not in args else []),
        ]
    )


def test_the_presets_table_is_complete() -> None:
    table = README[README.index("## Presets") : README.index("## Measured")]
    named = {name for row in re.findall(r"^\| ([\w, ]+) \|", table, re.M)[1:] for name in row.split(", ")}
    assert named == {file.stem for file in (ROOT / "configs/presets").glob("*.yaml")}


def test_what_a_recipe_did_is_what_was_measured() -> None:
    points = re.findall(r"^\| .* \| `.*` \| ([+-][\d.]+) \|$", README, re.M)
    measured = re.findall(r"^\| .* % \| ([+-][\d.]+) \|", (ROOT / "docs/recipes.md").read_text(), re.M)
    assert sorted(abs(float(each)) for each in points) == sorted(abs(float(each)) for each in measured)


def test_every_named_run_is_in_the_measured_table() -> None:
    assert set(re.findall(r"^\| `(\w+\.yaml)`", README, re.M)) == {
        file.name for file in (ROOT / "configs").glob("*.yaml")
    }


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_tells_what_it_reaches(file: Path) -> None:
    lines = file.read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert re.search(r"\d % test accuracy", header)
    assert f"configs/{file.name}" in header
    assert re.search(r"\d+ (s|min)", header)
    assert len(lines) <= 40
    assert next(iter(yaml.safe_load(file.read_text()))) == "seed_everything"
