"""The first hour of docs/first-hour.md, typed line by line in a new clone with real pictures, prints what it says."""

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import pytest

from tests.test_docs import PAGES, ROOT, copy

PAGE = PAGES["first-hour.md"]
PICTURES = ROOT.parent / "shared/data/cifar10-jpeg.tar.gz"
CLASSES = ("cat", "horse", "ship")
STEPS = re.findall(r"```sh\n(.*?)```(?:(?:(?!```).)*?```text\n(.*?)```)?", PAGE, re.S)  # what is typed, and its output
NUMBER, NAME = r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?", "|".join(CLASSES)
VERSION = r'version[_": ]+\d+|folder/\d+'


class Terminals:
    """Type lines in a folder: each in a shell of its own after the lines that changed the folder or environment."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder, self.template = folder, template
        self.before: list[str] = []
        self.address = "127.0.0.1:8000"
        self.server: subprocess.Popen[str] | None = None

    def type(self, line: str) -> tuple[int, str]:
        line = line.replace("URL", shlex.quote(self.template.as_uri())).replace("127.0.0.1:8000", self.address)
        if re.search(r"src\.cli serve \S+ --records", line):
            return self.serve(line)
        if line.startswith(("cd ", "source ")):
            self.before.append(line)  # the next line fails if this one does
            return 0, ""
        script = "\n".join(["set -e", *self.before, line])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, text=True, stdout=PIPE, stderr=STDOUT, check=False
        )
        return done.returncode, done.stdout

    def serve(self, line: str) -> tuple[int, str]:
        script = "\n".join(["set -e", *self.before, f"exec {line} --port=0 --drain=0"])
        self.server = subprocess.Popen(["bash", "-c", script], cwd=self.folder, text=True, stdout=DEVNULL, stderr=PIPE)
        assert self.server.stderr
        said = self.server.stderr.readline()
        self.address = said.strip().rpartition("//")[2]
        return 0, said


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    """Make a repository of the checkout's files that can be cloned."""
    template = copy(tmp_path / "template")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for args in (["init", "-q"], ["add", "--all"], [*author, "commit", "-q", "-m", "Start"]):
        subprocess.run(["git", *args], cwd=template, check=True)
    found = Terminals(tmp_path, template)
    yield found
    if found.server:
        with found.server:
            found.server.terminate()


def install(project: Path) -> None:
    """Add an environment with the installed packages, so that make installs none."""
    scripts = project / ".venv/bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    (scripts / "python").chmod(0o755)
    (scripts / "activate").write_text(f"PATH={shlex.quote(str(scripts))}:$PATH\n", encoding="utf-8")
    shutil.copy(project / "requirements.lock", project / ".venv/.stamp")


def add_pictures(project: Path) -> None:
    """Add the first 150 training pictures of three classes, one copy, a damaged file and a note; and a new picture."""
    with tarfile.open(PICTURES) as archive:
        for member in archive:
            found = re.fullmatch(rf"train/((?:{NAME})/0(?:0\d|1[0-4])\d\.jpg)|test/horse/0005\.jpg", member.name)
            stream = archive.extractfile(member) if found else None
            if found and stream:
                file = project / (f"photos/{found[1]}" if found[1] else "new.jpg")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(stream.read())
    photos = project / "photos"
    shutil.copy(photos / "horse/0001.jpg", photos / "horse/0001-copy.jpg")
    (photos / "ship/download.jpg").write_bytes((photos / "ship/0010.jpg").read_bytes()[:500])
    (photos / "notes.txt").write_text("taken in 2009", encoding="utf-8")


def pattern(line: str) -> str:
    """Match a printed line, with its versions, any other numbers, classes and spaces, and anything for ``...``."""
    parts = re.split(rf"({VERSION}|{NUMBER}|\.\.\.|\b(?:{NAME})\b|\s+)", line.strip())
    kinds = ((r"\s+", r"\s+"), (r"\.\.\.", ".*"), (NUMBER, NUMBER), (NAME, f"(?:{NAME})"))
    return "".join(next((new for old, new in kinds if re.fullmatch(old, each)), re.escape(each)) for each in parts)


@pytest.mark.heavy
@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("curl"), reason="needs Bash and curl")
@pytest.mark.skipif(not PICTURES.is_file(), reason="needs pictures")
def test_the_first_hour_prints_what_the_page_says(
    terminals: Terminals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for typed, stated in STEPS:
        printed = ""
        for line in re.sub(r"\\\n\s*", "", typed).splitlines():
            time.sleep("curl" in line)  # the server looks for a new version five times a second
            code, out = terminals.type(line)
            printed += f"$ {line}\n{out}"
            assert code == (1 if "mend " in out else 0), printed
            if line.startswith("cd "):
                install(terminals.folder / line[3:])
                add_pictures(terminals.folder / line[3:])
        for each in stated.splitlines():
            assert re.search(rf"^\s*{pattern(each)}\s*$", printed, re.M), f"not printed: {each}\n{printed}"
    assert len(STEPS) > 10
    status = subprocess.run(["git", "status", "--short"], cwd=tmp_path / "project", text=True, stdout=PIPE, check=True)
    assert status.stdout == "?? new.jpg\n?? out.txt\n"  # what the commands wrote is ignored


def test_the_page_of_the_first_hour_uses_few_commands() -> None:
    lines = [line for typed, _ in STEPS for line in re.sub(r"\\\n\s*", "", typed).splitlines()]
    assert len([line for line in lines if "src.cli" in line or "curl" in line]) <= 16


def test_a_stated_line_matches_only_lines_like_it() -> None:
    assert re.fullmatch(pattern("cat  96 24"), "horse 1,5   7.5e-7")
    assert not re.fullmatch(pattern("cat  96 24"), "cats 96 24")
    assert re.fullmatch(pattern("lr 0.1 ..."), "lr 2 s")
    assert not re.fullmatch(pattern("lr 0.1"), "rl 0.1")
    assert re.fullmatch(pattern('"version":2,"p":0.5'), '"version":2,"p":0.25')
    assert not re.fullmatch(pattern('"version":2'), '"version":1')
