"""Embedder: similar vectors for inputs of one class, to find them again, also those of classes never seen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics import MetricCollection

from src import at_least_float32, require
from src.losses import TripletLoss
from src.protocols import ImageData
from src.tasks.base import Task
from src.tasks.scores import Retrieval
from src.tasks.setup import NetFactory, build_net, check_classes, check_net, try_loss


class Embedder(Task):
    """Embeddings (N, D) of length 1. Metrics search each sample of a split among all others of the split.

    ``recall_at_1`` and ``recall_at_5`` are the fractions of samples with one of their class among the nearest; ``map``
    is the mean average precision of the whole ranking. The loss is of the triplets of each batch, so unlike the metrics
    it depends on the batches; train with data.sampling=balanced, or few batches have enough pairs of each class.

    Args:
        net: class or function of a net that maps inputs to (N, D).
        embedding_size: length D of an embedding.
        loss: function or module of embeddings (N, D) and classes (N,); by default ``src.losses.TripletLoss``.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    monitor, predicts = ("val/map", "max"), "embeddings"
    may_ignore = ()

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        embedding_size: int = 64,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        require(embedding_size >= 1, f"embedding_size must be at least 1, got {embedding_size}")
        val, test = (MetricCollection({"retrieval": Retrieval()}) for _ in range(2))
        super().__init__(net=build_net(net, embedding_size), val_metrics=val, test_metrics=test, **kwargs)
        self.embedding_size, self.loss = embedding_size, loss or TripletLoss()

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_classes(data, "Embedder")
        if stage == "fit" and isinstance(data, ImageData):
            require(data.mix is None, "Embedder needs classes, which data.mix mixes: remove data.mix")
            check_pairs(data)
        check_net(self.net, data, self.embedding_size)
        embeddings, classes = torch.eye(4, self.embedding_size), torch.tensor([0, 0, 1, 1])
        try_loss(self.loss, f"embeddings (N, {self.embedding_size}) and classes (N,)", embeddings, classes)
        super().setup(stage)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        embeddings = self.predict_step(inputs, 0)
        return self.loss(embeddings, targets), embeddings.detach(), targets

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the embeddings, (N, D)."""
        return normalize(at_least_float32(self(batch)))


def check_pairs(data: Any) -> None:
    """Refuse balanced batches without two samples of a class, from which nothing is learned."""
    classes, size = data.splits["train"].classes, getattr(data, "batch_size", 2)
    few = getattr(data, "classes_per_batch", None) or len(classes)
    alone = min(few, len(classes.unique())) if getattr(data, "sampling", "") == "balanced" else 1
    need = f"at least {alone + 1}, so that a batch has two samples of a class"
    require(size > alone, f"data.batch_size must be {need}, got {size}")
