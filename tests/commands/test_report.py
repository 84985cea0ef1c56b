"""report: the page of a run, comparisons of several, numbers for programs, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, t

from src.analysis.outputs import FILE, Outputs
from src.analysis.report.comparison import short_names
from src.analysis.report.sections import classes_section, confused
from src.cli import main
from src.commands.report import plain
from tests.conftest import SMALL, refused, rows

PARENT = Path("runs/digits")
FAST = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4"]


def test_the_page_has_what_the_run_reached(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run, old = Path(three[0]), (Path(three[0]) / "report.html").read_bytes()
    facts = main(["report", str(run)])
    assert f"report  {run}/report.html" in capsys.readouterr().out
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.encode() == old
    o = Outputs.load(run)
    assert facts["value"] == pytest.approx(
        json.loads((run / "results.json").read_text(encoding="utf-8"))["test/accuracy"]
    )
    assert f"<b>{100 * facts['value']:.2f} %</b>" in html
    assert f"{int((o.values == 0).sum()):,}" in html
    assert sum(map(sum, facts["confusion"])) == 360
    assert html.count("<figure>") == 24
    assert (run / "config.yaml").read_text(encoding="utf-8").splitlines()[1] in html.replace("&#39;", "'")
    assert not re.findall(r"https?://|<script|@import|url\(", html)
    assert len(html) - sum(map(len, re.findall(r'"data:image[^"]*"', html))) < 100_000


def test_numbers_come_as_json_and_no_page_is_written(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(three[0]) / "report.html").unlink()
    facts = main(["report", three[0], "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["value"] == facts["value"]
    assert not (Path(three[0]) / "report.html").exists()


def test_runs_are_compared_sample_by_sample(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    facts = main(["report", *three])
    out = capsys.readouterr().out
    right = [Outputs.load(Path(run)).values for run in three]
    ps = []
    for run, own in zip(facts["runs"][1:], right[1:], strict=True):
        assert run["difference"] == pytest.approx(own.mean() - right[0].mean())
        low, high = run["difference_interval"]
        assert low <= run["difference"] <= high
        only = [int((a > b).sum()) for a, b in ((right[0], own), (own, right[0]))]
        ps.append(binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)
    assert [run["p"] for run in facts["runs"][1:]] == pytest.approx(
        [min(1, 2 * p) if p == min(ps) else max(p, min(1, 2 * min(ps))) for p in ps]
    )
    assert max(map(len, out.splitlines())) <= 80
    html = Path("comparison.html").read_text(encoding="utf-8")
    assert "model.init_args.net.init_args.hidden_sizes" in html
    assert [*facts["settings"]] == ["seed_everything", "model.init_args.net.init_args.hidden_sizes"]


def test_seeds_of_one_setting_have_mean_and_interval(three: list[str]) -> None:
    (group,) = main(["report", *three])["groups"]
    assert group["runs"] == three[:2]
    values = [Outputs.load(Path(run)).values.mean() for run in three[:2]]
    assert group["mean"] == pytest.approx(sum(values) / 2)
    half = t.ppf(0.975, 1) * abs(values[0] - values[1]) / 2
    assert group["half"] == pytest.approx(half)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a/version_0", "runs/a/version_1"], ["version_0", "version_1"]),
        (["runs/a/version_0", "runs/b/version_0"], ["a", "b"]),
        (["runs/a/version_0", "runs/b/version_1", "c"], ["runs/a/version_0", "runs/b/version_1", "c"]),
    ],
)
def test_names_are_what_tells_folders_apart(folders: list[str], names: list[str]) -> None:
    assert short_names([Path(each) for each in folders]) == names


def test_runs_of_other_test_samples_are_not_compared(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    o = Outputs.load(Path(three[1]))
    o.test_set = "other"
    o.save(Path(three[1]) / FILE)
    assert "runs must be tested on the same samples" in refused(capsys, "report", *three)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["report"], "report needs run folders"),
        (["report", "configs"], "configs is not a run folder: it has no config.yaml"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["report", "runs/digits/version_0", "--trainer.max_epochs=3"], "report takes run folders and no settings"),
    ],
)
def test_what_is_no_run_is_refused(
    args: list[str], text: str, three: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(three) == 3
    assert text in refused(capsys, *args)


def test_a_run_without_predictions_says_what_to_type(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(three[0]) / FILE).unlink()
    error = refused(capsys, "report", three[0])
    command = error.split("python -m src.cli ")[1].split(" (")[0].split()
    main(command)
    main(["report", three[0]])


def test_the_page_shows_what_a_monitor_saw() -> None:
    main(["fit", *SMALL, *FAST, "--config=configs/presets/monitor.yaml", "--trainer.callbacks.every_n_steps=2"])
    run = PARENT / "version_0"
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "The monitor warned of nothing." in html
    (name, *_) = [name for name in rows(run)[0] if name.startswith("gradient_norm/")]
    last = [row[name] for row in rows(run) if row[name]][-1]
    assert f"<td>{float(last):.3g}</td>" in html
    (run / "monitor.json").write_text('[{"text": "epoch 1, net.0: dead <ReLU>"}]', encoding="utf-8")
    main(["report", str(run)])
    assert "epoch 1, net.0: dead &lt;ReLU&gt;" in (run / "report.html").read_text(encoding="utf-8")


def test_help_explains_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", "--help"])
    assert stop.value.code == 0
    assert "\n    eps: with robust" in capsys.readouterr().out


def test_numbers_for_programs_are_valid_json() -> None:
    found = plain({"a": [float("nan"), 1.5, (None, True)], 3: Path("x"), "b": float("inf")})
    assert found == {"a": [None, 1.5, [None, True]], "3": "x", "b": None}


def test_commands_on_the_page_can_be_copied_to_a_shell(three: list[str]) -> None:
    run = Path(three[0]).rename("a run")
    main(["report", str(run)])
    assert "--run &#39;a run&#39;" in (run / "report.html").read_text(encoding="utf-8")


def test_many_classes_need_no_matrix() -> None:
    k, targets = 200_000, np.array([5, 5, 7, 199_999])
    preds = np.zeros((4, k), dtype=np.float32)
    preds[range(4), [5, 6, 6, 6]] = 1
    o = Outputs("classes", (preds.argmax(1) == targets).astype(float), np.zeros(4), preds, targets, "")
    assert confused(o, 2) == [("5", "6", 1, 2), ("7", "6", 1, 1)]
    page = classes_section(o)
    assert page["rows"][0][:3] == ["6", "0", ""]
    assert len(page["rows"]) == 100
    assert page["matrix"] is None
