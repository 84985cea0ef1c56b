"""The page of a study: of any number of trials, with what is known of each."""

import re
from typing import Any

import pytest

from src.analysis.study.axes import number
from src.analysis.study.page import study_page
from tests.studies import SPACE, VALUES, made_trials


def html(trials: list[Any], space: dict[str, Any] = SPACE, **values: Any) -> str:
    return study_page("Study x", "val/accuracy", "max", space, trials, **VALUES | values)


def test_a_page_has_the_winner_the_trials_and_their_errors() -> None:
    trials = made_trials(30)
    page, best = html(trials), trials[0]
    assert f"<h2>Winner: trial {best.number}</h2>" in page
    assert "<b>0.9200</b><small>± 0.1271, 95 %, 2 runs with new seeds" in page  # 12.706 * 0.01
    assert f"{number(best.settings['model.optimizer.lr'])}</td>" in page
    rows = re.findall(r'<a href="trial_(\d{4})/">(\d+)</a></th><td class="text">([\w ]+)</td>', page)
    assert [(int(name), int(text)) for name, text, _ in rows] == [(each.number, each.number) for each in trials]
    assert [state for _, _, state in rows] == [each.note or each.state for each in trials]
    failed = [each.number for each in trials if each.state == "failed"]
    assert failed
    assert all(f"<li>Trial {each}: out of memory" in page for each in failed)
    assert "<b>or" not in page
    assert "arXiv:2304.10255" not in page  # fewer than 20 are complete
    assert "arXiv:2304.10255" in html(made_trials(60))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("space", [SPACE, {}, {"a": {"choices": [1]}}])
def test_few_trials_and_constants_have_a_page(count: int, space: dict[str, Any]) -> None:
    page = html(made_trials(count, space, runs=1), space)
    assert ("One run a trial" in page) is (count > 0)
    assert "Which settings matter" in page if space is SPACE else "Which settings matter" not in page


def test_trials_without_a_finite_value_have_a_page() -> None:
    trials = [each for each in made_trials(30) if each.state == "failed" or not each.value > 0]
    assert len(trials) > 5
    assert "No trial is complete" in html(trials)


def test_a_page_of_many_trials_is_small() -> None:
    page = html(made_trials(1000))
    assert len(page.encode()) < 500_000
    assert page.count("<tr>") < 250
    assert "results.csv has all" in page
