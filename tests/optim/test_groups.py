"""Parameter groups get the right settings, ineffective rules are rejected, and Lightning gets matching schedulers."""

import csv
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from src import UserError
from src.cli import main
from src.data import Digits
from src.nets import SmallCNN
from src.optim import Cosine, Linear, MuonSGD, build_optimizer, param_groups, with_warmup
from src.optim.groups import check_settings, no_decay_params
from tests.conftest import heavy

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")
LR = 0.2
SMALL = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--test=false"]


def linear_layers(count: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(count)))


def settings_by_name(net: nn.Module, groups: list[dict], *keys: str) -> dict[str, tuple]:
    """Return settings by parameter name; each parameter must occur once."""
    names = {p: name for name, p in net.named_parameters()}
    pairs = [(names[p], tuple(group.get(key) for key in keys)) for group in groups for p in group["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_biases_and_norms_get_no_weight_decay():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[4].weight = net[3].weight  # shared
    net[0].bias.requires_grad_(False)
    decayed, exempt = SGD(param_groups(net), lr=LR, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0)
    assert set(decayed["params"]) == {net[0].weight, net[3].weight}
    given = decayed["params"] + exempt["params"]
    assert len(given) == len(set(given))
    assert set(given) == {p for p in net.parameters() if p.requires_grad}


def test_there_is_no_group_without_parameters():
    assert [len(group["params"]) for group in param_groups(nn.Linear(2, 2, bias=False))] == [1]


def test_lazy_weights_decay_and_lazy_biases_and_norms_do_not():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(2))
    groups = SGD(param_groups(net), lr=LR, weight_decay=0.1).param_groups
    decay = settings_by_name(net, groups, "weight_decay")
    assert {name for name, (value,) in decay.items() if value} == {"0.weight", "2.weight"}
    assert no_decay_params(net) == {net[0].bias, net[1].weight, net[1].bias, net[2].bias}


def test_a_rule_applies_its_settings_and_biases_still_do_not_decay():
    net = SmallCNN(10, width=2)
    rules = [{"match": "head.*", "lr": 0.01}, {"match": r"features\.0\..*", "weight_decay": 0.5, "momentum": 0.3}]
    groups = SGD(param_groups(net, rules), LR, 0.9, weight_decay=0.1).param_groups
    settings = settings_by_name(net, groups, "lr", "momentum", "weight_decay")
    for name, values in settings.items():
        decay = 0.1 if net.get_parameter(name).ndim > 1 else 0.0
        if name.startswith("head"):
            assert values == (0.01, 0.9, decay)
        elif name.startswith("features.0."):
            assert values == (LR, 0.3, 0.5)
        else:
            assert values == (LR, 0.9, decay)
    assert len(settings) == len(list(net.parameters()))


def test_the_first_rule_that_matches_the_full_name_applies():
    net = linear_layers(2)
    rules = [{"match": "0.weight", "lr": 1.0}, {"match": "0.*", "lr": 2.0}, {"match": "1.bia.", "lr": 3.0}]
    rates = settings_by_name(net, SGD(param_groups(net, rules), lr=LR).param_groups, "lr")
    assert rates == {"0.weight": (1.0,), "0.bias": (2.0,), "1.weight": (LR,), "1.bias": (3.0,)}


def test_parameters_without_a_rule_come_first():
    net = linear_layers(2)
    groups = param_groups(net, [{"match": "0.*"}])
    assert [group["params"] for group in groups] == [[net[1].weight], [net[1].bias], [net[0].weight], [net[0].bias]]


def test_learning_rates_decay_from_the_last_layer_to_the_first():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    groups = param_groups(net, layer_decay=0.5)
    expected = {"0": 0.25, "1": 0.25, "2": 0.5, "4": None}
    scales = settings_by_name(net, groups, "lr_scale")
    assert scales == {name: (expected[name[0]],) for name, _ in net.named_parameters()}
    assert [group.get("lr_scale", 1) for group in groups] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_layer_decay_does_not_scale_the_learning_rate_of_a_rule():
    rules = [{"match": "0.*", "lr": 0.01}, {"match": "1.*", "momentum": 0.1}]
    groups = param_groups(linear_layers(3), rules, layer_decay=0.5)
    assert [(group.get("lr_scale"), group.get("lr")) for group in groups] == [
        *[(None, None)] * 2,
        *[(None, 0.01)] * 2,
        *[(0.5, None)] * 2,
    ]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"lr": 0.1}], "each rule needs match, a regular expression for parameter names, got {'lr': 0.1}"),
        ([{"match": 3}], "each rule needs match, a regular expression for parameter names, got {'match': 3}"),
        ([{"match": "head.(*"}], "groups: match must be a regular expression, got 'head.(*' ("),
        ([{"match": "haed.*"}], "'haed.*' matches no trainable parameter; closest: head."),
        ([{"match": "head"}], "'head' matches no trainable parameter; closest: head.bias, head.weight"),
        ([{"match": "features.0.0.weight"}], "matches no trainable parameter"),  # frozen
        ([{"match": "head.*"}, {"match": ".*bias"}, {"match": "head.bias"}], "rule 'head.bias' is never used, because"),
    ],
)
def test_a_rule_without_effect_is_rejected(rules, message):
    net = SmallCNN(10, width=2)
    net.features[0][0].weight.requires_grad_(False)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        param_groups(net, rules)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.5])
def test_a_layer_decay_out_of_range_is_rejected(layer_decay):
    with pytest.raises(UserError, match=re.escape(f"layer_decay must be in (0, 1], got {layer_decay}")):
        param_groups(nn.Linear(2, 2), layer_decay=layer_decay)


@pytest.mark.parametrize(
    ("optimizer", "rule", "message"),
    [
        (SGD, {"momentun": 0.5}, "SGD has no setting momentun; did you mean momentum?"),
        (SGD, {"muon": False}, "SGD has no setting muon; it has lr, momentum, dampening, "),
        (SGD, {"params": []}, "SGD has no setting params; "),
        (SGD, {"lr": "1e-2x"}, "lr must be a number, got '1e-2x'"),
        (SGD, {"lr": True}, "lr must be a number, got True"),
        (SGD, {"nesterov": 1}, "nesterov must be true or false, got 1"),
        (SGD, {"lr": -1}, "'0.*': Invalid learning rate: -1"),
        (SGD, {"nesterov": True}, "'0.*': Nesterov momentum requires a momentum and zero dampening"),
        (AdamW, {"betas": 3}, "betas must be 2 numbers, got 3"),
        (AdamW, {"betas": [0.9]}, "betas must be 2 numbers, got [0.9]"),
        (SGD, {3: 4}, "names of settings must be strings, got 3"),
        (AdamW, {"betas": [0.9, 2.0]}, "'0.*': Invalid beta parameter at index 1: 2.0"),
        (MuonSGD, {"momentum": 1.0}, r"'0.*': momentum must be in [0, 1), got 1.0"),
    ],
)
def test_a_setting_that_the_optimizer_does_not_accept_is_rejected(optimizer, rule, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_settings(optimizer(nn.Linear(2, 2).parameters(), lr=0.1), [{"match": "0.*", **rule}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (SGD, {"lr": 1, "momentum": 0.5, "nesterov": True, "weight_decay": 0}),
        (AdamW, {"betas": [0.9, 0.99], "eps": 1e-6, "amsgrad": True, "fused": True}),
        (torch.optim.Adafactor, {"beta2_decay": -0.5, "eps": [None, 1e-3]}),
        (torch.optim.Muon, {"ns_steps": 3}),
        (MuonSGD, {"muon": False, "sgd_lr": 0.3}),
    ],
)
def test_settings_that_the_optimizer_has_are_accepted(optimizer, rule):
    check_settings(optimizer([nn.Parameter(torch.ones(2, 2))], lr=0.1), [{"match": "0.*", **rule}])


def test_an_optimizer_with_other_argument_names_is_not_checked_by_value():
    class Own(SGD):
        def __init__(self, weights, speed):
            super().__init__(weights, lr=speed)

    check_settings(Own([nn.Parameter(torch.ones(2))], 0.1), [{"match": "0.*", "lr": 0.5}])


@pytest.mark.parametrize(("optimizer", "decoupled"), [(torch.optim.AdamW, True), (torch.optim.Adam, False)])
def test_only_decoupled_decay_is_independent_of_the_gradient(optimizer, decoupled):
    def mean_after_one_step(gradient: float) -> float:
        weight = nn.Parameter(torch.ones(3, 3))
        built = optimizer(param_groups(nn.ParameterList([weight])), lr=0.1, weight_decay=0.5)
        weight.grad = torch.full_like(weight, gradient)
        built.step()
        return float(weight.detach().mean())

    means = [mean_after_one_step(gradient) for gradient in (1e-3, 1e3)]
    assert means == pytest.approx([1 - 0.1 * 0.5 - 0.1] * 2 if decoupled else [1 - 0.1] * 2, rel=1e-4)


def test_the_schedule_scales_the_rates_of_rules_and_layers():
    net = linear_layers(3)
    rules = [{"match": "0.weight", "lr": 0.7}]
    built = build_optimizer(net, partial(SGD, lr=LR), rules, 0.5)
    (config,) = with_warmup(built, Linear, 0, 4)
    base = {"2.weight": LR, "2.bias": LR, "1.weight": LR / 2, "1.bias": LR / 2, "0.weight": 0.7, "0.bias": LR / 4}
    for factor in (1, 0.75):
        rates = {name: lr for name, (lr,) in settings_by_name(net, built.param_groups, "lr").items()}
        assert rates == pytest.approx({name: factor * lr for name, lr in base.items()})
        built.step()
        config["scheduler"].step()
    assert not any("lr_scale" in group for group in built.param_groups)


def test_layer_decay_scales_a_shared_learning_rate_tensor_per_group():
    optimizer = partial(SGD, lr=torch.tensor(1.0))
    built = build_optimizer(linear_layers(2), optimizer, None, 0.5)
    assert [float(group["lr"]) for group in built.param_groups] == [1, 1, 0.5, 0.5]


def test_settings_of_rules_are_checked_against_the_optimizer():
    with pytest.raises(UserError, match=re.escape("groups: SGD has no setting momentun; did you mean momentum?")):
        build_optimizer(nn.Linear(2, 2), partial(SGD, lr=LR), [{"match": ".*", "momentun": 0.9}], 1.0)


class ConstantLoss(LightningModule):
    """A constant validation loss, so that every epoch after the first is a bad one."""

    def __init__(self, warmup_steps: int) -> None:
        super().__init__()
        self.net, self.warmup_steps = nn.Linear(2, 2), warmup_steps

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.net(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/loss", torch.ones(()))

    def configure_optimizers(self):
        plateau = partial(ReduceLROnPlateau, factor=0.5, patience=0)
        optimizer = build_optimizer(self.net, partial(SGD, lr=LR), None, 1.0)
        return [optimizer], with_warmup(optimizer, plateau, self.warmup_steps, 30)


def fit_rates(task: LightningModule, **settings) -> list[float]:
    """Return the learning rate of each training batch."""
    rates = []
    record = LambdaCallback(on_train_batch_start=lambda run, *_: rates.append(run.optimizers[0].param_groups[0]["lr"]))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[record], **quiet, **settings)
    loader = DataLoader(torch.randn(20, 2), batch_size=4)
    trainer.fit(task, loader, loader)
    return rates


@pytest.mark.parametrize("warmup_steps", [0, 3, 17])
def test_factors_of_plateau_and_warmup_multiply(warmup_steps):
    rates = fit_rates(ConstantLoss(warmup_steps), max_epochs=6)
    warmup = [min(1, (step + 1) / (warmup_steps + 1)) for step in range(30)]
    plateau = [0.5 ** max(0, step // 5 - 1) for step in range(30)]
    assert rates == pytest.approx([LR * up * down for up, down in zip(warmup, plateau, strict=True)])


def test_the_warmup_counts_accumulated_batches_as_one_step():
    rates = fit_rates(ConstantLoss(4), max_epochs=2, accumulate_grad_batches=5)
    assert rates == pytest.approx([LR * 0.2] * 5 + [LR * 0.4] * 5)


OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1),
    "SGD with momentum": partial(SGD, lr=0.05, momentum=0.9),
    "SGD with Nesterov momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=0.01),
    "AdamW": partial(torch.optim.AdamW, lr=0.01),
    "NAdam": partial(torch.optim.NAdam, lr=0.01),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.01),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.05),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "MuonSGD": MuonSGD,
}


@pytest.mark.parametrize("name", heavy(OPTIMIZERS, "SGD", "Adam", "RMSprop", "Ada"))
def test_every_optimizer_learns_digits(name):
    torch.manual_seed(0)
    images, targets = Digits().load(train=True)
    net = SmallCNN(10, width=2)
    built = build_optimizer(net, OPTIMIZERS[name], None, 0.9)
    (config,) = with_warmup(built, Cosine, 3, 40)
    losses = []
    for step in range(40):
        batch = slice(32 * step, 32 * (step + 1))
        loss = cross_entropy(net(images[batch] / 255), targets[batch])
        built.zero_grad()
        loss.backward()
        built.step()
        config["scheduler"].step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    assert [group["lr"] for group in built.param_groups] == [0] * len(built.param_groups)


@pytest.mark.parametrize(
    "arguments",
    [
        "optimizer=torch.optim.Adadelta schedule=torch.optim.lr_scheduler.StepLR schedule.step_size=20",
        "optimizer=torch.optim.NAdam optimizer.lr=0.02 schedule=src.optim.MultiStep schedule.milestones=[0.5,0.9]",
        "optimizer=torch.optim.SGD optimizer.lr=0.1 schedule=src.optim.OneCycle schedule.pct_start=0.5",
        "optimizer=src.optim.MuonSGD schedule=src.optim.Polynomial layer_decay=0.9 "
        "groups=[{match:head.*,muon:false,lr:0.1}]",
    ],
)
def test_the_command_line_sets_optimizer_and_schedule(arguments):
    settings = [f"--model.{argument}".replace(":", ": ") for argument in arguments.split()]
    experiment = main([*SMALL, "--trainer.max_epochs=2", *settings, "--model.warmup_steps=2"])
    (optimizer,) = experiment.trainer.optimizers
    built = (optimizer, experiment.task.schedule(optimizer))
    assert [type(each).__name__ for each in built] == re.findall(r"\.([A-Z]\w+)", arguments)
    rows = csv.DictReader(Path("runs/digits/version_0/metrics.csv").read_text(encoding="utf-8").splitlines())
    first, second = (float(row["train/loss"]) for row in rows if row["train/loss"])
    assert second < first


@pytest.mark.heavy
def test_a_resumed_run_with_plateau_and_warmup_equals_an_uninterrupted_one():
    fit = [*SMALL, "--model.warmup_steps=10", "--trainer.limit_train_batches=3"]
    fit += ["--model.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau"]
    uninterrupted = main([*fit, "--trainer.max_epochs=4"]).task.net
    main([*fit, "--trainer.max_epochs=2"])
    resume = ["fit", "--run=runs/digits/version_1", "--test=false"]
    resumed = main([*resume, "--trainer.max_epochs=4"])
    assert all(p.equal(q) for p, q in zip(uninterrupted.parameters(), resumed.task.net.parameters(), strict=True))
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(4e-3)
    changed = ["--model.schedule.factor=0.5", "--model.schedule.patience=0", "--model.schedule.threshold=0.9"]
    extended = main([*resume, "--trainer.max_epochs=6", *changed])
    assert extended.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(4e-3 / 4)
