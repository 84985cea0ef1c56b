"""Results of a study: the page tells the winner from trials that are as good."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.commands.studies.plan import Plan
from src.commands.studies.record import Study
from src.commands.studies.results import write_results

VALUES = [[0.70, 0.72, 0.71], [0.90, 0.92, 0.91], [0.91, 0.90, 0.91], [0.2], []]  # of the runs of five trials
STATES = ["complete", "complete", "complete", "pruned", "failed"]


def made_study(**settings: Any) -> Study:
    """Write the files of a study of which trial 1 is best and trial 2 as good."""
    plan = Plan(space={"data.batch_size": [1, 2, 3, 4, 5]}, seeds=[0, 1, 2], sampler="grid", **settings)
    base = {"name": "digits", "test": True, "trainer": {"default_root_dir": None}}
    study = Study(Path("runs/search/x"), plan)
    study.folder.mkdir(parents=True)
    content = {"folds": 1, "mode": "max", "monitor": "val/accuracy", "base": base}
    (study.folder / "study.json").write_text(json.dumps(content), encoding="utf-8")
    for i, (values, state) in enumerate(zip(VALUES, STATES, strict=True)):
        own = {f"seed_{k}": value for k, value in enumerate(values)}
        record = study.record(i)
        record.folder.mkdir()
        record.write(state=state, settings={"data.batch_size": i + 1}, values=own, error="<b>" if not own else "")
        for name in own:
            run = record.folder / name / "version_0"
            run.mkdir(parents=True)
            (run / "results.json").write_text('{"seconds": 20.0}', encoding="utf-8")
            (run / "config.yaml").write_text("trainer: {}\n", encoding="utf-8")
    return study


def states(study: Study) -> list[tuple[str, str]]:
    write_results(study)
    page = (study.folder / "search.html").read_text(encoding="utf-8")
    return re.findall(r'(\d+)</a></th><td class="text">([\w ]+)</td>', page)


def test_a_page_marks_the_winner_and_the_trials_as_good() -> None:
    expected = [("1", "winner"), ("2", "not distinguishable"), ("0", "complete"), ("3", "pruned"), ("4", "failed")]
    study = made_study()
    assert states(study) == expected
    page = (study.folder / "search.html").read_text(encoding="utf-8")
    assert "0.9100</b><small>± 0.0248, 95 %, 3 runs" in page  # 4.303 * 0.01 / 3 ** 0.5
    assert "<b>3.3 min</b>" in page  # ten runs of 20 s
    assert "python -m src.cli test --run runs/search/x/trial_0001/seed_0/version_0" in page
    assert "<li>Trial 4: &lt;b&gt;</li>" in page


def test_a_page_has_the_winner_of_the_runs_with_new_seeds_first() -> None:
    study = made_study(confirm={"top": 2, "seeds": [7, 8]})
    for i, values in ((1, [0.7, 0.71]), (2, [0.8, 0.81])):
        study.record(i).write(confirmed=dict(zip(("seed_7", "seed_8"), values, strict=True)))
    assert states(study)[:3] == [("2", "winner"), ("1", "complete"), ("0", "complete")]


def test_several_processes_may_write_the_results_at_the_same_time() -> None:
    study = made_study()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_results, Study(study.folder, study.plan)) for _ in range(12)]:
            done.result()
    names = {"study.json", "results.csv", "best.yaml", "search.html", *(f"trial_{i:04}" for i in range(5))}
    assert {file.name for file in study.folder.iterdir()} == names
