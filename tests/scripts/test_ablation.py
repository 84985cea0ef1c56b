"""The ablation: each study has a config, and its table holds means and standard deviations of finished runs."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from scripts.ablation import STUDIES, folder, table, write
from tests.conftest import ROOT


def test_the_table_of_a_study_holds_mean_and_std_of_each_column() -> None:
    options = Namespace(study="imbalance", epochs=10, seeds=[0, 1], settings=[], runs=Path("runs"))
    for name, recalls in (("plain", (0.9, 0.92)), ("focal loss", (0.95, 0.95))):
        for seed, recall in enumerate(recalls):
            run = folder(options, name, seed) / "version_0"
            run.mkdir(parents=True)
            each = {f"test/recall/{name}": recall - k / 10 for k, name in ((3, "seven"), (2, "eight"), (1, "nine"))}
            (run / "results.json").write_text(
                json.dumps({"test/recall": recall, "seconds": 30, **each}), encoding="utf-8"
            )
    assert table(options).splitlines() == [
        "| variant | balanced accuracy | recall of 7 to 9 | vs. plain | seeds | minutes per run |",
        "|---|--:|--:|--:|--:|--:|",
        "| plain | 91.00 ± 1.41 % | 71.00 ± 1.41 % |  | 2 | 0.5 |",
        "| focal loss | 95.00 ± 0.00 % | 75.00 ± 0.00 % | +4.00 | 2 | 0.5 |",
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_its_config_and_its_place_on_the_page(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ROOT / STUDIES[name].config).is_file()
    page = Path("recipes.md")
    page.write_text((ROOT / "docs/recipes.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr("scripts.ablation.TABLE", page)
    write(name, "a row\n")
    assert f"<!-- {name}: begin -->\na row\n<!-- {name}: end -->\n" in page.read_text(encoding="utf-8")
