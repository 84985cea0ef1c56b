"""The files that ``new`` writes are sound, work at once, and replace nothing; all are written, or none."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import UserError
from src.cli import main
from src.commands import new
from tests.conftest import ROOT, refused
from tests.test_docs import copy, run

KINDS = [*new.ROOMS]
LONGEST = "Abcdefghij_klmnopqrst_uvwxyz12"  # 30 characters


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with what ``new`` reads, and what its files import."""
    folder = Path("project").absolute()
    for room in new.ROOMS.values():
        shutil.copytree(ROOT / "src" / room, folder / "src" / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "configs").mkdir()
    (folder / "tests").mkdir()
    for name in ("src/cli.py", "tests/conftest.py", "configs/digits.yaml"):
        (folder / name).touch()
    shutil.copy(ROOT / "pyproject.toml", folder)
    monkeypatch.setattr(new, "ROOT", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ruff(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "ruff", *args, "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", ["MyNet", "my_net", "my-net", "myNet", "my-Net"])
def test_every_spelling_of_a_name_gives_the_same_files(
    project: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(project)
    main(["new", "net", name])
    after = contents(project)
    written = ["src/nets/my_net.py", "configs/my_net.yaml", "tests/nets/test_my_net.py"]
    assert after.keys() - before.keys() == {*written}
    assert before.items() <= after.items()
    assert "\nclass MyNet(nn.Module):\n" in after[written[0]].decode()
    assert yaml.safe_load(after[written[1]])["model"]["init_args"]["net"]["class_path"] == "src.nets.my_net.MyNet"
    commands = [f"-m pytest {written[2]}", f"-m src.cli check --config {written[1]} --fit"]
    commands += [f"-m src.cli fit --config {written[1]}"]
    lines = capsys.readouterr().out.splitlines()
    assert [line[8:] for line in lines[:3]] == written
    assert lines[3:] == ["", *(f"{'' if i else 'next':<8}python {each}" for i, each in enumerate(commands))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLP", ("mlp", "MLP")),
        ("HTTPNet2", ("http_net2", "HTTPNet2")),
        ("ResNet50", ("res_net50", "ResNet50")),
        ("a1-b_C", ("a1_b_c", "A1BC")),
        ("x", ("x", "X")),
    ],
)
def test_acronyms_and_digits_are_kept_in_names(name: str, expected: tuple[str, str]) -> None:
    assert new.names(name) == expected


def test_files_of_any_name_are_formatted_and_have_no_placeholder(project: Path) -> None:
    before = contents(project)
    for kind in KINDS:
        for name in (f"{kind[0]}0", LONGEST[: -len(kind)] + kind):
            main(["new", kind, name])
    new_files = {name: text.decode() for name, text in contents(project).items() if name not in before}
    assert len(new_files) == 3 * 2 * len(KINDS)
    assert [name for name, text in new_files.items() if re.search(r"\$|\bName\b|TODO", text)] == []
    code = [name for name in new_files if name.endswith(".py")]
    assert ruff(project, "check", *code) == ""
    assert ruff(project, "format", "--check", *code) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "new needs a KIND and a NAME, as in: new net MyNet; kinds: task, net, data, loss, callback; got none"),
        ("net", "new needs a KIND and a NAME, .* got net"),
        ("net A B", "new needs a KIND and a NAME, .* got net A B"),
        ("net A --trainer.max_epochs=3", "new needs a KIND and a NAME, .* got net A --trainer.max_epochs=3"),
        ("nett MyNet", "new: there is no kind 'nett', did you mean net\\?; kinds: task, net, data, loss, callback"),
        ("dataset A", "new: there is no kind 'dataset', did you mean data\\?; .*"),
        ("net ../x", "new: NAME must be English letters, digits and single _ or -, .*; got '../x'"),
        ("net nöt", "new: NAME must be .*"),
        ("net 2d", "new: NAME must be .*"),
        ("net a__b", "new: NAME must be .*"),
        ("net _a", "new: NAME must be .*"),
        ("net a.b", "new: NAME must be .*"),
        (f"net {LONGEST}x", "new: NAME must be .* at most 30 characters, .*"),
        ("net class", "new: class is a name of Python itself; choose another NAME, such as MyClass"),
        ("net True", "new: True is a name .*"),
        ("data list", "new: list is a name .*"),
        ("loss ValueError", "new: ValueError is a name .*"),
        ("net random", "new: random is a name .*"),
        ("net small", "new: src/nets/small.py exists; choose another NAME than small"),
        ("data loading", "new: src/data/loading exists; .*"),
        ("task Digits", "new: configs/digits.yaml exists; .*"),
        ("net LeNet", "new: src.nets.small has a class LeNet; choose another NAME for the net"),
        ("callback EMA", "new: src.callbacks.averaging has a class EMA; .*"),
        ("loss Tensor", "new: torch has a class Tensor; .*"),
    ],
)
def test_what_cannot_be_written_is_refused(
    project: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(project)
    assert re.fullmatch(f"error: {message}\n", refused(capsys, "new", *words.split()))
    assert contents(project) == before


def test_an_empty_name_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "new", "net", "").endswith("such as MyNet; got ''\n")
    assert not (project / "tests/nets").exists()


@pytest.mark.parametrize("name", ["src/nets/my_net.py", "configs/my_net.yaml", "tests/nets/test_my_net.py"])
def test_an_existing_file_or_broken_link_is_kept(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).symlink_to("absent")
    before = contents(project)
    assert f"error: new: {name} exists" in refused(capsys, "new", "net", "MyNet")
    assert contents(project) == before


@pytest.mark.parametrize("blocked", ["configs", "tests/nets"])
def test_a_folder_that_cannot_be_written_leaves_no_file(
    project: Path, blocked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(project / blocked, ignore_errors=True)
    (project / blocked).parent.mkdir(exist_ok=True)
    (project / blocked).touch()
    before = contents(project)
    error = refused(capsys, "new", "net", "MyNet")
    assert re.match(rf"error: new: cannot write .*/{blocked}/\w+\.\w+ \(.*\); nothing was written\n", error)
    assert contents(project) == before


def test_an_interruption_between_two_files_leaves_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, opened = contents(project), Path.open

    def interrupted(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "test_my_net.py":
            raise KeyboardInterrupt
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["new", "net", "MyNet"])
    assert stop.value.code == 130
    assert contents(project) == before


def test_a_file_that_appears_meanwhile_is_kept(project: Path) -> None:
    theirs = project / "theirs.py"
    theirs.write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write .*theirs\.py \(File exists\); nothing was written"):
        new.write({project / "mine.py": "", theirs: ""})
    assert theirs.read_text(encoding="utf-8") == "kept"
    assert not (project / "mine.py").exists()


def test_help_and_files_need_no_torch(project: Path) -> None:
    code = "import sys; from src.commands import new; from src.cli import main; from pathlib import Path\n"
    code += f"new.ROOT = Path({str(project)!r}); main(['new', '--help']); main(['new', 'net', 'MyNet'])\n"
    code += "print({'torch', 'lightning', 'numpy', 'jsonargparse'} & {*sys.modules})"
    out = run(ROOT, "-c", code)
    assert out.startswith("usage: python -m src.cli new KIND NAME\n")
    assert out.endswith("\nset()\n")
    assert max(map(len, out.split("\ntask ")[0].splitlines())) <= 80


@pytest.mark.heavy
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_commands_run_at_once(kind: str, tmp_path: Path) -> None:
    project = copy(tmp_path / "copy")
    lines = run(project, "-m", "src.cli", "new", kind, "my-own").splitlines()[-3:]
    test, check, fit = (line.removeprefix("next").split()[1:] for line in lines)
    assert re.search(r"\d+ passed in", run(project, *test))
    run(project, *check)
    assert "epoch 1/1" in run(project, *fit, "--trainer.max_epochs=1")
    assert (project / "runs/my_own/version_0/report.html").is_file()


@pytest.mark.heavy
@pytest.mark.long
def test_new_files_have_types_and_leave_the_tests_of_the_project_alone(tmp_path: Path) -> None:
    project = copy(tmp_path / "copy")
    for kind in KINDS:
        run(project, "-m", "src.cli", "new", kind, f"my-{kind}")
    code = [f"src/{room}/my_{kind}.py" for kind, room in new.ROOMS.items()]
    run(project, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), *code)
    tests = [f"tests/test_{name}.py" for name in ("layout", "configs", "readme", "docs", "recipes")]
    listing = "may or small or lines or engine or map or header or table or begins_with_the_seed"
    assert re.search(r"\d+ passed", run(project, "-m", "pytest", "-q", *tests, "-m", "not heavy", "-k", listing))
