"""Variants are timed in turns on one thread; one that is smaller but not faster is told."""

import numpy as np
import torch

from src.commands.exports.timing import ROUNDS, slower, time_sessions, time_table

TIMES = {"torch": {"1": 2.0, "64": 40.0}, "float32": {"1": 0.5, "64": 20.0}, "int8": {"1": 0.6, "64": 10.0}}


def test_variants_are_timed_in_turns_on_one_thread() -> None:
    calls: list[tuple[str, int, int]] = []

    def session(name: str):
        return lambda pixels: calls.append((name, len(pixels), torch.get_num_threads()))

    torch.set_num_threads(2)
    try:
        times = time_sessions({"a": session("a"), "b": session("b")}, np.zeros((3, 1, 2, 2), dtype=np.uint8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert calls == [("a", 1, 1), ("b", 1, 1)] * ROUNDS + [("a", 64, 1), ("b", 64, 1)] * ROUNDS
    assert times.keys() == {"a", "b"}
    assert times["a"].keys() == {"1", "64"}


def test_a_table_shows_multiples_of_the_first() -> None:
    head, *rows = time_table(TIMES)
    assert head == ("ms on one thread", "   batch 1          batch 64")
    assert rows[1] == ("float32", "     0.500  0.25 x    20.000  0.50 x")


def test_a_smaller_model_that_is_not_faster_is_told() -> None:
    text = "int8 is not faster than float32 for a batch of 1: 0.600 ms instead of 0.500 ms; export without --quantize"
    assert slower(TIMES, "int8") == [text]
    both = TIMES | {"pruned": {"1": 0.2, "64": 9.0}}
    assert slower({name: both[name] for name in ("torch", "float32", "pruned")}, "pruned") == []
    assert len(slower(both | {"pruned int8": {"1": 0.3, "64": 8.0}}, "pruned int8")) == 1
    assert slower({name: TIMES[name] for name in ("torch", "float32")}, "float32") == []
