"""A project that Copier makes: what was chosen, as it is here, and no trace of the rest."""

import ast
import itertools
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

COPIER = ROOT / ".tools/docs/bin/copier"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.long,
    pytest.mark.skipif(not COPIER.is_file(), reason="make docs installs it"),
]
PARTS = ("tasks", "search", "deploy", "examples")
OWN = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}  # others in a project
SETTINGS = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a clone")
    folder = tmp_path_factory.mktemp("template")
    for name in listed.stdout.strip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that makes a project with some of the parts, once."""

    @cache
    def make(*parts: str) -> Path:
        folder = tmp_path_factory.mktemp("made") / "my project"
        done = copy(template, folder, f"parts=[{', '.join(parts)}]")
        assert done.returncode == 0, done.stderr
        return folder

    return make


def copy(template: Path, folder: Path, *answers: str) -> "subprocess.CompletedProcess[str]":
    settings = [word for answer in answers for word in ("--data", answer)]
    command = [COPIER, "copy", "--quiet", "--defaults", *settings, template, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def left_out(part: str) -> list[str]:
    """Return the patterns of the files that a project has only with this part."""
    entries = [
        re.fullmatch(rf"{{% if '{part}' not in parts %}}(.*){{% endif %}}", each) for each in SETTINGS["_exclude"]
    ]
    return [each[1] for each in entries if each]


def of_part(part: str, template: Path) -> list[Path]:
    found = [file for pattern in left_out(part) for file in template.glob(pattern.lstrip("/"))]
    return [each for file in found for each in ([file] if file.is_file() else file.rglob("*")) if each.is_file()]


def test_with_all_parts_files_are_those_of_the_template(project, template) -> None:
    made, here = files(project(*PARTS)), files(template)
    assert made.keys() - here.keys() == {".copier-answers.yml"}
    assert [name for name in made.keys() & here.keys() - OWN if made[name] != here[name]] == []
    assert re.sub(rb"\(c\) \d+", b"(c) 2026", made["LICENSE"]) == here["LICENSE"]
    gone = sorted(here.keys() - made.keys())
    always = {each.lstrip("/") for each in SETTINGS["_exclude"] if "{%" not in each}
    assert [name for name in gone if not any(Path(name).is_relative_to(each) for each in always)] == [
        name for name in gone if name.endswith(".jinja")
    ]


def test_every_pattern_of_what_is_left_out_names_files(template) -> None:
    for part in PARTS:
        assert [each for each in left_out(part) if not [*template.glob(each.lstrip("/"))]] == []


@pytest.mark.parametrize(
    "parts", [(), *itertools.combinations(PARTS, 1), PARTS], ids=lambda parts: "+".join(parts) or "none"
)
def test_all_that_files_import_or_name_exists(parts, project) -> None:
    folder = project(*parts)
    assert [each for file in folder.rglob("*.py") for each in unresolved(file, folder)] == []
    paths = {
        (file.relative_to(folder).as_posix(), path)
        for file in (folder / "configs").rglob("*.yaml")
        for path in re.findall(r"\bsrc(?:\.\w+)+", file.read_text(encoding="utf-8"))
    }
    assert [each for each in paths if each[1] != "src.cli" and not exists(folder, *each[1].rpartition(".")[::2])] == []


def unresolved(file: Path, folder: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [(alias.name, "") for alias in node.names] if isinstance(node, ast.Import) else []
        names = [(node.module or "", alias.name) for alias in node.names] if isinstance(node, ast.ImportFrom) else names
        for module, name in names:
            if module.split(".")[0] in ("src", "tests", "scripts", "tools") and not exists(folder, module, name):
                yield file.relative_to(folder).as_posix(), f"{module}.{name}"


def exists(folder: Path, module: str, name: str) -> bool:
    """Tell whether a module of a project has a name, or is there at all."""
    path = folder / module.replace(".", "/")
    if (path / name).is_dir() or (path / f"{name}.py").is_file():
        return True
    file = path / "__init__.py" if (path / "__init__.py").is_file() else path.with_suffix(".py")
    return file.is_file() and (not name or re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None)


@pytest.mark.parametrize("parts", [(), *itertools.combinations(PARTS, 1)], ids=lambda parts: "+".join(parts) or "none")
def test_nothing_of_a_part_that_was_left_out_is_named(parts, project, template) -> None:
    folder = project(*parts)
    kept = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for part in {*PARTS} - {*parts}:
        gone = [file.relative_to(template).as_posix() for file in of_part(part, template)]
        assert {*gone} & kept == set()
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, traces(part, gone, template)))})\b")
        found = {
            (name, match)
            for name in kept
            if not name.startswith(("requirements", ".copier"))
            for match in pattern.findall((folder / name).read_bytes().decode(errors="replace"))
        }
        assert found == set()


def traces(part: str, gone: list[str], template: Path) -> set[str]:
    """Return what names a part: its modules, classes, configs, commands and libraries."""
    names = {
        name.removesuffix(".py").replace("/", ".") for name in gone if name.endswith(".py") and "__init__" not in name
    }
    names |= {name for name in gone if name.startswith(("configs/", "scripts/"))}
    names |= {f"src.cli {Path(name).stem}" for name in gone if re.fullmatch(r"src/commands/\w+\.py", name)}
    for name in gone:
        if re.match(r"src/(data|losses|nets|tasks)/", name):
            names |= set(re.findall(r"^class (\w+)", (template / name).read_text(encoding="utf-8"), re.M))
    extras = {"search": ["optuna", "psycopg"], "deploy": ["onnxruntime", "tritonclient", "uvicorn"]}
    return names | {*extras.get(part, [])}


def test_a_project_depends_on_what_the_template_does(project) -> None:
    here, made = (
        tomllib.loads((each / "pyproject.toml").read_text(encoding="utf-8")) for each in (ROOT, project(*PARTS))
    )
    for name in ("dependencies", "optional-dependencies", "requires-python"):
        assert made["project"][name] == here["project"][name]
    assert made["dependency-groups"] == {"dev": here["dependency-groups"]["dev"]}
    assert made["tool"] | {"mypy": 0} == here["tool"] | {"mypy": 0}
    bare = tomllib.loads((project() / "pyproject.toml").read_text(encoding="utf-8"))
    assert {*bare["project"]["optional-dependencies"]} == {"kornia", "mlflow", "models", "wandb"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("project_name=a b", "got a b"),
        ("license=GPL", "Invalid choice"),
        ("parts=[shop]", "Invalid choice"),
    ],
)
def test_an_invalid_answer_is_named_in_the_last_line(answer, message, template, tmp_path) -> None:
    done = copy(template, tmp_path / "project", answer)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "project").exists()


def test_folders_and_descriptions_may_have_any_letters(template, tmp_path) -> None:
    folder, description = tmp_path / "项目", '手写 "数字" \\n {{ x }} é'
    assert copy(template, folder, f"description={description}", "parts=[]").returncode == 0
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        tomllib.loads(text)["project"] | {"name": "my-project", "description": description}
        == tomllib.loads(text)["project"]
    )
    assert "手写" in text


def test_code_names_no_page_that_a_project_lacks() -> None:
    pages = [
        file for file in (ROOT / "src").rglob("*.py") if re.search(r"docs/\w+\.md", file.read_text(encoding="utf-8"))
    ]
    assert pages == []


def test_files_that_are_there_are_kept(template, tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine\n", encoding="utf-8")
    done = copy(template, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine\n"
    assert done.returncode == 0, done.stderr


def git(folder: Path, *args: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *args], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def owned(template: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a repository of the template at its tag 1.0.0, and one of a project made from it."""
    source, mine = shutil.copytree(template, tmp_path / "template"), tmp_path / "mine"
    git(source, "init", "-q")
    commit(source)
    git(source, "tag", "1.0.0")
    assert copy(source, mine, "parts=[search]").returncode == 0
    git(mine, "init", "-q")
    commit(mine)
    return source, mine


def test_an_update_keeps_what_the_owner_changed_and_brings_the_rest(owned) -> None:
    later, mine = owned
    assert "copier._vcs" not in (mine / "README.md").read_text(encoding="utf-8")  # Copier's own clone, deleted since
    edit(mine / "configs/digits.yaml", "lr: 4e-3", "lr: 8e-3")
    edit(mine / "configs/folder.yaml", "size: 64", "size: 96")
    edit(mine / "src/nets/small.py", "class SmallCNN", "class Mine:\n    pass\n\n\nclass SmallCNN")
    edit(mine / "README.md", "# mine", "# My own title")
    edit(mine / "Makefile", "CONFIG ?= configs/digits.yaml", "CONFIG ?= configs/mine.yaml")
    (mine / "scripts/slurm.sh").unlink()
    (mine / "src/nets/own.py").write_text("X = 1\n", encoding="utf-8")
    commit(mine)
    edit(later / "configs/digits.yaml", "max_epochs: 20", "max_epochs: 30")  # another line
    edit(later / "configs/folder.yaml", "size: 64", "size: 72")  # the same line
    (later / "src/nets/later.py").write_text("Y = 1\n", encoding="utf-8")
    commit(later)
    git(later, "tag", "1.1.0")
    done = subprocess.run(
        [COPIER, "update", "--quiet", "--defaults"], cwd=mine, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    digits, folder = ((mine / f"configs/{name}.yaml").read_text(encoding="utf-8") for name in ("digits", "folder"))
    assert "lr: 8e-3" in digits
    assert "max_epochs: 30" in digits
    assert folder.count("<<<<<<<") == 1
    assert "size: 96" in folder
    assert "size: 72" in folder
    assert "class Mine:" in (mine / "src/nets/small.py").read_text(encoding="utf-8")
    assert (mine / "README.md").read_text(encoding="utf-8").startswith("# My own title\n")
    assert "configs/mine.yaml" in (mine / "Makefile").read_text(encoding="utf-8")
    assert not (mine / "scripts/slurm.sh").exists()
    assert (mine / "src/nets/own.py").is_file()
    assert (mine / "src/nets/later.py").is_file()
    assert not (mine / "src/tasks/segmenter.py").exists()
    conflicts = [
        name for name, content in files(mine).items() if b"<<<<<<<" in content and not name.startswith(".git/")
    ]
    assert conflicts == ["configs/folder.yaml"]


def test_an_update_over_changes_that_are_not_committed_is_refused(owned) -> None:
    _, mine = owned
    (mine / "README.md").write_text("mine\n", encoding="utf-8")
    done = subprocess.run([COPIER, "update", "--defaults"], cwd=mine, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "dirty" in done.stderr.strip().splitlines()[-1].lower()
    assert (mine / "README.md").read_text(encoding="utf-8") == "mine\n"
