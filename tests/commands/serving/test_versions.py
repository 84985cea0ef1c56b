"""Versions are replaced without losing requests, and a bad candidate is withdrawn."""

import asyncio
import shutil
import threading

import numpy as np
import pytest

from src import UserError
from src.commands.serving.model import Model
from src.commands.serving.versions import Versions
from src.runs.exports import Models
from tests.served import FOLDER, publish


class Served(Versions):
    """Versions that note what they log."""

    def __init__(self, share: float = 0.0) -> None:
        self.said: list[str] = []
        super().__init__(Models(FOLDER), share, Model.load, self.said.append)

    def look(self) -> list[int]:
        self.update(*self.find())
        return [each.number for each in self.loaded]

    def answers(self, number: int, seconds: float, failures: int = 0, times: int = 500) -> None:
        (model,) = [each for each in self.loaded if each.number == number] or [None]
        for i in range(times if model else 0):
            self.note(model, seconds, failed=i < failures)


def test_the_server_follows_the_current_version():
    publish()
    versions = Served()
    publish()
    assert versions.look() == [2]
    Models(FOLDER).roll_back()
    assert versions.look() == [1]
    (FOLDER / "CURRENT").unlink()
    assert versions.look() == [1]
    assert versions.said == ["version 2 replaces version 1", "version 1 replaces version 2"]


def test_a_broken_version_is_named_once_and_changes_nothing():
    publish()
    versions = Served()
    publish()
    (FOLDER / "2/model.onnx").write_bytes(b"broken")
    assert [versions.look() for _ in range(3)] == [[1]] * 3
    assert len(versions.said) == 1
    assert versions.said[0].startswith("version 2 is not served: models/digits/2/model.onnx is damaged")
    publish(nan=True)
    assert versions.look() == [3]


def test_a_version_is_served_once_all_its_files_are_there():
    publish()
    versions = Served(share=0.5)
    publish(current=False)
    complete = FOLDER / "2"
    parts = {each.name: each.read_bytes() for each in complete.iterdir()}
    shutil.rmtree(complete)
    Models(FOLDER).path.joinpath("CURRENT").write_text("2\n", encoding="utf-8")  # before the version, as by cp
    assert versions.look() == [1]
    complete.mkdir()
    for name in ("SHA256SUMS", *sorted(parts.keys() - {"SHA256SUMS"})):
        assert versions.look() == [1]
        (complete / name).write_bytes(parts[name])
    assert versions.look() == [2]
    assert versions.said[-1] == "version 2 replaces version 1"


def test_a_folder_without_current_version_is_refused():
    publish(current=False)
    with pytest.raises(
        UserError, match=r"has no CURRENT version: choose one with python -m src\.cli serve models/digits --use N"
    ):
        Served()


def test_the_candidate_gets_its_share_always_of_the_same_ids():
    publish()
    versions = Served(0.2)
    assert [each.number for each in versions.choose("a")] == [1]
    publish(current=False)
    assert versions.look() == [1, 2]
    first = [versions.choose(f"id {i}")[0].number for i in range(2000)]
    assert first == [versions.choose(f"id {i}")[0].number for i in range(2000)]
    assert 0.17 < first.count(2) / 2000 < 0.23
    assert versions.said == ["version 2 gets 20% of the requests"]
    Models(FOLDER).use(2)
    assert versions.look() == [2]


def test_a_version_that_was_rolled_back_gets_no_requests_as_a_candidate():
    publish()
    publish()
    versions = Served(0.5)
    Models(FOLDER).roll_back()
    assert versions.look() == [1]
    Models(FOLDER).use(2)
    assert versions.look() == [2]


@pytest.mark.parametrize(
    ("seconds", "failures", "reason"),
    [
        (0.010, 0, ""),
        (0.0205, 5, ""),
        (0.022, 0, "p99 is 22.0 ms over 500 requests; version 1: 10.0 ms"),
        (0.010, 6, "1.2% failed over 500 requests; version 1: 0.0%"),
    ],
)
def test_a_candidate_twice_as_slow_or_faulty_is_withdrawn(seconds, failures, reason):
    publish()
    publish(current=False)
    versions = Served(0.5)
    versions.answers(1, 0.010)
    versions.answers(2, seconds, failures, times=499)
    assert versions.look() == [1, 2]
    versions.answers(2, seconds, times=1)
    assert versions.look() == ([1] if reason else [1, 2])
    assert (FOLDER / "2/REJECTED").exists() == bool(reason)
    if reason:
        assert (FOLDER / "2/REJECTED").read_text(encoding="utf-8") == f"{reason}\n"
        assert versions.said[-1] == f"version 2 is withdrawn: {reason}"
        (FOLDER / "2/REJECTED").unlink()
        assert versions.look() == [1, 2]
        publish(current=False)
        assert versions.look() == [1, 3]


def test_a_candidate_is_withdrawn_in_a_folder_that_cannot_be_written(monkeypatch):
    def refuse(*_args: object) -> None:
        raise UserError("cannot write")

    publish()
    publish(current=False)
    versions = Served(0.5)
    monkeypatch.setattr(Models, "reject", refuse)
    versions.answers(2, 0.001, failures=500)
    assert versions.look() == [1]
    assert versions.said[-1] == "cannot write"


def test_a_version_that_nobody_uses_is_freed():
    publish()
    versions = Served()
    before = threading.enumerate()
    asyncio.run(versions.current.predict(np.zeros((1, 1, 8, 8), np.uint8)))
    (worker,) = {*threading.enumerate()} - {*before}
    publish()
    versions.look()
    worker.join(5)
    assert not worker.is_alive()
