"""Counters in Prometheus' text format, of one process and of several."""

import re
from pathlib import Path

from src.commands.serving.metrics import Metrics

LINE = re.compile(r'(# (HELP|TYPE) serve_\w+ .+|serve_\w+(\{\w+="[^"]*"\})? [-+.e\d]+)')


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found)


def test_counters_of_one_process():
    metrics = Metrics()
    for status, seconds in ((200, 0.0005), (200, 0.003), (503, 99.0)):
        metrics.request(status)
        metrics.predicted(seconds)
    for size in (1, 3, 256):
        metrics.batch(size)
    metrics.set("version", 7)
    text = metrics.text()
    assert all(LINE.fullmatch(line) for line in text.splitlines())
    assert len(set(text.splitlines())) == len(text.splitlines())
    assert value(text, 'serve_requests_total{status="200"}') == 2
    assert value(text, 'serve_requests_total{status="503"}') == 1
    assert value(text, 'serve_request_seconds_bucket{le="0.0005"}') == 1  # bounds are inclusive
    assert value(text, 'serve_request_seconds_bucket{le="0.002"}') == 1
    assert value(text, 'serve_request_seconds_bucket{le="0.005"}') == 2
    assert value(text, 'serve_request_seconds_bucket{le="+Inf"}') == value(text, "serve_request_seconds_count") == 3
    assert value(text, "serve_request_seconds_sum") == 99.0035
    assert value(text, 'serve_batch_size_bucket{le="4"}') == 2
    assert value(text, "serve_batch_size_sum") == 260
    assert value(text, 'serve_version{worker="0"}') == 7


def test_counters_of_several_processes_are_sums_that_outlive_a_process():
    file = Path("metrics")
    Metrics.allocate(file, 2)
    first, second = Metrics(0, file), Metrics(1, file)
    first.request(200)
    second.request(200)
    second.set("version", 3)
    second.set("in_flight", 2)
    for each in (first, second):
        assert value(each.text(), 'serve_requests_total{status="200"}') == 2
        assert value(each.text(), 'serve_version{worker="1"}') == 3
    again = Metrics(1, file)
    assert value(again.text(), 'serve_requests_total{status="200"}') == 2
    assert value(again.text(), 'serve_in_flight{worker="1"}') == 0
