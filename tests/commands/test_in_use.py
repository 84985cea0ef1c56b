"""predict writes records, and report and check read them: accuracy in use, drift, and pictures to label next."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from src.cli import main
from src.commands.in_use import sentences, thumbnail
from src.runs.records import Records
from tests.conftest import refused

RUN = "runs/digits/version_0"
RECORDS = "--records=records"


def digits(count: int, inverted: bool = False) -> None:
    """Write pictures of digits to photos/."""
    Path("photos").mkdir(exist_ok=True)
    for i, pixels in enumerate((load_digits().images[:count] * 255 / 16).astype(np.uint8)):
        Image.fromarray(255 - pixels if inverted else pixels).save(f"photos/{i}.png")


@pytest.fixture
def recorded(trained: Path) -> Records:  # noqa: ARG001
    digits(120)
    main(["predict", f"--run={RUN}", "--images", "photos", RECORDS])
    return Records.find(Path("records"))


def test_predict_records_what_it_writes_to_the_table(recorded):
    found = [*recorded.read()]
    assert len({each["id"] for each in found}) == 120
    table = [line.split(",") for line in Path(RUN, "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [(each["name"], each["prediction"]) for each in found] == [(name, best) for name, best, *_ in table]
    assert [each["probability"] for each in found] == pytest.approx([float(p) for _, _, p, *_ in table], abs=1e-6)
    assert found[0].keys() == {
        *(
            "id",
            "model",
            "run",
            "kind",
            "name",
            "time",
            "prediction",
            "probability",
            "probabilities",
            "traits",
            "sha256",
        )
    }
    assert (found[0]["model"], found[0]["run"], found[0]["kind"]) == ("digits", "digits/version_0", "classes")
    pixels = np.asarray(Image.open(found[5]["name"]), dtype=float)
    assert found[5]["traits"]["brightness"] == pytest.approx(pixels.mean(), rel=1e-5)
    assert found[5]["traits"]["contrast"] == pytest.approx(pixels.std(), rel=1e-5)
    assert found[5]["traits"]["confidence"] == pytest.approx(found[5]["probability"], abs=1e-6)


def test_report_shows_accuracy_drift_and_pictures_to_label(recorded, capsys):
    for i, each in enumerate(recorded.read()):
        if i < 40:
            recorded.feedback(each["id"], each["prediction"] if i < 30 else "none")
    recorded.add({"id": "other", "time": "2026-01-01", "run": "mnist/version_0", "traits": {}})
    capsys.readouterr()
    main(["report", RUN, RECORDS])
    out, page = capsys.readouterr().out, Path(RUN, "report.html").read_text(encoding="utf-8")
    assert "120, 1 of other models left out" in out
    assert "Accuracy 75.00 % (59.81 to 85.81 %) on 40 pictures with feedback." in out
    assert "No drift in the newest 120 pictures, against the test set." in out
    assert out.count("photos/") == 5
    for each in ("In use", "Accuracy 75.00 %", "To label next", "photos/", "median in use"):
        assert each in page
    main(["report", RUN, RECORDS, "--json"])
    facts = json.loads(capsys.readouterr().out)["in_use"]
    assert (facts["records"], facts["others"], facts["feedback"]["samples"]) == (120, 1, 40)


def test_inverted_pictures_are_drift(trained, capsys):  # noqa: ARG001
    digits(120, inverted=True)
    main(["predict", f"--run={RUN}", "--images", "photos", RECORDS])
    main(["check", "--config=configs/digits.yaml", RECORDS, "--output=found"])
    assert "Drift of brightness" in capsys.readouterr().out
    facts = json.loads(Path("found/check.json").read_text(encoding="utf-8"))["in_use"]
    assert {each["trait"] for each in facts["drift"]["traits"]} == {"brightness", "contrast", "edges"}
    assert "To label next" in Path("found/check.html").read_text(encoding="utf-8")


@pytest.mark.heavy
def test_a_run_tells_inverted_pictures_from_those_inverted_again(trained, capsys):  # noqa: ARG001
    digits(120, inverted=True)
    main(["predict", f"--run={RUN}", "--images", "photos", RECORDS])
    main(["check", f"--run={RUN}", RECORDS, "--output=found"])
    assert "Drift of brightness" in capsys.readouterr().out
    main(["predict", f"--run={RUN}", "--images", "photos", "--invert", "--records=inverted"])
    main(["report", RUN, "--records=inverted"])
    assert "No drift in the newest 120 pictures" in capsys.readouterr().out


def test_the_reference_of_the_version_that_was_served_counts(recorded, capsys):
    reference = {"samples": 400, "traits": {"brightness": {"edges": [0.0, 1.0], "counts": [0, 400, 0]}}}
    Path("models/digits/7").mkdir(parents=True)
    Path("models/digits/7/reference.json").write_text(json.dumps(reference), encoding="utf-8")
    for each in [*recorded.read()]:
        recorded.add({**each, "version": 7})
    main(["report", RUN, RECORDS])
    assert "Drift of brightness in the newest 240 pictures, against models/digits/7." in capsys.readouterr().out


def test_records_of_other_models_are_only_counted(recorded, capsys):  # noqa: ARG001
    for file in Path("records").glob("*.jsonl"):
        file.write_text(
            file.read_text(encoding="utf-8").replace('"run":"digits/', '"run":"mnist/').replace('"digits"', '"mnist"'),
            encoding="utf-8",
        )
    main(["report", RUN, RECORDS])
    assert "records  0, 120 of other models left out" in capsys.readouterr().out


def test_folders_that_are_none_of_records_are_refused(trained, capsys):  # noqa: ARG001
    message = "error: runs is no folder of records: predict writes one with --records DIR\n"
    assert refused(capsys, "report", RUN, "--records=runs") == message
    assert refused(capsys, "check", "--config=configs/digits.yaml", "--records=runs") == message
    assert "are of one run, got 2" in refused(capsys, "report", RUN, RUN, "--records=runs")
    assert "leave out --output" in refused(capsys, "check", "--config=configs/digits.yaml", "--fit", "--records=runs")
    Path("file").touch()
    assert "cannot write records to file: File exists" in refused(capsys, "predict", f"--run={RUN}", "--records=file")


def test_a_damaged_picture_has_no_thumbnail():
    Path("a.png").write_bytes(b"\x89PNG")
    Image.new("RGBA", (500, 20)).save("b.png")
    assert thumbnail(Path("a.png"), "a") == thumbnail(Path("gone"), "a") == thumbnail(None, "a") == []
    assert thumbnail(Path("b.png"), "a")[0]["alt"] == "a"


def test_one_picture_is_no_pictures():
    told = {"metric": "accuracy", "value": 1.0, "interval": (0.2, 1.0), "samples": 1}
    assert sentences({"feedback": told})[0].endswith("on 1 picture with feedback.")
    assert sentences({"feedback": told | {"samples": 1200}})[0].endswith("on 1,200 pictures with feedback.")
