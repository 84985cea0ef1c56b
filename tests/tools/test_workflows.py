"""What runs on GitHub is what README, Makefile and .ci/run say, and all files name one version."""

import os
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.heavy
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))


UV = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
PLATFORMS = ("x86_64-manylinux_2_28", "x86_64-pc-windows-msvc", "aarch64-apple-darwin")


def commands(job: str) -> list[str]:
    steps: list[dict[str, Any]] = WORKFLOW["jobs"][job]["steps"]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def test_linux_runs_what_ci_runs():
    assert commands("linux")[-1] == ".ci/run"


def test_the_other_platforms_run_what_the_pages_say():
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/platforms.md")]
    install, fit, test = commands("without-make")[-3:]
    assert all(f".venv\\Scripts\\{install}\n" in page for page in pages)
    assert f"`{test}`" in pages[1]
    assert all(f"    {fit}" in page for page in pages)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\t@{test.replace('python', '$(PY)', 1)}\n" in makefile


def test_every_python_that_the_project_allows_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = project["requires-python"].removeprefix(">=")
    for job, each in WORKFLOW["jobs"].items():
        assert each["strategy"]["matrix"]["python"][0] == lowest, job
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]


@pytest.mark.long
@pytest.mark.skipif(not shutil.which(UV), reason="needs uv")
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_in_the_lock_must_be_built(platform: str, python: str) -> None:
    options = ["--no-deps", "--only-binary=:all:", f"--python-platform={platform}", f"--python-version={python}"]
    command = [UV, "pip", "compile", "-q", *options, "requirements.lock", "-o", os.devnull]
    macos = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that PyTorch has wheels for
    done = subprocess.run(command, cwd=ROOT, env=macos, capture_output=True, text=True, check=False)
    if "Failed to fetch" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
