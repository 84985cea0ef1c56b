"""Embedder: retrieval against scikit-learn, triplets against loops."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from src import UserError, load_run
from src.cli import main
from src.data import Digits
from src.data.loading.loader import BatchSampler
from src.losses import TripletLoss
from src.tasks.scores import Retrieval
from tests.conftest import refused

FIT = ["fit", "--config=configs/digits_retrieval.yaml", "--model.net.width=4", "--trainer.max_epochs=2"]
RUN = Path("runs/digits_retrieval/version_0")


def oracle(embeddings: Tensor, targets: Tensor) -> dict[str, float]:
    """Return recall and mean average precision, one query at a time."""
    found: dict[str, list[float]] = {"recall_at_1": [], "recall_at_5": [], "map": []}
    for i in range(len(targets)):
        others = np.delete(np.arange(len(targets)), i)
        distances = (embeddings[others].double() - embeddings[i].double()).norm(dim=1).numpy()
        alike = (targets[others] == targets[i]).numpy()
        if alike.any():
            nearest = alike[distances.argsort(kind="stable")]
            found["recall_at_1"].append(nearest[0])
            found["recall_at_5"].append(nearest[:5].any())
            found["map"].append(average_precision_score(alike, -distances))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_retrieval_is_that_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(6, (700,), generator=draw)
    targets[0] = 9  # alone in its class
    embeddings = torch.randn(700, 4, generator=draw) + targets[:, None] / 3
    metric = Retrieval()
    for part in (slice(0, 13), slice(13, 700)):
        metric.update(embeddings[part], targets[part])
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(
        oracle(embeddings, targets), abs=1e-6
    )


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_search_is_no_number(count: int) -> None:
    metric = Retrieval()
    metric.update(torch.ones(count, 3), torch.zeros(count, dtype=torch.long))
    assert all(value.isnan() for value in metric.compute().values())


@pytest.mark.heavy
def test_classes_never_seen_are_searched_among_each_other() -> None:
    main(FIT)
    task, data = load_run(RUN)
    data.setup("test")
    with torch.no_grad():
        batches = [(task.predict_step(images, 0), targets) for images, targets in data.test_dataloader()]
    embeddings, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert set(targets.tolist()) == {7, 8, 9}
    assert embeddings.norm(dim=1).allclose(torch.ones(len(targets)))
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    for name, value in oracle(embeddings, targets).items():
        assert results[f"test/{name}"] == pytest.approx(value, abs=2e-3)  # ties and rounding in float32
    assert results["test/map"] > 0.34  # of random embeddings


def test_triplets_are_those_of_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    embeddings, targets = torch.randn(9, 3, generator=draw), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    d = (embeddings[:, None] - embeddings).norm(dim=2)
    hard, semi = [], []
    for a in range(9):
        positives = [d[a, p] for p in range(9) if p != a and targets[p] == targets[a]]
        negatives = [d[a, n] for n in range(9) if targets[n] != targets[a]]
        hard.append(max(0.0, float(max(positives) - min(negatives) + 0.5)))
        for positive in positives:
            farther = [n for n in negatives if n > positive]
            semi.append(max(0.0, float(positive - (min(farther) if farther else max(negatives)) + 0.5)))
    assert float(TripletLoss(0.5)(embeddings, targets)) == pytest.approx(np.mean(hard), rel=1e-5)
    assert float(TripletLoss(0.5, "semi-hard")(embeddings, targets)) == pytest.approx(np.mean(semi), rel=1e-5)


@pytest.mark.parametrize(("mining", "targets"), [*product(["hard", "semi-hard"], [[0, 0, 0], [0, 1, 2]])])
def test_a_batch_without_triplets_has_loss_0(mining: str, targets: list[int]) -> None:
    embeddings = torch.ones(3, 2, requires_grad=True)
    loss = TripletLoss(mining=mining)(embeddings, torch.tensor(targets))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert embeddings.grad.eq(0).all()


def test_equal_embeddings_have_a_finite_gradient() -> None:
    embeddings = torch.ones(4, 2, requires_grad=True)
    TripletLoss()(embeddings, torch.tensor([0, 0, 1, 1])).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_a_batch_has_as_many_classes_as_asked() -> None:
    classes = torch.arange(10).repeat(30)
    sampler = BatchSampler(300, 24, True, 0, classes=classes, sampling="balanced", classes_per_batch=4)
    batches = [classes[batch].bincount(minlength=10) for batch in sampler]
    assert all((counts > 0).sum() == 4 for counts in batches)
    assert all(counts[counts > 0].max() - counts[counts > 0].min() <= 1 for counts in batches)
    assert (torch.stack(batches).sum(0) > 0).all()


def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *FIT, "--data=src.data.RotatedDigits", "--data.sampling=shuffled")
    assert "Embedder needs classes as targets, integers (N,)" in line
    with pytest.raises(UserError, match="classes_per_batch needs sampling=balanced and at least 2 classes, got 3"):
        Digits(classes_per_batch=3)
    with pytest.raises(UserError, match="margin must be above 0, got 0"):
        TripletLoss(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.embedding_size=0"], "embedding_size must be at least 1, got 0"),
        (["--model.loss=torch.nn.TripletMarginLoss"], "the loss does not accept embeddings (N, 32) and classes (N,) ("),
        (["--data.batch_size=7"], "data.batch_size must be at least 8, so that a batch has two samples of a class"),
        (["--data.batch_size=4", "--data.classes_per_batch=4"], "data.batch_size must be at least 5, so that"),
        (["--data.batch_size=1", "--data.sampling=shuffled"], "data.batch_size must be at least 2, so that"),
        (["--data=src.data.Digits", "--data.mix=src.data.MixUp"], "Embedder needs classes, which data.mix mixes"),
    ],
)
def test_what_learns_nothing_is_refused(settings: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *FIT, *settings)
