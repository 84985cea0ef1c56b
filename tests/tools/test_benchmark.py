"""The benchmark writes the table that it prints."""

import json
import sys
from pathlib import Path

import pytest
import torch

from src.nets import SmallCNN
from tools.benchmark import flops, main

pytestmark = pytest.mark.heavy


def test_the_table_is_printed_and_written_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "augmentation", "--repeats=1", "--json=table.json"])
    main()
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(Path("table.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == [line[:44].strip() for line in lines[1:]]
    assert len(rows) == 3
    assert max(map(len, lines)) <= 80


def test_an_unknown_group_is_rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "speed"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "unknown group speed: choose from overhead" in capsys.readouterr().err


def test_flops_are_twice_the_multiply_adds_of_each_layer() -> None:
    w = 4
    pairs = [(28, 1, w), (28, w, w), (14, w, 2 * w), (14, 2 * w, 2 * w), (7, 2 * w, 4 * w), (7, 4 * w, 4 * w)]
    convolutions = sum(size**2 * 9 * inputs * outputs for size, inputs, outputs in pairs)
    assert flops(torch.zeros(3, 1, 28, 28), SmallCNN(10, width=w)) == 3 * 2 * (convolutions + 4 * w * 10)
