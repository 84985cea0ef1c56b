"""Distiller: its loss against a hand-written one, what it leaves alone, and which teachers it refuses."""

import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from src import UserError, load_run
from src.cli import main
from src.tasks import Distiller
from tests.conftest import SMALL, PlainModule, refused, rows, same, weights

TEACHER, RUN = Path("runs/digits/version_0"), Path("runs/student/version_0")
FIT = ["fit", *SMALL, "--name=student", "--model=src.tasks.Distiller", f"--model.teacher={TEACHER}"]
FIT += ["--model.net.hidden_sizes=[4]", "--trainer.max_epochs=1", "--test=false"]
STEPS = [*FIT, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--model.schedule=null"]
STEPS += ["--model.optimizer.weight_decay=0", "--model.warmup_steps=0", "--trainer.limit_train_batches=5"]


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return the mean over samples of KL(teacher || student), by its definition."""
    p, q = ((logits / temperature).exp() for logits in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum() / len(p)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("extra", [[], ["--config=configs/presets/mixup.yaml"]], ids=["classes", "mixup"])
def test_steps_are_those_of_a_loop(extra: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Any] = []
    nets: list[nn.Module] = []
    evaluate = Distiller.evaluate

    def record(self: Distiller, batch: Any) -> Any:
        if self.training:
            nets.append(deepcopy(self.net))
            batches.append(batch)
        return evaluate(self, batch)

    monkeypatch.setattr(Distiller, "evaluate", record)
    settings = ["--model.temperature=3", "--model.teacher_weight=0.7", "--model.net.dropout=0"]
    x = main([*STEPS, *settings, *extra])
    teacher, net, losses = load_run(TEACHER)[0].net, nets[0], []
    optimizer = SGD(net.parameters(), lr=0.1)
    for images, targets in batches:
        logits, soft = net(images), teacher(images).detach()
        losses.append(0.3 * cross_entropy(logits, targets) + 0.7 * 9 * divergence(soft, logits, 3))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert len(losses) == 5
    torch.testing.assert_close(x.task.net.state_dict(), net.state_dict(), rtol=1e-4, atol=1e-6)
    mean = sum(loss.item() for loss in losses) / 5
    assert [float(row["train/loss"]) for row in rows(RUN) if row["train/loss"]] == pytest.approx([mean], rel=1e-5)


def student(net: nn.Module, soft: Tensor, **settings: Any) -> Distiller:
    """Return a student, in training mode, whose teacher gives the same logits to any input."""
    task = Distiller("none", net=net, num_classes=soft.shape[1], optimizer=partial(SGD, lr=0.1), **settings)
    task.teacher = [lambda _: soft]
    return task


def test_hot_gradients_match_the_logits() -> None:
    logits, soft = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    logits.requires_grad_()
    task = student(nn.Identity(), soft, temperature=1e4, teacher_weight=1.0)
    (grad,) = torch.autograd.grad(task.evaluate((logits, torch.zeros(6, dtype=torch.long)))[0], logits)
    centered = [each - each.mean(1, keepdim=True) for each in (logits, soft)]
    expected = (centered[0] - centered[1]) / 5 / 6  # arXiv:1503.02531, equation 4, times T^2; a mean over 6 samples
    torch.testing.assert_close(grad, expected, rtol=1e-2, atol=1e-5)


def test_a_student_equal_to_its_teacher_has_only_the_plain_loss() -> None:
    logits, targets = torch.randn(6, 5), torch.arange(6) % 5
    task = student(nn.Identity(), logits.clone(), teacher_weight=0.25)
    assert task.evaluate((logits, targets))[0].item() == pytest.approx(0.75 * cross_entropy(logits, targets).item())
    assert task.eval().evaluate((logits, targets))[0].item() == pytest.approx(cross_entropy(logits, targets).item())


@pytest.mark.heavy
def test_a_teacher_without_weight_changes_nothing(trained: Path) -> None:
    runs = [main([*STEPS, f"--model.teacher_weight={weight}"]) for weight in (0, 1e-12)]
    alone, taught = (x.task for x in runs)
    torch.testing.assert_close(alone.state_dict(), taught.state_dict(), rtol=1e-6, atol=1e-8)  # the same dropout
    assert alone.teacher == []
    (teacher,) = taught.teacher
    assert same(dict(teacher.state_dict()), weights(trained, "best"))
    assert not teacher.training
    assert not [p for p in teacher.parameters() if p.requires_grad or p.grad is not None]
    assert not {*map(id, taught.parameters())} & {*map(id, teacher.parameters())}
    assert taught.state_dict().keys() == {f"net.{name}" for name in taught.net.state_dict()}


@pytest.mark.parametrize(
    ("precision", "taught"), [("bf16-true", "32-true"), ("64-true", "32-true"), ("bf16-mixed", "64-true")]
)
def test_the_teacher_has_the_precision_of_the_student(precision: str, taught: str, trained: Path) -> None:
    settings = yaml.safe_load((trained / "config.yaml").read_text(encoding="utf-8"))
    settings["trainer"]["precision"] = taught
    (trained / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    x = main([*STEPS, f"--trainer.precision={precision}", "--trainer.fast_dev_run=1"])
    types = [{p.dtype for p in task.parameters()} for task in (x.task, x.task.teacher[0])]
    assert types[0] == types[1]


@pytest.mark.usefixtures("trained")
@pytest.mark.heavy
def test_only_training_needs_the_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--last.every_n_steps=9", "--trainer.max_epochs=2", "--trainer.max_steps=30"])
    shutil.move(TEACHER, "elsewhere")
    before = weights(RUN)
    for command in ("validate", "test", "predict"):
        main([command, f"--run={RUN}"])
    assert same(dict(load_run(RUN, "last")[0].state_dict()), before)
    line = refused(capsys, "fit", f"--run={RUN}", "--trainer.max_steps=-1")
    assert f"{TEACHER.absolute()} is no folder: train the teacher first, or set --model.teacher" in line
    assert (
        main(["fit", f"--run={RUN}", "--trainer.max_steps=-1", "--model.teacher=elsewhere"]).trainer.global_step == 42
    )


@pytest.mark.heavy
def test_a_teacher_of_foreign_code_needs_trust(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("src.config.trust.TRUSTED", ("src", "torch"))
    path = f"{PlainModule.__module__}.{PlainModule.__name__}"
    main(["fit", "--data=src.data.Digits", f"--model={path}", "--name=digits", "--trainer.max_epochs=1"])
    assert f"model.teacher {TEACHER}: " in (line := refused(capsys, *FIT))
    assert "add --trust" in line
    assert isinstance(main([*FIT, "--trust"]).task.teacher[0], PlainModule)
    assert f"fit --run {RUN} --trust" in capsys.readouterr().out
    main(["test", f"--run={RUN}"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, got nan"),
        ({"teacher_weight": 1.1}, r"teacher_weight must be in \[0, 1\], got 1.1"),
        ({"class_weights": "balanced"}, "a mean over all samples, as the teacher's term is: remove class weights"),
        ({"loss": nn.CrossEntropyLoss(ignore_index=3)}, "remove class weights, ignore_index and reduction"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "remove class weights, ignore_index and reduction"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        student(nn.Identity(), torch.zeros(1, 5), **settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--model.teacher=runs/none", "runs/none is no folder: train the teacher first, or set --model.teacher"),
        (
            "--model.teacher=runs/digits",
            "runs/digits is not a run folder: it has no config.yaml; runs below it: runs/d",
        ),
        ("--data.fold=1", "differs in split_hash, "),
        ("--data.split_seed=1", "use the teacher's data, folds, fold and split_seed, or train a teacher with these"),
    ],
)
@pytest.mark.usefixtures("trained")
def test_a_teacher_that_cannot_be_used_is_one_line(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *FIT, setting)
    assert not RUN.exists()


@pytest.mark.parametrize(
    ("name", "value"), [("class_names", [*"abcdefghij"]), ("class_names", ["a"]), ("shape", (1, 4, 4)), ("mean", [1.0])]
)
def test_a_teacher_of_other_data_is_refused(
    name: str, value: Any, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    stored["Digits"][name] = value
    torch.save(stored, trained / "checkpoints/best.ckpt")
    assert f"its data differs in {name}, {value} instead of " in refused(capsys, *FIT)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["Embedder", "Autoencoder"])
def test_a_teacher_that_is_no_classifier_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = [f"--model=src.tasks.{kind}"]
    if kind == "Embedder":
        model += ["--model.embedding_size=10", "--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]"]
        model += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    main(["fit", "--data=src.data.Digits", *model, "--name=digits", "--trainer.max_epochs=1", "--test=false"])
    line = refused(capsys, *FIT)
    assert f"model.teacher {TEACHER}: " in line
    assert ("Embedder must be a classifier of 10 classes" if kind == "Embedder" else "outputs (N, 10)") in line
