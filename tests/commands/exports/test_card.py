"""The card of a version tells with which code it was trained and exported."""

from pathlib import Path

import pytest

from src.commands.exports import card

A, B = {"commit": "a", "dirty": False}, {"commit": "b", "dirty": False}


@pytest.mark.parametrize(
    ("exported", "trained", "text"),
    [
        (A, [], ""),
        (A, [A], ""),
        (A | {"dirty": True}, [A | {"dirty": True}], " and changes that were not committed"),
        (A, [A | {"dirty": True}], "; trained with that of commit a with changes that were not committed"),
        (B, [A], "; trained with that of commit a"),
        (B | {"dirty": True}, [A], " and changes that were not committed; trained with that of commit a"),
    ],
)
def test_code_that_the_commit_lacks_is_named(exported, trained, text):
    assert card.changed(exported | {"trained_with": trained}) == text


def test_the_code_of_a_run_is_that_of_its_last_start():
    run = Path("run")
    run.mkdir()
    assert card.trained_with([run]) == []
    (run / "provenance.json").write_text(
        '[{"git_commit": "a"}, {"git_commit": "b", "git_dirty": true}]', encoding="utf-8"
    )
    assert card.trained_with([run]) == [{"commit": "b", "dirty": True}]
    (run / "provenance.json").write_text('["damaged"]', encoding="utf-8")
    assert card.trained_with([run]) == []


def test_changes_at_the_export_are_noted(monkeypatch):
    answers = {"rev-parse": "a", "status": " M src/cli.py"}
    monkeypatch.setattr(card, "git", lambda command, *_: answers[command])
    info = card.describe()
    assert (info["commit"], info["dirty"]) == ("a", True)
