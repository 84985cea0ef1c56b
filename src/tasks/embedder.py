"""Embedder: similar vectors for inputs of one class, to find them again, also those of classes never seen."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics import MetricCollection

from src import UserError, at_least_float32
from src.losses import TripletLoss
from src.protocols import ImageData
from src.tasks.base import Task
from src.tasks.scores import Retrieval
from src.tasks.setup import NetFactory, build_net, check_net


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

    monitor = ("val/map", "max")
    may_ignore = ()

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        embedding_size: int = 64,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        val, test = (MetricCollection({"retrieval": Retrieval()}) for _ in range(2))
        super().__init__(net=build_net(net, embedding_size), val_metrics=val, test_metrics=test, **kwargs)
        self.embedding_size, self.loss = embedding_size, loss or TripletLoss()

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and isinstance(data, ImageData) and data.splits["train"].classes is None:
            raise UserError("Embedder needs classes as targets, integers (N,)")
        check_net(self.net, data, self.embedding_size)
        super().setup(stage)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        embeddings = self.predict_step(inputs, 0)
        return self.loss(embeddings, targets), embeddings.detach(), targets

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the embeddings, (N, D)."""
        return normalize(at_least_float32(self(batch)))
