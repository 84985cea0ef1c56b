"""What fit and test keep of each test sample: in the order of the split, whatever the batches and processes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src import load_run
from src.analysis.outputs import FILE, Outputs, headline
from src.cli import main
from src.data import Digits
from src.runs.keep_outputs import image_traits
from tests.conftest import SMALL, PlainModule

RUN = Path("runs/digits/version_0")
FAST = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]


def test_outputs_are_those_of_the_best_checkpoint_in_order() -> None:
    main(["fit", *SMALL, *FAST, "--data.batch_size=50"])
    o = Outputs.load(RUN)
    task, data = load_run(RUN)
    images, targets = Digits().load(train=False)
    with torch.no_grad():
        expected = task(data.normalize(images)).softmax(1)
    assert torch.allclose(torch.tensor(o.preds), expected, atol=1e-6)
    assert o.targets.tolist() == targets.tolist()
    assert o.class_names == [str(i) for i in range(10)]
    assert headline(o)[0] == pytest.approx(
        json.loads((RUN / "results.json").read_text(encoding="utf-8"))["test/accuracy"]
    )
    assert o.shown.tolist() == np.argsort(-o.loss, kind="stable")[:24].tolist()
    assert np.array_equal(o.pictures["image"], images[o.shown].numpy())
    assert o.splits["test"].tolist() == np.bincount(targets).tolist()
    assert o.splits["train"].sum() + o.splits["val"].sum() == len(Digits().load(train=True)[0])


@pytest.mark.parametrize("name", ["digits_rotation", "digits_masks", "digits_multilabel", "digits_retrieval"])
def test_the_headline_is_the_metric_of_the_test(name: str) -> None:
    main(["fit", f"--config=configs/{name}.yaml", *FAST])
    run = Path("runs") / name / "version_0"
    o, results = Outputs.load(run), json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert headline(o)[0] == pytest.approx(results[f"test/{o.metric}"], rel=1e-5)
    assert o.pictures["image"].shape[0] == min(24, len(o))


def test_test_writes_outputs_of_the_best_checkpoint_alone() -> None:
    main(["fit", *SMALL, *FAST, "--no_page"])
    assert not {FILE, "report.html"} & {file.name for file in RUN.iterdir()}
    main(["test", f"--run={RUN}", "--data.batch_size=7"])
    main(["test", f"--run={RUN}", f"--ckpt_path={RUN}/checkpoints/last.ckpt"])
    assert not (RUN / FILE).exists()
    main(["test", f"--run={RUN}"])
    assert len(Outputs.load(RUN)) == 360


def test_other_images_or_targets_are_another_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load
    found = []
    for change in (lambda x, y: (x, y), lambda x, y: (x, y.flip(0)), lambda x, y: (255 - x, y)):
        monkeypatch.setattr(Digits, "load", lambda self, train, change=change: change(*load(self, train)))
        x = main(["fit", *SMALL, *FAST])
        found.append(Outputs.load(x.run.path).test_set)
    assert len({*found}) == 3
    monkeypatch.setattr(Digits, "load", load)
    x = main(["fit", *SMALL, *FAST, "--data.batch_size=33", "--seed_everything=4"])
    assert Outputs.load(x.run.path).test_set == found[0]


class Returns(PlainModule):
    """Return predictions from test_step, as tasks do."""

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        super().test_step(batch, batch_idx)
        return {"preds": self(batch[0]).softmax(1), "targets": batch[1]}


def test_other_modules_may_return_predictions_and_targets() -> None:
    for kind, kept in (("tests.runs.test_keep_outputs.Returns", True), ("tests.conftest.PlainModule", False)):
        x = main(["fit", "--trust", "--config=configs/digits.yaml", f"--model={kind}", *FAST])
        assert (x.outputs is not None) == kept
        assert (x.run.path / "report.html").exists() == kept


def test_an_extended_run_keeps_the_outputs_of_earlier_weights() -> None:
    main(["fit", *SMALL, *FAST])
    old = (RUN / FILE).read_bytes()
    main(["fit", f"--run={RUN}", "--trainer.max_epochs=9"])
    assert (RUN / "test_0.npz").read_bytes() == old
    assert (RUN / "report_0.html").exists()
    assert Outputs.load(RUN).preds.tolist() != np.load(RUN / "test_0.npz")["preds"].tolist()


def test_traits_are_those_of_a_loop() -> None:
    images = torch.randint(256, (3, 3, 5, 4), dtype=torch.uint8)
    found = image_traits(images)
    gray = images.double().mean(1).numpy()
    for i in range(3):
        down, right = np.abs(np.diff(gray[i], axis=0)).mean(), np.abs(np.diff(gray[i], axis=1)).mean()
        assert found["brightness"][i] == pytest.approx(gray[i].mean(), rel=1e-5)
        assert found["contrast"][i] == pytest.approx(gray[i].std(), rel=1e-4)
        assert found["sharpness"][i] == pytest.approx((down + right) / 2, rel=1e-5)


class ReturnsOdd(PlainModule):
    """Return what cannot be kept."""

    kind = ""

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        super().test_step(batch, batch_idx)
        logits, targets = self(batch[0]), batch[1]
        kinds = {"logits": logits, "short": logits[:-1].softmax(1), "nan": logits * torch.nan, "scalar": logits.sum()}
        return {"preds": kinds[ReturnsOdd.kind], "targets": targets}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("logits", "must be probabilities"),
        ("short", "an entry for each"),
        ("nan", "not finite"),
        ("scalar", "an entry"),
    ],
)
def test_what_cannot_be_kept_is_told_and_fails_no_test(kind: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReturnsOdd, "kind", kind)
    model = "--model=tests.runs.test_keep_outputs.ReturnsOdd"
    with pytest.warns(UserWarning, match=f"there will be no report, .*{why}"):
        x = main(["fit", "--trust", "--config=configs/digits.yaml", model, *FAST])
    assert x.outputs is None
    assert (x.run.path / "results.json").exists()
