"""search: trials are ordinary runs, nothing is repeated or lost, and the test set is not read."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from src.cli import main
from src.commands.studies.plan import Plan
from src.commands.studies.record import Study
from src.commands.studies.storage import Storage
from src.data import Digits
from tests.conftest import ROOT, SMALL, in_folder, refused, same, weights

STUDY = Path("runs/search/digits")
SEARCH = ["search", *SMALL, "--trainer.max_epochs=1", "--workers=0", "--search.sampler=random"]
LR = "--search.space={model.optimizer.lr: {from: 0.001, to: 0.1, log: true}}"


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Any:
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def _studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with in_folder(tmp_path_factory.mktemp("studied")) as folder:
        main([*SEARCH, LR, "--search.trials=2"])
    return folder / STUDY


@pytest.fixture
def studied(_studied: Path) -> Path:
    """Copy a study of two trials, run once a session, to runs/search/digits."""
    return shutil.copytree(_studied, STUDY)


def trials(study: Path = STUDY) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(study.glob("trial_*/trial.json"))]


def results(study: Path = STUDY) -> list[dict[str, str]]:
    return list(csv.DictReader((study / "results.csv").read_text(encoding="utf-8").splitlines()))


def stored(study: Path = STUDY) -> list[Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(study / "study.log"))
    return optuna.load_study(study_name=study.name, storage=optuna.storages.JournalStorage(backend)).trials


@pytest.mark.usefixtures("studied")
def test_a_trial_is_the_run_that_fit_would_train() -> None:
    first, second = trials()
    assert first["settings"] != second["settings"]
    rate = second["settings"]["model.optimizer.lr"]
    main(["fit", *SMALL, "--trainer.max_epochs=1", f"--model.optimizer.lr={rate}", "--test=false"])
    run = STUDY / "trial_0001/seed_0/version_0"
    assert same(weights(run, "best"), weights("runs/digits/version_0", "best"))
    value = json.loads((run / "results.json").read_text(encoding="utf-8"))["val/accuracy"]
    assert second["values"] == {"seed_0": value}
    assert [each.values for each in stored()] == [[each["values"]["seed_0"]] for each in (first, second)]
    best = yaml.safe_load((STUDY / "best.yaml").read_text(encoding="utf-8"))
    rates = {each["values"]["seed_0"]: each["settings"]["model.optimizer.lr"] for each in (second, first)}
    assert best["model"]["init_args"]["optimizer"]["init_args"]["lr"] == rates[max(rates)]
    assert (best["name"], best["test"], best["trainer"]["default_root_dir"]) == ("digits", True, None)
    assert "trial_0001/" in (STUDY / "search.html").read_text(encoding="utf-8")
    assert [row["value"] for row in results()] == [repr(each["values"]["seed_0"]) for each in (first, second)]


def test_a_search_continues_up_to_its_total_and_repeats_nothing(
    studied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trials(studied)
    shutil.rmtree(studied)
    main([*SEARCH, LR, "--search.trials=1"])
    before = (STUDY / "trial_0000/trial.json").stat().st_mtime_ns
    main([*SEARCH, LR, "--search.trials=2"])
    main([*SEARCH, LR, "--search.trials=2"])
    assert "2 complete" in capsys.readouterr().out
    assert len(trials()) == len(stored()) == 2
    assert (STUDY / "trial_0000/trial.json").stat().st_mtime_ns == before
    for key in ("settings", "values"):
        assert [each[key] for each in trials()] == [each[key] for each in whole]


def test_a_search_never_reads_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, train: loaded.append(train) or load(self, train))
    main([*SEARCH, "--search.seeds=[0, 1]", "--search.confirm={top: 1, seeds: [2]}"])
    assert len(loaded) >= 3
    assert all(loaded)


@pytest.mark.heavy
def test_seeds_and_folds_give_mean_and_interval(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SEARCH, "--search.folds=all", "--data.folds=2", "--search.seeds=[0, 1]"])
    (trial,) = trials()
    values = trial["values"]
    assert [*values] == ["seed_0_fold_0", "seed_0_fold_1", "seed_1_fold_0", "seed_1_fold_1"]
    mean = sum(values.values()) / 4
    spread = (sum((value - mean) ** 2 for value in values.values()) / 3) ** 0.5
    half = 3.182446305 * spread / 2  # t quantile of 3 degrees of freedom
    assert f"{mean:.4f} ± {half:.4f}, 4 runs" in capsys.readouterr().out
    config = yaml.safe_load((STUDY / "trial_0000/seed_1_fold_1/version_0/config.yaml").read_text(encoding="utf-8"))
    assert (config["seed_everything"], config["data"]["init_args"]["fold"]) == (1, 1)


@pytest.mark.heavy
def test_the_winner_is_chosen_by_runs_with_new_seeds() -> None:
    study = [*SEARCH, "--search.space={data.batch_size: [32, 512]}", "--search.sampler=grid"]
    main([*study, "--search.confirm={top: 2, seeds: [7, 8]}"])
    found = trials()
    assert all([*each["confirmed"]] == ["seed_7", "seed_8"] for each in found)
    small = next(each for each in found if each["settings"]["data.batch_size"] == 32)
    other = next(each for each in found if each is not small)
    small["confirmed"], other["confirmed"] = {"seed_7": 0.5, "seed_8": 0.5}, {"seed_7": 0.9, "seed_8": 0.8}
    for each in found:
        (STUDY / f"trial_{each['number']:04}/trial.json").write_text(json.dumps(each), encoding="utf-8")
    main([*study, "--search.confirm={top: 2, seeds: [7, 8]}"])
    assert yaml.safe_load((STUDY / "best.yaml").read_text(encoding="utf-8"))["data"]["init_args"]["batch_size"] == 512


@pytest.mark.heavy
def test_a_pruned_trial_keeps_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    pruner = "{class_path: optuna.pruners.ThresholdPruner, init_args: {lower: 1.1}}"  # no accuracy is as high
    study = [*SEARCH, "--trainer.max_epochs=3", LR, "--search.trials=1", f"--search.prune={pruner}"]
    assert "no trial of runs/search/digits is complete" in stopped(capsys, *study)
    (trial,) = trials()
    (frozen,) = stored()
    assert (trial["state"], frozen.state.name, [*frozen.intermediate_values]) == ("pruned", "PRUNED", [1])
    metrics = json.loads((STUDY / "trial_0000/seed_0/version_0/results.json").read_text(encoding="utf-8"))
    assert trial["values"]["seed_0"] == metrics["val/accuracy"]


def stopped(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.heavy
def test_a_failed_trial_keeps_its_error_and_others_go_on() -> None:
    space = "--search.space={data.batch_size: [64, 0]}"
    main([*SEARCH, space, "--search.sampler=grid"])
    failed = next(each for each in trials() if each["state"] == "failed")
    assert failed["error"] == "batch_size must be at least 1, got 0"
    assert [each["state"] for each in trials()] == ["complete", "failed"]
    assert {each.state.name for each in stored()} == {"COMPLETE", "FAIL"}


@pytest.mark.heavy
def test_a_loss_that_is_not_finite_fails_its_trial_alone() -> None:
    space = "--search.space={model.optimizer.lr: [1.0e+30, 0.01]}"
    main([*SEARCH, space, "--search.sampler=grid", "--search.monitor=val/loss", "--non_finite.max_consecutive=1000"])
    found = [(each["settings"]["model.optimizer.lr"], each["state"], each.get("error")) for each in trials()]
    assert found == [(1e30, "failed", "val/loss is not finite"), (0.01, "complete", None)]


def test_an_invalid_setting_in_the_first_trial_stops_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *SEARCH, "--search.space={data.batch_size: [0]}", "--search.trials=1")
    assert "batch_size must be at least 1, got 0" in error
    assert not STUDY.exists()


@pytest.mark.usefixtures("studied")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--search.sampler=tpe", "another search.sampler"),
        (
            "--search.space={model.optimizer.lr: {from: 0.001, to: 0.2, log: true}}",
            "another search.space.model.optimizer.lr.to",
        ),
        ("--model.net.dropout=0.3", "another model.net.dropout"),
    ],
)
def test_another_study_in_the_same_folder_is_refused(
    change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in STUDY.rglob("*") if file.is_file()}
    error = refused(capsys, *SEARCH, LR, "--search.trials=2", change)
    assert message in error
    assert before == {file: file.read_bytes() for file in STUDY.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "a study needs a section search"),
        (["--search.space={model.optimzer.lr: [1]}"], "did you mean model.optimizer.lr?"),
        (["--search.space={data.batch_size: [a]}"], "data.batch_size: must be int, got a"),
        (["--search.space={model.net: [os.system]}"], "must be a class path of a Module, got os.system"),
        (["--search.seeds=[0]", "--search.monitor=val/nothing"], "set search.mode to max or min"),
        ([LR, "--search.sampler=optuna.samplers.Nothing"], "cannot create optuna.samplers.Nothing"),
        (["--search.seeds=[0]", "--storage=sqlite:///a.db"], "--storage must be postgresql://"),
        (["--search.seeds=[0]", "--workers=-1"], "--workers must be at least 0, got -1"),
    ],
)
def test_a_wrong_search_is_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    trials = ["--search.trials=1"] if args else []
    command = ["search", *SMALL, *([] if "--workers=-1" in args else ["--workers=0"]), *trials, *args]
    assert message in refused(capsys, *command)
    assert not list(Path("runs").glob("**/trial_*"))


def test_the_space_of_a_config_is_no_more_trusted_than_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_module.py").write_text("import pathlib\npathlib.Path('ran').touch()\n", encoding="utf-8")
    Path("space.yaml").write_text("search: {space: {model.net: [own_module.Net]}, trials: 1}", encoding="utf-8")
    error = refused(capsys, "search", *SMALL, "--config=space.yaml", "--workers=0")
    assert "own_module.Net is code outside" in error
    assert not Path("ran").exists()


@pytest.mark.usefixtures("studied")
def test_a_lost_journal_is_rebuilt_from_the_trials() -> None:
    before = [(each.params, each.values, each.state) for each in stored()]
    (STUDY / "study.log").unlink()
    main([*SEARCH, LR, "--search.trials=2"])
    assert [(each.params, each.values, each.state) for each in stored()] == before


@pytest.mark.usefixtures("studied")
def test_a_journal_cut_anywhere_in_its_last_line_continues() -> None:
    journal = STUDY / "study.log"
    whole = journal.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    plan = Plan.read([], [LR, "--search.sampler=random", "--search.trials=2"])
    for end in range(start, len(whole)):
        journal.write_bytes(whole[:end])
        storage = Storage(Study(STUDY, plan))
        storage.tell(0, "complete", 0.5)
        storage.ask()
        assert [line for line in journal.read_bytes().splitlines() if not is_json(line)] == []


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@pytest.mark.heavy
def test_workers_find_what_one_process_finds() -> None:
    main([*SEARCH, LR, "--search.trials=4", "--name=alone"])
    command = [sys.executable, "-m", "src.cli", *SEARCH, LR, "--search.trials=4", "--workers=2"]
    command += [f"--trainer.default_root_dir={Path('runs').absolute()}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("complete") == 5
    alone = trials(Path("runs/search/alone"))
    assert [each["values"] for each in trials()] == [each["values"] for each in alone]


@pytest.mark.heavy
def test_a_trial_that_a_bug_ends_fails_after_some_attempts() -> None:
    own = ["--config=configs/digits.yaml", "--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData"]
    own += ["--trainer.max_epochs=2", "--search.space={model.stop_at: [1000, 3, 4]}", "--search.sampler=grid"]
    own += ["--search.monitor=val/accuracy", f"--trainer.default_root_dir={Path('runs').absolute()}"]
    command = [sys.executable, "-m", "src.cli", "search", *own, "--search.attempts=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    states = {each["settings"]["model.stop_at"]: each for each in trials()}
    assert done.returncode == 0, done.stderr
    assert states[1000]["state"] == "complete"
    for step in (3, 4):
        assert states[step]["error"] == "ended 2 times without a new checkpoint, the last time by OSError: interrupted"
        assert "Traceback" in (STUDY / f"trial_{states[step]['number']:04}/log.txt").read_text(encoding="utf-8")


@pytest.mark.heavy
def test_each_group_is_left_out_once() -> None:
    rows = [f"train/{i},{'abc'[i % 3]}" for i in range(1797)]
    Path("groups.csv").write_text("\n".join(["name,group", *rows]), encoding="utf-8")
    main([*SEARCH, "--search.folds=all", "--data.folds=groups", "--data.groups=groups.csv"])
    assert [*trials()[0]["values"]] == ["seed_0_fold_0", "seed_0_fold_1", "seed_0_fold_2"]


def test_folds_need_data_that_is_divided(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--search.monitor=val/accuracy"]
    error = refused(capsys, "search", *own, "--search.folds=all", "--workers=0")
    assert "search.folds needs a data module that divides its training set into folds" in error


@pytest.mark.heavy
def test_other_confirming_seeds_count_alone(capsys: pytest.CaptureFixture[str]) -> None:
    study = [*SEARCH, LR, "--search.trials=2"]
    main([*study, "--search.confirm={top: 2, seeds: [1, 2, 3]}"])
    main([*study, "--search.confirm={top: 2, seeds: [3, 4]}"])
    best = max(trials(), key=lambda each: each["confirmed"]["seed_3"] + each["confirmed"]["seed_4"])
    mean = (best["confirmed"]["seed_3"] + best["confirmed"]["seed_4"]) / 2
    assert f"best      trial {best['number']}: val/accuracy {mean:.4f} ± " in capsys.readouterr().out
    assert results()[best["number"]]["confirmed"] == repr(mean)
    main(study)
    assert "new seeds" not in capsys.readouterr().out


@pytest.mark.heavy
def test_a_trial_that_diverges_fails_alone() -> None:
    main([*SEARCH, "--search.space={model.optimizer.lr: [1.0e+30, 0.01]}", "--search.sampler=grid"])
    first, second = trials()
    assert (first["state"], second["state"]) == ("failed", "complete")
    assert "had NaN or infinite gradients" in first["error"]


def test_a_start_that_was_refused_leaves_no_study(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("--storage=foo", "--search.sampler=optuna.samplers.GridSampler", "--search.prune=optuna.pruners.No"):
        refused(capsys, *SEARCH, LR, "--search.trials=1", wrong)
        assert not STUDY.exists()
