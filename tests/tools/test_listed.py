"""All that the template ships is listed and counted; a project of its own may have more."""

import pytest

from src.config.arguments import command_names
from tests.conftest import ROOT
from tests.test_docs import CONFIGS

pytestmark = pytest.mark.heavy


def test_every_config_is_in_the_table_of_results():
    assert {*(ROOT / "configs").glob("*.yaml")} == {*CONFIGS}


def test_src_as_a_whole_stays_small():
    files = (ROOT / "src").rglob("*.py")
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 23617


def test_the_commands_are_those_of_all_parts():
    names = "fit validate test predict check export find_batch find_lr new report schedule search serve shard show"
    assert command_names() == names.split()
