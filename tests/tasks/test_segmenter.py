"""Segmenter: masks, against loops over pixels."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from src import UserError, load_run
from src.cli import main
from src.data import Digits, DigitScenes
from src.losses import FocalLoss, SoftDice, SoftIoU, SumOfLosses
from src.nets import UNet
from src.tasks.scores import segmentation_metrics
from tests.conftest import refused

FIT = [
    "fit",
    "--config=configs/digits_masks.yaml",
    "--model.net.width=4",
    "--model.net.depth=1",
    "--trainer.max_epochs=2",
]
RUN = Path("runs/digits_masks/version_0")


class WrongLabels(DigitScenes):
    """Scenes whose masks have a class too many."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, masks = super().load(train)
        masks[3, 0, 0] = 200
        return images, masks


def iou_of_pixels(predicted: Tensor, true: Tensor, classes: int) -> list[float | None]:
    """Return intersection over union per class, None for classes that are nowhere, by counting pixels in a loop."""
    both, either = [0] * classes, [0] * classes
    for p, t in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True):
        for c in {p, t}:
            either[c] += 1
            both[c] += p == t
    return [b / e if e else None for b, e in zip(both, either, strict=True)]


def test_iou_is_that_of_a_loop_over_pixels() -> None:
    x = main(FIT)
    task, data = load_run(RUN)
    data.setup("test")
    with torch.no_grad():
        pairs = [(task.predict_step(images, 0), masks) for images, masks in data.test_dataloader()]
    predicted, true = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    each = iou_of_pixels(predicted, true, 11)
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    known = [value for value in each if value is not None]
    assert results["test/iou"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    assert results["test/accuracy"] == pytest.approx((predicted == true).double().mean().item(), abs=1e-6)
    assert results["test/iou/background"] == pytest.approx(each[0], abs=1e-6)
    assert results["test/iou/3"] == pytest.approx(each[4] or 0, abs=1e-6)
    assert x.best.monitor == "val/iou"


def test_classes_that_are_nowhere_do_not_count() -> None:
    metrics = segmentation_metrics(4, per_class=True)
    masks = torch.tensor([[[0, 1], [1, 1]]])
    metrics.update(torch.tensor([[[0, 1], [1, 0]]]), masks)
    assert metrics.compute()["iou"].item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_losses_of_overlap_are_those_of_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(3, 4, 5, 6, generator=draw), torch.randint(3, (3, 5, 6), generator=draw)
    masks[0] = 1
    p = logits.softmax(1)
    dice, iou = [], []
    for image, mask in zip(p, masks, strict=True):
        scores: list[tuple[float, float]] = []
        for c in mask.unique().tolist():
            true = (mask == c).float()
            overlap, area = float((image[c] * true).sum()), float(image[c].sum() + true.sum())
            scores.append(((2 * overlap + 1) / (area + 1), (overlap + 1) / (area - overlap + 1)))
        dice.append(1 - sum(d for d, _ in scores) / len(scores))
        iou.append(1 - sum(i for _, i in scores) / len(scores))
    assert float(SoftDice()(logits, masks)) == pytest.approx(sum(dice) / 3, rel=1e-5)
    assert float(SoftIoU()(logits, masks)) == pytest.approx(sum(iou) / 3, rel=1e-5)
    both = SumOfLosses([SoftDice(), torch.nn.CrossEntropyLoss()], [2.0, 0.5])
    expected = 2 * SoftDice()(logits, masks) + 0.5 * torch.nn.functional.cross_entropy(logits, masks)
    assert float(both(logits, masks)) == pytest.approx(float(expected), rel=1e-6)
    each = [SoftDice()(logits[i : i + 1], masks[i : i + 1]) for i in range(3)]
    assert float(SoftDice()(logits, masks)) == pytest.approx(float(sum(each)) / 3, rel=1e-6)


def test_a_sum_of_losses_that_depends_on_the_batch_is_refused() -> None:
    ignoring = torch.nn.CrossEntropyLoss(ignore_index=0)
    for loss in (FocalLoss(weight=[1.0, 2.0]), torch.nn.CrossEntropyLoss(reduction="sum"), ignoring):
        with pytest.raises(UserError, match="losses must be means over samples, without class weights"):
            SumOfLosses([SoftDice(), loss])


def test_focal_loss_of_pixels_is_that_of_as_many_samples() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(2, 4, 5, 6, generator=draw), torch.randint(4, (2, 5, 6), generator=draw)
    for weight in (None, [1.0, 2.0, 3.0, 4.0]):
        loss = FocalLoss(2.0, weight)
        rows = torch.stack([logits[n, :, i, j] for n in range(2) for i in range(5) for j in range(6)])
        assert float(loss(logits, masks)) == pytest.approx(float(loss(rows, masks.flatten())), rel=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 3)])
def test_a_unet_keeps_the_size_of_any_image(size: tuple[int, int]) -> None:
    net = UNet(5, in_channels=1, width=4, depth=2)
    assert net(torch.rand(2, 1, *size)).shape == (2, 5, *size)


def test_skip_connections_bring_details_to_the_output() -> None:
    torch.manual_seed(0)
    net = UNet(2, in_channels=1, width=4, depth=2).eval()
    image = torch.rand(1, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(image)[0, 0, 8, 8], image)
    assert gradient[0, 0, 8, 8] != 0
    assert (gradient != 0).sum() > 25 * 4


def test_targets_of_another_kind_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *FIT, "--data=src.data.Digits")
    assert "Segmenter needs masks of classes (N, H, W), integers, got torch.int64 (1437,)" in line
    line = refused(capsys, *FIT, f"--data={__name__}.WrongLabels")
    assert "the masks have classes from 0 to 200, but num_classes is 11" in line
    line = refused(capsys, *FIT, "--model.net=src.nets.SmallCNN", "--model.num_classes=11")
    assert "the net must return outputs (N, 11, 16, 16), got (2, 11) for N = 2" in line
    line = refused(capsys, *FIT, "--model.num_classes=12")
    assert "num_classes must be 11, the classes of the data" in line


def test_scenes_have_a_mask_where_the_ink_is() -> None:
    images, masks = DigitScenes().load(train=True)
    digits, classes = Digits().load(train=True)
    for image, mask, digit, label in zip(images[:50], masks, digits, classes, strict=False):
        assert mask.unique().tolist() == [0, int(label) + 1]
        assert int((mask > 0).sum()) == int((digit > 127).sum())
        assert len(image[0][mask > 0].unique()) == 1
    assert images.shape == (1437, 1, 16, 16)
    with pytest.raises(UserError, match="depth must be at least 1"):
        UNet(2, depth=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.num_classes=257"], "num_classes must be at most 256, which predict can write, got 257"),
        (["--model.tta=mirror_shift"], "tta must be plain or mirror for outputs per pixel"),
        (["--model.loss=src.losses.Hinge"], "the loss does not accept logits (N, 11, H, W) and masks (N, H, W) ("),
        (["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=none"], "got shape (2, 2, 2); reduce it"),
    ],
)
def test_what_does_not_fit_is_refused(settings: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *FIT, *settings)


def test_an_earlier_table_keeps_its_pictures() -> None:
    main([*FIT, "--trainer.max_epochs=1", "--test=false"])
    few = "--trainer.limit_predict_batches=1"
    main(["predict", f"--run={RUN}", few])
    with (RUN / "predictions.csv").open(encoding="utf-8", newline="") as file:
        earlier = {row["mask"]: Path(row["mask"]).read_bytes() for row in csv.DictReader(file)}
    Path("images").mkdir()
    for name in ("0" * 240, "b"):
        Image.new("L", (16, 16), 255).save(f"images/{name}.png")
    main(["predict", f"--run={RUN}", "--images", "images"])
    assert earlier == {name: Path(name).read_bytes() for name in earlier}
    with (RUN / "predictions_0.csv").open(encoding="utf-8", newline="") as file:
        assert [row["mask"] for row in csv.DictReader(file)] == [*earlier]
    with (RUN / "predictions.csv").open(encoding="utf-8", newline="") as file:
        later = [row["mask"] for row in csv.DictReader(file)]
    assert len(later) == 2
    assert not {*later} & {*earlier}
    for name in later:
        with Image.open(name) as picture:
            assert picture.size == (16, 16)


def test_pictures_that_cannot_be_written_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--trainer.max_epochs=1", "--test=false"])
    for output, reason in {"a/b.csv": "No such file or directory", "/proc/b.csv": "No such file or directory"}.items():
        line = refused(capsys, "predict", f"--run={RUN}", f"--output={output}")
        assert f"cannot write {output.removesuffix('.csv')}_pictures: {reason}; choose another file" in line
