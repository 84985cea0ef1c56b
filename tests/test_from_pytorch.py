"""Both sides of docs/from-pytorch.md run: the plain loop, and the commands and settings that replace it."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from src.cli import main
from tests.conftest import refused
from tests.test_docs import PAGES, commands, section, table

PAGE = PAGES["from-pytorch.md"]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)
FILES = dict(re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", PAGE, re.S))
HERE = [block for block in PYTHON if block.startswith("# here")]
LOOP = [block for block in PYTHON if not re.match(r"# (?:mine/|here)", block)]
ROWS = table(section(PAGE, "Line by line"))
SETTINGS = [each for _, here in ROWS for each in re.findall(r"`(--[^`]+)`", here)]
COMMANDS = [each.strip() for each in commands(PAGE, "src.cli")]
QUICK = ["--model.net.width=4", "--trainer.max_epochs=2"]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files of the page, and forget their modules after the test."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mine").mkdir()
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
        monkeypatch.setitem(sys.modules, name.removesuffix(".py").replace("/", "."), None)
    for name in ("mine", "mine.net", "mine.module"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def save_picture() -> None:
    Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save("picture.jpg")


@pytest.mark.heavy
@pytest.mark.usefixtures("mine")
def test_the_loop_runs_in_the_order_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    save_picture()
    names: dict[str, object] = {}
    for block in LOOP:
        exec(block, names)
    accuracies = re.findall(r"^epoch \d+: ([\d.]+)$", capsys.readouterr().out, re.M)
    assert len(accuracies) == 20
    assert float(accuracies[-1]) > 0.9
    assert names["shapes"] == {"conv": (64, 16, 8, 8)}
    assert Path("net.onnx").is_file()


@pytest.mark.heavy
def test_all_settings_of_the_rows_train_together() -> None:
    typed = " ".join(each for each in SETTINGS if "ImageFolder" not in each).split()
    assert len(typed) > 15
    x = main(["fit", "--config=configs/digits.yaml", *typed, *QUICK])
    group = x.trainer.optimizers[0].param_groups[0]
    assert type(x.trainer.optimizers[0]) is torch.optim.SGD
    assert (group["momentum"], group["weight_decay"], x.trainer.global_step) == (0.9, 0, 2 * 9)
    assert (x.trainer.precision, x.trainer.gradient_clip_val) == ("bf16-mixed", 1.0)
    assert x.task.loss.label_smoothing == 0.1


def test_the_table_quotes_lines_of_the_loop() -> None:
    quoted = [each for row in ROWS for each in re.findall(r"`([^`]+)`", row[0])]
    assert len(quoted) > 18
    assert [each for each in quoted if each not in LOOP[0]] == []


@pytest.mark.heavy
@pytest.mark.usefixtures("mine")
def test_every_command_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    save_picture()
    for command in COMMANDS:
        args = shlex.split(command)[1:]
        if "ddp.yaml" in command:
            continue  # tests/test_presets.py starts its processes
        if args[0] == "serve":
            assert "--print_config" in refused(capsys, *args, "--print_config")  # it would not return
        elif "runs/digits/version_1" in args:
            main(args)
        elif args[0] == "fit" and "--run" in args:
            assert main(args).trainer.current_epoch == 25
        elif args[0] == "fit":
            main([*args, *(QUICK if "mine" not in command else QUICK[1:])])
        else:
            main(args)
        if command == COMMANDS[0]:
            names: dict[str, object] = {}
            exec(HERE[0], names)
            assert names["logits"].shape == names["task"].net(names["images"]).shape
        if "mine.net.Net" in command and not Path("best.pt").exists():
            net = sys.modules["mine.net"].Net(7)
            torch.save(net.state_dict(), "best.pt")
    assert len(COMMANDS) > 12
    assert len(HERE) == 1
