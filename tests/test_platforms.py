"""Windows, macOS and other locales: what Python shows of them on Linux."""

import ast
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from src import quote, replace_file
from src.data.loading import cache
from tests.conftest import PATH, ROOT
from tests.pretended import Seen, Windll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pretends to be another platform")
QUICK = ["--trainer.max_epochs=1", "--data.size=16", "--model.net=src.nets.SmallCNN", "--model.net.in_channels=3"]
ENVIRONMENT = os.environ | PATH | {"OMP_NUM_THREADS": "1"}
ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WINDOWS = Seen(os, {"sysconf"}, {"name": "nt"})
RUN = "runs/digits/version_0"
FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=1"]
LIFE = [
    FIT,
    ["fit", f"--run={RUN}", "--trainer.max_epochs=2"],
    *([command, f"--run={RUN}"] for command in ("validate", "test", "predict")),
    ["report", RUN],
    ["export", f"--run={RUN}"],
]
PARSE = """
import locale, sys
from pathlib import Path
from src.config.arguments import read
from src.config.parser import parse
assert locale.getpreferredencoding(False) != "UTF-8"
for file in sys.argv[1:]:
    base = [] if Path(file).parent.name == "configs" else ["--config=configs/digits.yaml"]
    parse(read(["search" if "/search/" in file else "fit", *base, f"--config={file}"])[0])
"""


def pretended(kind: str, *commands: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "tests/pretended.py"), kind, json.dumps(commands)]


def save_photos(folder: Path, names: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(12):
            image = Image.new("RGB", (16, 16), (20 * i, 255 * names.index(name), 0))
            image.save(folder / name / f"{i}.png")


@pytest.mark.parametrize("folder", ["src", "scripts", "tests"])
def test_modules_that_windows_lacks_are_imported_where_they_are_used(folder: str) -> None:
    absent = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
    for file in {*(ROOT / folder).rglob("*.py")} - {*ROOT.glob("tests/tools/*")}:
        top = ast.parse(file.read_text(encoding="utf-8")).body
        names = {each.name for node in top if isinstance(node, ast.Import) for each in node.names}
        names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        assert not names & absent, file


def test_a_file_that_another_program_has_open_is_replaced_later(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def replace(part: Path, file: Path) -> None:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise PermissionError(13, "Access is denied")
        os.replace(part, file)  # noqa: PTH105

    monkeypatch.setattr(Path, "replace", replace)
    Path("a").touch()
    with pytest.raises(PermissionError):  # elsewhere it is no matter of time
        replace_file(Path("a"), Path("b"))
    monkeypatch.setattr("src.os", WINDOWS)
    replace_file(Path("a"), Path("b"))
    assert Path("b").exists()
    assert len(tries) == 4
    monkeypatch.setattr("src.time", SimpleNamespace(monotonic=iter(range(99)).__next__, sleep=lambda _: None))
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        replace_file(Path("b"), Path("a"))


def refuse(*_: object) -> None:
    raise PermissionError(13, "Access is denied")


def test_src_renames_files_only_by_what_waits_on_windows() -> None:
    alone = {"__init__.py", "claim.py", "records.py"}  # the others have one writer, or do not mind
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            renames = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "replace" and len(node.args) == 1
            assert not renames or file.name in alone, f"{file}, line {node.lineno}"


@pytest.mark.parametrize(
    ("word", "posix", "windows"),
    [
        ("runs/a/version_0", "runs/a/version_0", "runs/a/version_0"),
        (r"runs\a\version_0", r"'runs\a\version_0'", r"runs\a\version_0"),
        ("my runs/a", "'my runs/a'", '"my runs/a"'),
        ("a&b", "'a&b'", '"a&b"'),
        ("--x={'a': 1}", """'--x={'"'"'a'"'"': 1}'""", "\"--x={'a': 1}\""),
    ],
)
def test_a_printed_word_can_be_pasted(word: str, posix: str, windows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quote(word) == posix
    monkeypatch.setattr("src.os", WINDOWS)
    assert quote(word) == windows


def test_the_memory_of_a_machine_is_known_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.memory() > 2**28
    monkeypatch.setattr(cache, "os", WINDOWS)
    monkeypatch.setattr(cache, "ctypes", Seen(ctypes, set(), {"windll": Windll()}))
    assert cache.memory() == 8 * 2**30


@pytest.mark.heavy
@pytest.mark.long
@pytest.mark.parametrize("kind", ["windows", "macos", "spawn"])
def test_the_commands_of_a_run_work_on_another_platform(kind: str) -> None:
    done = subprocess.run(pretended(kind, *LIFE), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    checkpoints = {file.name for file in Path(RUN, "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt"}
    assert Path("models/digits/1/model.onnx").is_file()
    results = json.loads(Path(RUN, "results.json").read_text(encoding="utf-8"))
    assert ("peak_memory_mib" in results) == (kind != "windows")


@pytest.mark.heavy
@pytest.mark.long
def test_windows_trains_on_pictures_and_deletes_a_refused_run() -> None:
    save_photos(Path("photos"))
    folder = ["fit", "--config=configs/folder.yaml", "--data.root=photos", *QUICK]
    spawned = ["--data.in_memory=false", "--data.num_workers=1", "--test=false", "--trainer.num_sanity_val_steps=0"]
    commands = [[*folder, *spawned], [*FIT, "--best.monitor=val/x", "--best.mode=max"]]
    done = subprocess.run(pretended("windows", *commands), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: best.monitor val/x is not logged")
    assert Path("runs/folder/version_0/checkpoints/last.ckpt").is_file()
    assert not Path("runs/digits").exists()


@pytest.mark.heavy
@pytest.mark.long
def test_two_processes_on_windows_never_train_in_one_folder() -> None:
    long = [*FIT, "--trainer.max_epochs=1000"]
    with subprocess.Popen(pretended("windows", long), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as first:
        while not Path(RUN, "checkpoints/last.ckpt").exists() and first.poll() is None:
            time.sleep(0.1)
        again = pretended("windows", ["fit", f"--run={RUN}"])
        second = subprocess.run(again, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        first.send_signal(signal.SIGUSR2)  # its SIGBREAK
        out, _ = first.communicate()
    assert second.returncode == 2
    assert f"another process is training in {RUN}" in second.stderr
    assert first.returncode == 128 + signal.SIGUSR2
    assert f"stopped  resume with: python -m src.cli fit --run {RUN}" in out


@pytest.mark.heavy
@pytest.mark.long
def test_configs_and_names_are_utf8_in_any_locale() -> None:
    files = [str(file) for file in sorted(Path("configs").rglob("*.yaml"))]
    assert len(files) > 50
    files = [file for file in files if find_spec("timm") or "timm" not in Path(file).read_text(encoding="utf-8")]
    parsed = subprocess.run(
        [sys.executable, "-c", PARSE, *files], env=ENVIRONMENT | ASCII_ONLY, capture_output=True, text=True, check=False
    )
    assert parsed.returncode == 0, parsed.stderr
    save_photos(Path("photos"), names=("cat", "\u732b"))
    run = "--run=runs/folder/version_0"
    commands = [["fit", "--config=configs/folder.yaml", *QUICK, "--data.root=photos"], ["validate", run]]
    commands += [["predict", run, "--images=photos"], ["report", "runs/folder/version_0"]]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "src.cli", *command], env=ENVIRONMENT | ASCII_ONLY, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for name in ("predictions.csv", "report.html"):
        assert "\u732b" in Path("runs/folder/version_0", name).read_text(encoding="utf-8")


def test_a_checkout_has_unix_line_ends_whatever_git_is_set_to() -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    Path("made").mkdir()
    for name in (".gitattributes", ".ci/run", "configs/digits.yaml", "docs/report.webp"):
        Path("made", name).parent.mkdir(exist_ok=True)
        Path("made", name).write_bytes((ROOT / name).read_bytes())
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
        subprocess.run([*git, *command], cwd="made", check=True)
    subprocess.run([*git, "clone", "-q", "-c", "core.autocrlf=true", "made", "cloned"], check=True)
    for file in (".ci/run", "configs/digits.yaml", "docs/report.webp"):
        assert Path("cloned", file).read_bytes() == (ROOT / file).read_bytes()


@pytest.mark.parametrize("page", ["README.md", "docs/platforms.md"])
def test_without_make_the_lock_is_installed_by_python_alone(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    create, install = re.findall(r"^    (python -m venv .*)\n    (.*-m pip .*)", text, re.M)[0]
    subprocess.run([sys.executable, *create.split()[1:], "--without-pip"], check=True)
    assert install.split()[0] == r".venv\Scripts\python"
    assert Path(".venv/bin/python").exists()  # on Linux
    assert install.split()[1:] == ["-m", "pip", "install", "--require-hashes", "-r", "requirements.lock"]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert len(pins) > 50
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:", pin) for pin in pins)
    assert "torch==" in "\n".join(pins)
