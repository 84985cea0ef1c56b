"""report --baselines, --robust and --slices: what they measure of runs of each task, and what they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.nn.functional import cross_entropy

from src import load_run
from src.analysis.outputs import Outputs
from src.cli import main
from src.data import Digits
from tests.conftest import refused

RUN = "runs/digits/version_0"
FAST = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two corruptions, once each."""
    monkeypatch.setattr("src.analysis.report.robust.AMOUNTS", {"noise": (60,), "rotation": (30,)})


def read(run: str, name: str) -> dict[str, Any]:
    return json.loads(Path(run, f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("trained")
@pytest.mark.heavy
def test_trivial_models_stay_on_the_page_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Trivial models" not in Path(RUN, "report.html").read_text(encoding="utf-8")
    main(["report", RUN, "--baselines"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    models = read(RUN, "baselines")["models"]
    assert [each["name"] for each in models] == ["most frequent class", "logistic regression", "nearest neighbor"]
    assert models[1]["value"] > 0.9
    facts = main(["report", RUN, "--json"])
    assert json.loads(capsys.readouterr().out)["baselines"] == facts["baselines"] == read(RUN, "baselines")
    main(["report", RUN])
    html = Path(RUN, "report.html").read_text(encoding="utf-8")
    assert "<h2>Trivial models</h2>" in html
    assert f"<b>{100 * models[1]['value']:.2f} %</b>" in html


@pytest.mark.usefixtures("trained", "few")
def test_fgsm_of_a_run_is_that_of_a_gradient_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", RUN, "--robust", "--eps", "12", "--json"])
    found = json.loads(capsys.readouterr().out)["robust"]
    task, data = load_run(RUN)
    images, targets = Digits().load(train=False)
    x = images.float().requires_grad_()
    cross_entropy(task(data.normalize(x)), targets, reduction="sum").backward()
    changed = (images + 12 * x.grad.sign()).clamp(0, 255)
    right = (task(data.normalize(changed)).argmax(1) == targets).float()
    values = {(row["kind"], row["amount"]): row["value"] for row in found["rows"]}
    assert values["FGSM", 12] == pytest.approx(float(right.mean()), abs=0.003)
    assert values["PGD", 12] <= values["FGSM", 12] + 0.01
    assert found["clean"]["value"] == Outputs.load(Path(RUN)).values.mean() > values["FGSM", 12]
    assert [row["kind"] for row in found["rows"]] == ["noise", "rotation", "FGSM", "PGD"]


SETTINGS = {
    "digits": ["--model.tta=mirror_shift", "--trainer.precision=bf16-mixed", "--model.net.width=4"],
    "digits_masks": ["--model.net.width=4", "--model.net.depth=1"],
    "digits_multilabel": ["--model.net.width=4"],
    "digits_retrieval": ["--model.net.width=4"],
    "digits_rotation": ["--model.net.width=4"],
}

OTHERS = ("digits_masks", "digits_multilabel", "digits_retrieval", "digits_rotation")


@pytest.mark.usefixtures("few")
@pytest.mark.heavy
@pytest.mark.parametrize("name", ["digits", *OTHERS])
def test_robustness_starts_from_the_metric_of_the_test(name: str) -> None:
    run = f"runs/{name}/version_0"
    main(["fit", f"--config=configs/{name}.yaml", *FAST, *SETTINGS[name]])
    facts = main(["report", run, "--robust", "--baselines", "--eps", "16"])
    found, o = facts["robust"], Outputs.load(Path(run))
    assert found["clean"]["value"] == pytest.approx(facts["value"], abs=1e-6)
    kinds = {row["kind"] for row in found["rows"]}
    assert ("rotation" in kinds) == (o.kind in ("classes", "labels", "embeddings"))
    assert ({"FGSM", "PGD"} <= kinds) == (o.kind != "embeddings")
    assert ("Left out: " in Path(run, "report.html").read_text(encoding="utf-8")) == (
        o.kind not in ("classes", "labels")
    )
    attacked = next((row["value"] for row in found["rows"] if row["kind"] == "PGD"), None)
    if attacked is not None:
        assert attacked >= facts["value"] if o.kind == "numbers" else attacked <= facts["value"]
    assert len(facts["baselines"]["models"]) == (1 if o.kind == "embeddings" else 3)


@pytest.mark.usefixtures("trained", "few")
def test_results_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    found = []
    for size in (360, 7):
        run = tmp_path / f"runs/{size}"
        shutil.copytree(RUN, run)
        config = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(config.replace("batch_size: 64", f"batch_size: {size}"), encoding="utf-8")
        main(["report", str(run), "--robust", "--samples", "90", "--eps", "8"])
        found.append(read(str(run), "robust")["rows"])
    assert [row["value"] for row in found[0]] == pytest.approx([row["value"] for row in found[1]], abs=0.012)
    assert found[0][:2] == found[1][:2]


@pytest.mark.usefixtures("trained")
def test_columns_of_a_table_are_slices(capsys: pytest.CaptureFixture[str]) -> None:
    right = Outputs.load(Path(RUN)).values > 0
    hand = ["left" if each else "right" for each in right]  # explains all errors
    Path("people.csv").write_text(
        "file,hand\n" + "".join(f"test/{i},{each}\n" for i, each in enumerate(hand)), encoding="utf-8"
    )
    facts = main(["report", RUN, "--slices", "people.csv"])
    found = {row["slice"]: row["value"] for row in facts["slices"] if row["by"] == "hand"}
    assert found == {"left": 1, "right": 0}
    assert "samples with hand right" in facts["largest_gaps"][-1]
    assert facts["largest_gaps"][-1].split(" (")[0] in Path(RUN, "report.html").read_text(encoding="utf-8")
    assert {row["by"] for row in facts["slices"]} == {"class", "brightness", "contrast", "sharpness", "hand"}
    Path("people.csv").write_text("file,hand\na.png,left\nb.png,right\n", encoding="utf-8")
    assert "no name in its column file is one of the test samples" in refused(
        capsys, "report", RUN, "--slices=people.csv"
    )
    assert "cannot read the table nothing.csv" in refused(capsys, "report", RUN, "--slices=nothing.csv")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--eps", "8"], "--eps is an option of --robust"),
        (["--robust", "--eps", "0"], "--eps must be in (0, 255]"),
        (["--robust", "--samples", "1"], "--samples must be at least 2"),
        ([RUN, "--robust"], "--baselines, --slices, --robust and --records are of one run, got 2"),
    ],
)
@pytest.mark.usefixtures("trained")
def test_options_that_do_not_fit_are_refused(args: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refused(capsys, "report", RUN, *args)


def test_a_table_has_no_images_to_corrupt(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config=configs/diabetes.yaml", *FAST])
    assert "--robust needs images, Diabetes has none" in refused(
        capsys, "report", "runs/diabetes/version_0", "--robust"
    )
    main(["report", "runs/diabetes/version_0", "--baselines"])
    assert [each["name"] for each in read("runs/diabetes/version_0", "baselines")["models"]][1] == "linear regression"


def test_image_files_have_sizes_and_can_be_gone(capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for name in ("cat", "dog"):
            folder = Path("data", split, name)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(256, size=(16 + 4 * i, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    net = ["--model.net=src.nets.MLP", "--model.net.image_shape=[3,8,8]", "--model.net.hidden_sizes=[4]"]
    main(["fit", "--config=configs/folder.yaml", "--data.root=data", "--data.size=8", "--data.augment=[]", *net, *FAST])
    run = "runs/folder/version_0"
    sizes = Outputs.load(Path(run)).traits["size"]
    assert sizes.tolist() == [float(16 * (16 + 4 * i)) ** 0.5 for i in range(8)] * 2
    shutil.rmtree("data/train")
    shutil.rmtree("data/test")
    assert "no class folders in" in refused(capsys, "report", run, "--baselines")
    assert "no class folders in" in refused(capsys, "report", run, "--robust")
    main(["report", run])
