"""CSV files as people have them: each is read as it is meant, or refused in one line that says what to do."""

import gzip
import os
from pathlib import Path

import pytest

from src import UserError
from src.data.loading.csv_file import parse, read_csv
from tests.conftest import needs_posix

FILE = Path("t.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a header and at least two rows, got 0 rows"),
        (b"a,b\n\n\n", "must have a header and at least two rows, got 0 rows"),
        (b"a;b\n1;2\n3;4\n", "t.csv has fields separated by ';': save it with commas"),
        (b"a\tb\n1\t2\n3\t4\n", r"t.csv has fields separated by '\\t': save it with commas"),
        (b"a,b,a\n1,2,3\n4,5,6\n", "t.csv has several columns a: give each its own name"),
        (b"a, a\n1,2\n4,5\n", "t.csv has several columns a: give each its own name"),
        ("a,b\nKöln,1\nUlm,2\n".encode("latin-1"), "t.csv: it is not UTF-8 text; save it as CSV in UTF-8"),
        ("a,b\n1,2\n3,4\n".encode("utf-16"), "t.csv: it is not UTF-8 text; save it as CSV in UTF-8"),
        (gzip.compress(b"a,b\n1,2\n3,4\n"), "it is not UTF-8 text"),
        (b'a,b\n1,"2\n3,4\n', "cannot read the table t.csv: unexpected end of data"),
        (b"x" * 200_000, "field larger than field limit"),
        (b"a,b\n1,2\n3,4,5\n", "t.csv, row 3 must have 2 fields as the header, got 3"),
        (b"a,b\n1,2\n\n3\n", "t.csv, row 4 must have 2 fields as the header, got 1"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_table_is_one_line(content: bytes, message: str) -> None:
    FILE.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_csv(FILE)


@needs_posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_a_path_that_is_no_file_is_one_line(kind: str) -> None:
    if kind == "folder":
        FILE.mkdir()
    elif kind == "pipe":
        os.mkfifo(FILE)  # opening it would wait for ever
    elif kind == "device":
        FILE.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="No such file" if kind == "nothing" else "got a folder, pipe or device"):
        read_csv(FILE)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_rows_are_numbered_as_in_a_spreadsheet(start: bytes, end: bytes) -> None:
    FILE.write_bytes(start + end.join([b" a ,b", b"1,x", b"", b'"2","y', b'z"', b"3,", b""]))
    rows = read_csv(FILE)
    assert {i: row["a"] for i, row in rows.items()} == {2: "1", 4: "2", 5: "3"}
    assert rows[4]["b"].split() == ["y", "z"]
    assert rows[5]["b"] == ""


@pytest.mark.parametrize("text", ["1,5", "-0,25", "1,200", "1.200,5", "12,345,678.9", "1e39", "-1e300", "inf"])
def test_a_number_in_another_notation_is_no_category(text: str) -> None:
    rows = {2: {"a": text}, 3: {"a": text}}
    with pytest.raises(UserError, match=r"t.csv, row 2: a must be a (number such as 1200.5, got|finite number below)"):
        parse(FILE, "a", rows, may_miss=True)


@pytest.mark.parametrize("text", ["1_000", "\u0661\u0662"])
def test_only_plain_digits_are_numbers(text: str) -> None:
    assert parse(FILE, "a", {2: {"a": text}, 3: {"a": "x"}}, may_miss=True) == [text, "x"]
    with pytest.raises(UserError, match="row 2: a must be a number as in row 3"):
        parse(FILE, "a", {2: {"a": text}, 3: {"a": "5"}}, may_miss=True)


def test_a_few_categories_may_look_like_numbers_with_commas() -> None:
    texts = ["0,0", "0-0", "1-0"]
    assert parse(FILE, "a", {i: {"a": text} for i, text in enumerate(texts)}, may_miss=True) == texts
    with pytest.raises(UserError, match=r"row 2: a must be a number such as 1200.5, got '0,5': remove the comma"):
        parse(FILE, "a", {i: {"a": text} for i, text in enumerate(["1", "2", "0,5", "3"])}, may_miss=True)


@pytest.mark.parametrize("text", ["1,b", "a,1", "Ulm, Kiel", "1, 2", "A1,5"])
def test_a_text_with_a_comma_stays_a_category(text: str) -> None:
    assert parse(FILE, "a", {2: {"a": text}, 3: {"a": "x"}}, may_miss=True) == [text, "x"]
