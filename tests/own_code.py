"""Stand-ins for what people bring: modules, nets and data as in public repositories, with nothing of this project."""

# ruff: noqa: ARG002

from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics import MaxMetric, MeanMetric

Pair = namedtuple("Pair", "image label")


def digits(samples: int = 48) -> TensorDataset:
    """Return images (N, 1, 8, 8) in which a bright row names the class."""
    targets = torch.arange(samples) % 8
    images = torch.rand(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4
    images[torch.arange(samples), 0, targets] += 1
    return TensorDataset(images, targets)


class Plain(LightningModule):
    """Logs under the names that its attributes give, and has the loaders that Lightning's tutorials give modules."""

    train_name, val_name = "loss", "val_loss"

    def __init__(self, lr: float = 0.1, width: int = 8) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.lr = lr
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def step(self, batch: Any) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log(self.train_name, loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log(self.val_name, self.step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class OwnLoaders(Plain):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(digits(), batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(digits(16), batch_size=16)


class OwnLoadersTested(OwnLoaders):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.step(batch))

    test_dataloader = OwnLoaders.val_dataloader


class NoValidation(LightningModule):
    """Only a training step and an optimizer, the shortest module there is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 8)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    train_dataloader = OwnLoaders.train_dataloader


class SlashNames(OwnLoaders):
    """``train`` and ``valid`` as in most repositories; keeps the best accuracy in a metric outside the state dict."""

    train_name, val_name = "train/loss", "valid/loss"

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.best = MeanMetric(), MaxMetric()
        self.epochs, self.history = 0, []  # plain values outside the state dict

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.accuracy.update((self(batch[0]).argmax(1) == batch[1]).float())

    def on_validation_epoch_end(self) -> None:
        accuracy = 1 - 0.1 * self.epochs  # falls, so that the best is that of the first epoch
        self.best.update(accuracy)
        self.accuracy.reset()
        self.log_dict({"valid/acc": accuracy, "valid/acc_best": self.best.compute()}, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        self.epochs += 1
        self.history.append(self.epochs)


class TwoValidations(OwnLoaders):
    def val_dataloader(self) -> Any:
        return [DataLoader(digits(16), batch_size=16), DataLoader(digits(8), batch_size=8)]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.step(batch))


class ErrorOnly(OwnLoaders):
    """Two validation metrics, of which neither is called loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.step(batch)
        self.log_dict({"val_mse": loss, "val_strength": -loss})


class LatePlateau(OwnLoaders):
    """ReduceLROnPlateau of a metric that is logged last, in ``on_train_epoch_end``: 2, 1, 0, 1, 2."""

    def on_train_epoch_end(self) -> None:
        self.log("train_mean", float(abs(2 - self.current_epoch)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "train_mean"}}


class SparsePlateau(OwnLoaders):
    """ReduceLROnPlateau of the validation loss, whether or not each epoch validates."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Restorer(Plain):
    """Predicts reconstructions (N, 64), which are neither probabilities nor logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 64))

    def step(self, batch: Any) -> Tensor:
        return mse_loss(self(batch[0]), batch[0].flatten(1))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])


class Gan(LightningModule):
    """Two optimizers by hand, images logged in the way of Lightning's own example, no validation."""

    def __init__(self, latent: int = 4, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        self.register_buffer("noise", torch.randn(2, latent), persistent=False)

    def training_step(self, batch: Any) -> None:
        images, bce = batch[0], nn.functional.binary_cross_entropy_with_logits
        fake = self.generator(torch.randn(len(images), self.hparams.latent))
        losses = {}
        for name, optimizer in zip("gd", self.optimizers(), strict=True):
            self.toggle_optimizer(optimizer)
            real_out, fake_out = self.discriminator(images), self.discriminator(fake if name == "g" else fake.detach())
            if name == "g":
                loss = bce(fake_out, torch.ones_like(fake_out))
            else:
                loss = bce(real_out, torch.ones_like(real_out)) + bce(fake_out, torch.zeros_like(fake_out))
            losses[f"{name}_loss"] = loss
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)
        self.log_dict(losses, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        self.logger.experiment.add_image("generated", self.generator(self.noise)[0], self.current_epoch)
        for logger in self.loggers:
            logger.experiment.add_histogram("noise", self.noise, self.current_epoch)

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.discriminator)
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in parts], []


@dataclass
class Setup:
    width: int = 8


class Hyperparameters(LightningModule):
    """Saves a net, a loss, a dataclass, a function and plain values, and reads them back from ``self.hparams``."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.SGD,
        setup: Setup | None = None,
        criterion: nn.Module | None = None,
        decay: float = 0.5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.hparams.criterion or cross_entropy)(self.net(batch[0]), batch[1]) * self.hparams.decay

    def configure_optimizers(self) -> Any:
        return self.hparams.optimizer(self.parameters())

    train_dataloader = OwnLoaders.train_dataloader


class Typo(OwnLoaders):
    """Reads a hyperparameter that does not exist."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch) * self.hparams.typo


class Broken(OwnLoaders):
    """Its constructor has a bug, whatever the settings."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.table = {"a": 1}[str(size)]


class DictModule(Plain):
    """Dictionary batches, as tokenizers and Hugging Face's data sets give."""

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        return cross_entropy(self(batch["image"]), batch["label"])

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"score": self(batch["image"]), "label": batch["label"]}


class DictData(Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, label = digits(32)[i]
        return {"image": image, "label": label, "name": f"digit {i}"}


class NamedData(DictData):
    def __getitem__(self, i: int) -> Any:
        return Pair(*digits(32)[i])


class Loaders(LightningDataModule):
    """A LightningDataModule of the tutorials: no class names, no shapes, no state."""

    dataset: type | Any = staticmethod(digits)

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def loader(self) -> Any:
        return DataLoader(self.dataset(), batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class DictLoaders(Loaders):
    dataset = DictData


class NamedLoaders(Loaders):
    dataset = NamedData


class Grouped(Loaders):
    """A dictionary of loaders, as for semi-supervised training."""

    def train_dataloader(self) -> Any:
        return {"labelled": self.loader(), "unlabelled": self.loader()}


class Numbers(Loaders):
    """Sequences of numbers, nothing to draw as images."""

    dataset = staticmethod(lambda: TensorDataset(torch.rand(20, 12), torch.rand(20)))


class MyNet(nn.Module):
    """A net of a tutorial: no arguments, ten outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


class Five(MyNet):
    """Always five outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * 36, 5)


class ChannelsFirst(MyNet):
    """The number of classes is not the first argument."""

    def __init__(self, in_channels: int = 1, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, 4, 3), nn.Linear(4 * 36, num_classes)


class FirstArgument(MyNet):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * 36, outputs)


class Widened(MyNet):
    """No argument for the number of outputs; the first one means something else."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, width, 3), nn.Linear(width * 36, 10)


class NoParameters(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.outputs]


def create_model(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a net as timm does: K goes through ``kwargs``; weights would be downloaded."""
    if pretrained:
        raise OSError("nothing may be downloaded")
    return ChannelsFirst(**kwargs)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        yield from digits()


class StreamLoaders(Loaders):
    dataset = Stream


class StepAndEpoch(OwnLoaders):
    """Logs ``on_step`` and ``on_epoch``, and has two more losses; reads the path of the best checkpoint."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.step(batch)
        self.log("val_loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"val_kl_loss": 0.0, "val_recon_loss": loss})

    def on_train_end(self) -> None:
        self.best_path = self.trainer.checkpoint_callback.best_model_path


class BuiltInSetup(OwnLoaders):
    """Builds its net only once the data is known, as Lightning's documentation does."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def setup(self, stage: str) -> None:
        if not hasattr(self, "net"):
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))


class Lazy(OwnLoaders):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))


class Configured(BuiltInSetup):
    """Builds its net in ``configure_model``."""

    setup = LightningModule.setup
    configure_model = lambda self: BuiltInSetup.setup(self, "fit")  # noqa: E731


class MemoryBank(OwnLoaders):
    """Grows a buffer in training, as anomaly detectors do, and keeps a frozen net out of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.empty(0))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def on_train_epoch_end(self) -> None:
        self.bank = torch.cat([self.bank, torch.ones(3)])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in ("frozen.weight", "frozen.bias"):
            del checkpoint["state_dict"][name]
        checkpoint["note"] = {"score": np.float32(0.5)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {f"frozen.{key}": value for key, value in self.frozen.state_dict().items()}
        self.bank = torch.empty_like(checkpoint["state_dict"]["bank"])
        assert checkpoint["note"] == {"score": 0.5}


class CosineWarmup(torch.optim.lr_scheduler.LRScheduler):
    """A schedule of a tutorial, whose learning rates are NumPy's numbers."""

    def get_lr(self) -> list[Any]:
        return [base * np.cos(self.last_epoch / 20) for base in self.base_lrs]


class OwnSchedule(OwnLoaders):
    """Steps a schedule itself, of which Lightning knows nothing."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        self.schedule = CosineWarmup(optimizer)
        return optimizer

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.schedule.step()


class FitOnly(Loaders):
    """Splits its data in ``setup("fit")`` alone, also that of the validation."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train, self.val = torch.utils.data.random_split(digits(), [32, 16])

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=16)


@dataclass
class Result:
    score: Tensor
    label: Any = None


class Predicts(Plain):
    """Returns its predictions in the ``form`` of one of many repositories."""

    def __init__(self, form: str = "none") -> None:
        super().__init__()
        self.form = form

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        scores = self(batch[0])
        boxes = [{"boxes": torch.ones(int(i) % 3, 4), "label": int(i)} for i in batch[1]]  # of each image
        forms = {"none": None, "numpy": scores.numpy(), "dataclass": Result(scores, ["a"] * len(scores)), "list": boxes}
        return forms[self.form]


class TwoPredictLoaders(Loaders):
    def predict_dataloader(self) -> Any:
        return [DataLoader(digits(16), batch_size=8), DataLoader(digits(16), batch_size=16)]


class Latent(Plain):
    """A generator: ``forward`` does not take what the data module loads."""

    def forward(self, noise: Tensor) -> Tensor:
        return nn.functional.linear(noise, torch.ones(3, 5))

    def step(self, batch: Any) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])


class Transformer(MyNet):
    """Requires two arguments besides the number of classes, which comes last."""

    def __init__(self, in_channels: int, width: int, n_classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, width, 3), nn.Linear(width * 36, n_classes)


def unannotated(num_classes: int = 10):
    return ChannelsFirst(1, num_classes)


class AnyArguments(LightningModule):
    """A module that passes on all of its arguments, so that its settings are empty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
