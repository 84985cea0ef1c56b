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
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(not COPIER.is_file(), reason="make docs installs it")]
PARTS = ("tasks", "search", "deploy", "examples")
OWN = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}  # others in a project
SETTINGS = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
NOT_OURS = {
    ".git",
    ".venv",
    ".tools",
    "runs",
    "data",
    "models",
    "site",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def without(folder: str, names: list[str]) -> set[str]:
        return {*names} & (NOT_OURS if Path(folder) == ROOT else {"__pycache__"})

    return shutil.copytree(ROOT, tmp_path_factory.mktemp("t") / "template", ignore=without)


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
    gone = {
        name.split("/")[0] if name.split("/")[0] in ("docs", "tools") else name for name in here.keys() - made.keys()
    }
    always = {each.lstrip("/") for each in SETTINGS["_exclude"] if "{%" not in each}
    assert [name for name in gone if not any(Path(name).is_relative_to(each) for each in always)] == [
        name for name in sorted(gone) if name.endswith(".jinja")
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


def test_files_that_are_there_are_kept(template, tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine\n", encoding="utf-8")
    done = copy(template, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine\n"
    assert done.returncode == 0, done.stderr
