"""What the pages tell people to type is valid, what they name exists, and what they list is complete."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from src.cli import main
from tests.conftest import refused
from tests.test_layout import MAY_IMPORT

ROOT = Path(__file__).parents[1]
PAGES = {file.name: file.read_text(encoding="utf-8") for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
CURRENT = {name: text for name, text in PAGES.items() if name != "CHANGELOG.md"}  # which also has names of the past
MINE = {
    "src/data/mine.py": """
        from src.data import Digits
        class Mine(Digits):
            pass
        """,
    "src/data/augment/mine.py": """
        from torch import nn
        class Mine(nn.Module):
            def forward(self, images):
                return images.flip(2)
        """,
    "src/nets/mine.py": """
        from torch import nn
        class Mine(nn.Sequential):
            def __init__(self, num_outputs: int):
                super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))
        """,
    "src/losses/mine.py": """
        from torch import nn
        class Mine(nn.Module):
            def forward(self, logits, targets):
                return nn.functional.cross_entropy(logits, targets)
        """,
    "src/optim/mine.py": """
        from src.optim import RunLR
        class Mine(RunLR):
            def factor(self, progress):
                return 1 - progress / 2
        """,
    "src/callbacks/mine.py": """
        from lightning import Callback
        class Mine(Callback):
            def on_train_end(self, trainer, pl_module):
                names = [type(each).__module__ for each in (pl_module, pl_module.net, pl_module.loss)]
                print("callback", *names, "lr", trainer.optimizers[0].param_groups[0]["lr"])
        """,
    "src/tasks/mine.py": """
        from src.tasks import Classifier
        class Mine(Classifier):
            pass
        """,
    "src/commands/mine.py": """
        def run(options, *, word: str | None = None):
            '''Print a word.'''
            print(options.command, word)
        """,
}
KEYS = {  # where a config names what the table of CONTRIBUTING.md adds
    "dataset": "data",
    "task": "model",
    "augmentation": "data.augment+",
    "net": "model.net",
    "loss": "model.loss",
    "schedule": "model.schedule",
    "callback": "trainer.callbacks+",
}


def copy(folder: Path) -> Path:
    """Copy the files of the checkout, without ignored and deleted ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # not deleted, nor a link to a folder, as .venv may be
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(project: Path, *args: str) -> str:
    """Run Python in a folder; return what it prints."""
    done = subprocess.run([sys.executable, *args], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(text: str, module: str) -> list[str]:
    """Return what follows ``python -m`` on a page, for modules that match a regular expression."""
    return re.findall(rf"python -m ({module}\b[^`#\n]*)", re.sub(r"\\\n\s*", "", text))


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """Return the cells of all tables of a page, without their heads."""
    bodies = re.findall(r"^\|[-:|]+\|\n((?:\|.*\n?)+)", text, re.M)
    lines = [line for body in bodies for line in body.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


RESULTS = table(section(PAGES["README.md"], "Measured results"))
# of this project, which a table lists: configs that a user adds are not tested here
CONFIGS = [ROOT / "configs" / name for row in RESULTS for name in re.findall(r"`(\w+\.yaml)`", row[0])]


@pytest.mark.parametrize(
    ("command", "page"),
    {each.strip(): name for name, text in CURRENT.items() for each in commands(text, "src.cli")}.items(),
)
def test_a_command_of_a_page_is_parsed(command: str, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "mine" in command or "--run" in command or " runs/" in command or "COMMAND" in command:
        return  # run by other tests
    for name, value in re.findall(r'^ *(\w+)="(.*)"$', PAGES[page], re.M):
        command = command.replace(f"${name}", value)
    args = shlex.split(command.replace("...", "configs/digits.yaml"))[1:]
    if args[0] == "new":  # takes no settings, and says so after its own words
        assert refused(capsys, *args, "--print_config").endswith(f"got {' '.join(args[1:])} --print_config\n")
        return
    if args[0] == "serve":  # its options are checked before its folder
        assert "is no folder of exported versions" in refused(capsys, *args)
        return
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    assert not stop.value.code
    assert "class_path" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [each for text in CURRENT.values() for each in commands(text, r"(?:scripts|tools)\.\w+")]
)
def test_a_script_has_the_options_that_a_page_prints(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, *args = command.split()
    if module.startswith("tools.") and sys.platform != "linux":
        pytest.skip("tools need Linux")
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit):
        import_module(module).main()
    text = capsys.readouterr().out
    words = [arg.partition("=")[0] for arg in args if "." not in arg]  # with a dot: a setting of fit
    assert [word for word in words if not word.isdigit() and not word.isupper() and word not in text] == []


def test_every_make_target_on_a_page_exists() -> None:
    files = [(ROOT / folder / "Makefile").read_text(encoding="utf-8") for folder in (".", "tools")]
    targets = set(re.findall(r"^([a-z-]+):", "\n".join(files), re.M))
    named = {each for text in CURRENT.values() for each in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.M)}
    assert len(named) > 5
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_has_a_target(page: str) -> None:
    folder = ROOT if (ROOT / page).is_file() else ROOT / "docs"
    for link, heading in re.findall(r"\]\(([^):]*?)(?:#([\w-]+))?\)", PAGES[page]):
        target = folder / link if link else folder / page
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M) if heading else []
        assert heading in ["", *(re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings)]


@pytest.mark.parametrize("page", CURRENT)
def test_every_file_and_class_that_a_page_names_exists(page: str) -> None:
    files = re.findall(r"(?:configs|docs|scripts|src|tests|tools)/[\w/-]+\.(?:py|yaml|md|svg)", CURRENT[page])
    assert [file for file in files if "mine" not in file and not (ROOT / file).exists()] == []
    for path in {
        path for path in re.findall(r"\bsrc(?:\.\w+)+\.[A-Z]\w+", CURRENT[page]) if ".mine" not in path.lower()
    }:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path


def test_the_table_of_presets_is_complete() -> None:
    named = {name for row in table(PAGES["presets.md"]) for name in row[0].split(", ")}
    assert named == {file.stem for file in (ROOT / "configs/presets").glob("*.yaml")}


@pytest.mark.heavy
def test_one_new_file_of_each_kind_is_used_by_naming_it(tmp_path: Path) -> None:
    project = copy(tmp_path / "project")
    rows = {row[0]: row for row in table(section(PAGES["CONTRIBUTING.md"], "Add something"))}
    assert rows.keys() == {*KEYS, "command"}
    assert {re.search(r"`(src/\S+)`", row[1])[1] for row in rows.values()} == MINE.keys()
    for name, text in MINE.items():
        (project / name).write_text(re.sub(r"^        ", "", text, flags=re.M), encoding="utf-8")
    paths = {kind: re.search(r"src[\w.]+\.Mine", rows[kind][2])[0] for kind in KEYS}
    settings = [f"--{key}={paths[kind]}" for kind, key in KEYS.items()]
    settings += ["--model.num_classes=10", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5"]
    out = run(project, "-m", "src.cli", "fit", *settings, "--trainer.max_epochs=2")
    assert "callback src.tasks.mine src.nets.mine src.losses.mine lr 0.25" in out
    assert "epoch 2/2" in out
    assert run(project, "-m", "src.cli", "mine", "--word", "hello") == "mine hello\n"


def test_the_table_of_rooms_says_who_may_import_whom() -> None:
    stated = {}
    for names, _, imports in table(section(PAGES["CONTRIBUTING.md"], "Rooms")):
        for name in re.findall(r"`(\w+)", names):
            stated[name] = set() if imports == "nothing" else set(imports.split(", "))
    assert stated == MAY_IMPORT


@pytest.mark.heavy
def test_every_file_and_command_of_own_code_runs(tmp_path: Path) -> None:
    page, project = PAGES["own-code.md"], copy(tmp_path / "project")
    blocks = re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", page, re.S)
    assert len(blocks) == 5
    (project / "mine").mkdir()
    for name, text in blocks:
        (project / name).write_text(text, encoding="utf-8")
    code = "import torch, mine.net; torch.save(mine.net.Net(10).state_dict(), 'net.pt')"
    run(project, "-c", code)
    new, *typed = commands(page, "src.cli")
    assert "src/nets/mine.py" in run(project, "-m", *new.split())
    assert len(typed) == 6
    for command in typed:
        out = run(project, "-m", *command.split(), "--trainer.max_epochs=1")
        assert "epoch 1/1" in out
        assert ("norm of the weights" in out) == ("PrintNorm" in command)
