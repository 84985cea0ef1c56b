"""Distiller: a classifier that also learns from the logits of a trained one, its teacher."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from src import UserError, at_least_float32, load_run, require
from src.protocols import ImageData
from src.tasks.base import Task
from src.tasks.classifier import Classifier
from src.tasks.setup import check_net, counts_every_sample


class Distiller(Classifier):
    """Train a small net, the student, on the targets and on the predictions of a trained net, its teacher.

    The training loss is (1 - w) * loss + w * T^2 * KL(teacher || student), for probabilities softmax(logits / T). T^2
    balances both terms, because the gradient of the second shrinks as 1 / T^2; arXiv:1503.02531, section 2. The teacher
    sees the same augmented and mixed images. Validation and test use ``loss`` alone, so only fit needs the teacher.

    Args:
        teacher: run folder of a classifier trained on the same split, whose best checkpoint teaches.
        temperature: T, above 0; the higher, the more the probabilities of wrong classes count.
        teacher_weight: w, in [0, 1]; 0 trains without the teacher.
        kwargs: see ``src.tasks.Classifier``; ``loss`` must be a mean over all samples, without class weights.
    """

    loads_runs, trust_runs = True, False  # see src.protocols.LoadsRuns

    def __init__(self, teacher: str, temperature: float = 4.0, teacher_weight: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 < temperature < float("inf"), f"temperature must be a number above 0, got {temperature}")
        require(0 <= teacher_weight <= 1, f"teacher_weight must be in [0, 1], got {teacher_weight}")
        rule = "Distiller needs a loss that is a mean over all samples, as the teacher's term is"
        require(counts_every_sample(self.loss), f"{rule}: remove class weights, ignore_index and reduction")
        self.run, self.temperature, self.teacher_weight = Path(teacher).expanduser(), temperature, teacher_weight
        self.teacher: list[Any] = []  # a list, to stay out of parameters, checkpoints and averages

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.teacher_weight and self.loads_runs:
            self.teacher = [self.load_teacher(self.trainer.datamodule)]  # type: ignore[attr-defined]

    def load_teacher(self, data: Any) -> Any:
        """Return the teacher, on the device and in the precision of the student."""
        rule = f"model.teacher must be the folder of a trained run, {self.run.absolute()} is no folder"
        require(self.run.is_dir(), f"{rule}: train the teacher first, or set --model.teacher")
        try:
            teacher, its_data = load_run(self.run, trust=self.trust_runs)
            check_same_data(its_data, data)
            k = self.num_classes
            classifies = isinstance(teacher, Classifier) or not isinstance(teacher, Task)
            fits = classifies and getattr(teacher, "num_classes", k) == k
            require(fits, f"{type(teacher).__name__} must be a classifier of {k} classes")
            check_net(teacher, data, k)
        except UserError as error:
            raise UserError(f"model.teacher {self.run}: {error}") from None
        teacher.float().to(self.trainer.strategy.root_device).requires_grad_(False)
        return self.trainer.precision_plugin.convert_module(teacher)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if not (self.training and self.teacher):
            return super().evaluate(batch)
        (inputs, targets), t, w = batch, self.temperature, self.teacher_weight
        logits = at_least_float32(self(inputs))
        with torch.no_grad():
            soft = (at_least_float32(self.teacher[0](inputs)) / t).log_softmax(1)
        distance = kl_div((logits / t).log_softmax(1), soft, reduction="batchmean", log_target=True)
        return (1 - w) * self.loss(logits, targets) + w * t**2 * distance, logits.detach(), targets


def check_same_data(theirs: Any, ours: Any) -> None:
    """Refuse a teacher of other data; a teacher of another split has seen images of the validation split."""
    its, own = (each.state_dict() if isinstance(each, ImageData) else {} for each in (theirs, ours))  # type: ignore[attr-defined]
    for name in [name for name in own if name not in ("test_hash", "typical") and its.get(name) != own[name]]:
        how = "use the teacher's data, folds, fold and split_seed, or train a teacher with these"
        raise UserError(f"its data differs in {name}, {its.get(name)!s:.50} instead of {own[name]!s:.50}: {how}")
