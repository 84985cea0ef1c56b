"""The tools need Linux, and their tests are all heavy: they are not imported where those are left out."""

import sys

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return True if sys.platform != "linux" or config.getoption("markexpr") == "not heavy" else None
