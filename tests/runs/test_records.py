"""Records are lines of their own, also of several processes, and nothing that fails here reaches a request."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from src import UserError
from src.runs.records import Records, record
from tests.conftest import ROOT, needs_posix

ANSWER = {"prediction": "7", "probability": 0.98, "probabilities": {"7": 0.98, "1": 0.02}}
PNG = b"\x89PNG and so on"


def one(id: str = "a", **more) -> dict:  # noqa: A002
    values = {"brightness": np.array([1.0, 2.5], dtype=np.float32), "class": np.array([1, 7])}
    return record(ANSWER, values, 1, id=id, model="digits", version=3, kind="classes", **more)


@pytest.fixture
def records() -> Records:
    found = Records(Path("records"))
    found.prepare()
    return found


def test_a_record_has_origin_answer_and_traits_but_no_picture(records):
    records.add(record({"prediction": {"1": 1.0}, "mask": "iVBO"}, {}, 0, id="m", model="x", version=1))
    records.add(one(name="a.png"), PNG)
    first, second = records.read()
    assert "mask" not in first
    assert second.pop("time").endswith("+00:00")
    origin = {"id": "a", "model": "digits", "version": 3, "kind": "classes", "name": "a.png"}
    assert second == origin | ANSWER | {"traits": {"brightness": 2.5, "class": 7.0}, "sha256": sha256(PNG).hexdigest()}
    assert [each.suffix for each in records.folder.iterdir()] == [".jsonl"]
    assert records.kept(second) is None


def test_a_picture_is_kept_once_under_its_sha256(records):
    records.keep_images = True
    for _ in range(2):
        records.add(one(), PNG)
    records.add(one(), b"\xff\xd8 a JPEG")
    files = sorted(each for each in records.folder.rglob("*") if each.is_file() and each.suffix != ".jsonl")
    assert sorted(each.suffix for each in files) == [".jpg", ".png"]
    found = [*records.read()]
    assert records.kept(found[0]) == records.kept(found[1])
    assert records.kept(found[0]).read_bytes() == PNG
    assert records.kept(found[0]).stem == sha256(PNG).hexdigest()
    assert records.kept({"id": "x"}) is None
    assert records.kept({"sha256": "../../etc"}) is None


def test_the_last_feedback_of_an_id_counts(records):
    for name in ("a", "b"):
        records.add(one(name))
    for name, label in (("a", "1"), ("a", "7"), ("unknown", "3")):
        records.feedback(name, label)
    assert [each.get("label") for each in records.read()] == ["7", None]


def test_of_several_records_with_one_id_the_newest_gets_the_label(records):
    for version in (1, 2):
        records.add(one("a") | {"version": version})
    records.feedback("a", "7")
    records.add(one("b"))
    records.add(one("a") | {"version": 3})
    found = [(each["id"], each["version"], each.get("label")) for each in records.read()]
    assert found == [("a", 1, None), ("a", 2, None), ("b", 3, None), ("a", 3, "7")]


def test_threads_that_keep_the_same_picture_lose_nothing(records, capsys):
    records.keep_images = True
    large = PNG + bytes(2_000_000)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda i: records.add(one(str(i)), large), range(16)))
    assert capsys.readouterr().err == ""
    assert [each.suffix for each in records.folder.glob("pictures/*/*")] == [".png"]


def test_a_line_that_was_cut_off_is_skipped_and_spoils_no_other(records):
    records.add(one("a"))
    (file,) = records.folder.glob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-20])
    assert [each["id"] for each in records.read()] == ["a"]
    Records(records.folder).add(one("b"))  # another process
    file.write_bytes(file.read_bytes() + b'[1]\n{"id": 3, "traits": {}}\n\xff"traits"\n{"id": "c", "traits": 1}\n')
    assert [each["id"] for each in records.read()] == ["a", "b"]


def test_several_processes_write_lines_of_their_own(records):
    code = "import sys; from pathlib import Path; from src.runs.records import *; r = Records(Path('records'))\n"
    code += "for i in range(300): r.add(record({}, {}, 0, id=f'{sys.argv[1]}-{i}', name='x' * 5000))"
    processes = [subprocess.Popen([sys.executable, "-c", code, name], env={"PYTHONPATH": str(ROOT)}) for name in "pq"]
    assert [each.wait() for each in processes] == [0, 0]
    (file,) = records.folder.glob("*.jsonl")
    lines = [json.loads(each)["id"] for each in file.read_text(encoding="utf-8").splitlines() if each]
    assert len(lines) == len({*lines}) == 600


@needs_posix
def test_a_full_disk_is_said_once_and_counted(records, capsys, monkeypatch):
    (records.folder / "pictures").write_text("in the way", encoding="utf-8")
    records.keep_images = True
    for _ in range(3):
        assert not records.add(one(), PNG)
    assert records.lost == 3
    assert len([*records.read()]) == 3
    monkeypatch.setattr(Path, "open", lambda *_, **__: open("/dev/full", "ab+", buffering=0))  # noqa: PTH123, SIM115
    assert not records.add(one())
    assert not records.feedback("a", "7")
    assert records.lost == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    later = time.monotonic() + 61
    monkeypatch.setattr("src.runs.records.monotonic", lambda: later)
    assert not records.add(one())
    assert capsys.readouterr().err.startswith("warning: records are lost")
    assert lines[0].startswith("warning: records are lost, because records/pictures/")


def test_a_folder_that_cannot_be_written_or_read_is_refused():
    Path("file").touch()
    with pytest.raises(UserError, match="cannot write records to file/x: Not a directory; choose another folder"):
        Records(Path("file/x")).prepare()
    with pytest.raises(UserError, match="nothing is no folder of records: predict writes one with"):
        Records.find(Path("nothing"))


def test_numbers_of_numpy_and_odd_names_are_written(records):
    records.add(one(name="b\udcffd\n.png") | {"prediction": np.float32(0.5)})
    (file,) = records.folder.glob("*.jsonl")
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1
    assert json.loads(file.read_text(encoding="utf-8"))["name"] == "b\udcffd\n.png"
