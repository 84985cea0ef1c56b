"""The benchmark writes the table that it prints."""

import json
import sys
from pathlib import Path

import pytest

from tools.benchmark import main

pytestmark = pytest.mark.heavy


def test_the_table_is_printed_and_written_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "augmentation", "--repeats=1", "--json=table.json"])
    main()
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(Path("table.json").read_text())
    assert [row["name"] for row in rows] == [line[:44].strip() for line in lines[1:]]
    assert len(rows) == 3
    assert max(map(len, lines)) <= 80


def test_an_unknown_group_is_rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "speed"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "unknown group speed: choose from overhead" in capsys.readouterr().err
