"""The log is written whole, and never stops the server."""

import json
import os
from contextlib import contextmanager, redirect_stdout

from src.commands.serving import log
from src.commands.serving.log import Log


@contextmanager
def piped():
    """Make a pipe the standard output; yield its reading end."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as reading, redirect_stdout(stream):
        os.set_blocking(read, False)
        yield reading


def test_all_lines_are_written_in_their_order():
    kept, texts = Log(), [f"{i} {'x' * (i % 900)}" for i in range(60)]
    for text in texts:
        kept.event(text)
    with piped() as reader:
        kept.flush()
        assert [json.loads(line)["event"] for line in reader.read().splitlines()] == texts


def test_a_reader_that_stops_does_not_stop_the_server(monkeypatch):
    monkeypatch.setattr(log, "MOST_LINES", 1000)
    kept = Log()
    with piped() as reader:
        for i in range(3000):
            kept.event(f"{i} {'x' * 200}")
            kept.flush()  # would wait for ever
        assert len(kept.lines) == 1000
        found = []
        while kept.lines:
            found += reader.read().splitlines()
            kept.flush()
        kept.flush()
        found += reader.read().splitlines()
    events = [json.loads(line)["event"] for line in found]
    assert [int(each.split()[0]) for each in events[:-1]] == [*range(len(events) - 1)]
    assert events[-1] == f"{3000 - (len(events) - 1)} lines of the log were dropped, because nobody read them"
