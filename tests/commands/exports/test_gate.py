"""A gate is read from its text, and compares a value or the worse end of its interval."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src import UserError
from src.commands.exports.gate import Gate, check_known, logged
from src.config.arguments import Options
from src.runs.folder import Run

METRICS = {
    "test/accuracy": {"value": 0.98, "low": 0.97, "high": 0.985},
    "test/loss": {"value": 0.2, "low": None, "high": None},
}


@pytest.mark.parametrize(
    "text", ["accuracy", "test/accuracy=>0.9", "test/accuracy>=much", "test/accuracy>=nan", ">=0.9"]
)
def test_a_gate_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match=r"--gate must be such as 'test/accuracy>=0\.98', with >=, >, <= or <, got"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "lower", "passes"),
    [
        ("test/accuracy>=0.98", False, True),
        ("test/accuracy > 0.98", False, False),
        ("test/accuracy>=0.98", True, False),
        ("test/accuracy>=0.97", True, True),
        ("test/accuracy<=0.98", False, True),
        ("test/accuracy<=0.98", True, False),
        ("test/accuracy<0.986", True, True),
        ("test/loss<0.2", False, False),
        ("test/loss<=2e-1", False, True),
    ],
)
def test_a_gate_compares_the_value_or_its_worse_end(text, lower, passes):
    gate = Gate.parse(text)
    if passes:
        gate.check(METRICS, lower)
    else:
        with pytest.raises(UserError, match=r"^gate missed: test/\w+ is 0\.\d{4}.* must be [<>]=? 0\.\d+$"):
            gate.check(METRICS, lower)


def test_a_missed_gate_tells_the_interval():
    with pytest.raises(UserError) as missed:
        Gate.parse("test/accuracy>=0.98").check(METRICS, lower=True)
    text = "gate missed: test/accuracy is 0.9800, 95 % between 0.9700 and 0.9850, but the worse end of its interval"
    assert str(missed.value) == f"{text} must be >= 0.98"


def test_a_gate_that_cannot_be_checked_is_refused():
    gate, others = Gate.parse("test/acuracy>=0.98"), METRICS | {"test/recall/cat": METRICS["test/loss"]}
    text = "--gate: test/acuracy is no metric of this export; choose from test/accuracy, test/loss$"
    with pytest.raises(UserError, match=text):
        check_known([gate], "test/accuracy", others, lower=False)
    with pytest.raises(UserError, match="--gate_lower needs --gate"):
        check_known([], "test/accuracy", others, lower=True)
    with pytest.raises(UserError, match="--gate_lower: test/loss has no interval, only test/accuracy has one"):
        check_known([Gate.parse("test/loss<1")], "test/accuracy", others, lower=True)
    with pytest.raises(UserError, match="test/loss has no interval, no metric of this export has one"):
        check_known([Gate.parse("test/loss<1")], None, others, lower=True)


def test_a_long_list_of_metrics_is_cut_visibly():
    gate, others = Gate.parse("test/acuracy>=0.98"), {f"test/{i}": METRICS["test/loss"] for i in range(11)}
    for count, end in ((11, ", test/10$"), (12, r", test/10, \.\.\.$")):
        known = dict([*others.items(), *[("test/11", METRICS["test/loss"])] * (count - 11)])
        with pytest.raises(UserError, match=f"choose from test/accuracy, test/0.*{end}"):
            check_known([gate], "test/accuracy", known, lower=False)


def test_a_metric_that_was_not_finite_is_named_as_such():
    others = METRICS | {"test/auroc": {"value": math.nan, "low": None, "high": None}}
    text = "--gate: test/auroc is not a finite number in the results.json of the run; choose from test/accuracy, test/"
    with pytest.raises(UserError, match=text):
        check_known([Gate.parse("test/auroc>=0.5")], "test/accuracy", others, lower=False)


def test_a_metric_that_was_not_measured_misses_its_gate():
    with pytest.raises(UserError, match=r"^gate missed: test/f1 could not be measured: the test set has no targets"):
        Gate.parse("test/f1>=0.5").check(METRICS, lower=False)


def test_numbers_of_a_run_are_those_of_the_model_that_was_tested():
    run = Path("runs/digits/version_0")
    run.mkdir(parents=True)
    (run / "results.json").write_text('{"test/loss": 0.2, "test/auroc": null, "note": "text"}', encoding="utf-8")
    config, best, last = str(run / "config.yaml"), run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt"
    for file, options, names in (
        (best, Options("export", [config]), ["test/loss", "test/auroc"]),
        (last, Options("export", [config]), []),
        (best, Options("export", [config], settings=["--model.tta=mirror"]), []),
        (best, Options("export", [config, "configs/presets/bf16.yaml"]), []),
    ):
        x: Any = SimpleNamespace(run=Run(run), config=SimpleNamespace(ckpt_path=file))
        assert [*logged(x, options)] == names
    assert math.isnan(
        logged(SimpleNamespace(run=Run(run), config=SimpleNamespace(ckpt_path=best)), Options("export"))["test/auroc"][
            "value"
        ]
    )
