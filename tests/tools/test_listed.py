"""All that the template ships is listed and counted; a project of its own may have more."""

import pytest

from tests.conftest import ROOT
from tests.test_docs import CONFIGS

pytestmark = pytest.mark.heavy


def test_every_config_is_in_the_table_of_results():
    assert {*(ROOT / "configs").glob("*.yaml")} == {*CONFIGS}


def test_src_as_a_whole_stays_small():
    files = (ROOT / "src").rglob("*.py")
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 23617
