"""MuonSGD equals torch's Muon on matrices and torch's SGD on all other parameters."""

import io
import re
from copy import deepcopy

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Muon
from torch.utils.data import DataLoader

from src.optim import MuonSGD
from src.optim.muon import orthogonalize, plan_batches

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def net() -> nn.Sequential:
    """A net with filters, matrices of equal and different shapes, norms and biases."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),  # (4, 9): wide
        nn.BatchNorm2d(4),
        nn.Flatten(),  # (N, 16)
        nn.Linear(16, 4),  # wide
        nn.Linear(4, 4),
        nn.Linear(4, 4),
        nn.Linear(4, 12),  # tall
    )


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3, seed: int = 0) -> None:
    """Take steps on a loss of random inputs that depend only on the seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = model(torch.randn(8, 1, 4, 4, generator=generator)).square().mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def near(actual: Tensor, expected: Tensor, before: Tensor) -> bool:
    """Check that an update equals the expected one within bfloat16 precision."""
    return (actual - expected).norm() < 0.02 * (expected - before).norm()


def step_together(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    """Take five steps with the same random gradients for both optimizers' only parameter."""
    p, q = (optimizer.param_groups[0]["params"][0] for optimizer in (ours, theirs))
    for _ in range(5):
        p.grad = torch.randn(p.shape)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_follow_torchs_muon_and_other_parameters_its_sgd(nesterov):
    ours = net()
    ours[0] = nn.Flatten()
    ours[1] = nn.Linear(16, 16)
    start, theirs = deepcopy(ours), deepcopy(ours)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim <= 1]
    settings = {"nesterov": nesterov, "weight_decay": 0.1}
    train(ours, MuonSGD(ours.parameters(), lr=0.02, momentum=0.9, sgd_lr=0.05, sgd_momentum=0.8, **settings), steps=1)
    muon = Muon(matrices, lr=0.02, momentum=0.9, **settings)
    train(theirs, muon, SGD(vectors, lr=0.05, momentum=0.8, **settings), steps=1)
    for actual, expected, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert near(actual, expected, before) if actual.ndim > 1 else actual.equal(expected)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_many_steps_on_the_same_gradients_agree_with_torchs_muon(shape, nesterov):
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    step_together(MuonSGD([ours], **settings), Muon([theirs], **settings))
    assert near(ours, theirs, torch.ones(shape))


def test_many_steps_on_the_same_gradients_equal_torchs_sgd():
    ours, theirs = (nn.Parameter(torch.ones(7)) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    step_together(MuonSGD([ours], **settings, sgd_lr=0.02, sgd_momentum=0.9), SGD([theirs], **settings))
    assert ours.equal(theirs)


@pytest.mark.parametrize("shape", [(3, 16, 32), (3, 32, 16), (2, 24, 24)])
def test_orthogonalize_keeps_singular_vectors_and_equalizes_values(shape):
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.2, 3, min(shape[1:])).expand(shape[0], -1)
    result = torch.stack(orthogonalize([*(left * values[:, None] @ right)], 5)).float()
    assert result.shape == shape
    singular_values = torch.linalg.svdvals(result)
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3
    in_basis = left.mT @ result @ right.mT  # diagonal if the singular vectors are the same
    assert (in_basis - torch.diag_embed(in_basis.diagonal(dim1=1, dim2=2))).abs().max() < 0.05


def test_a_zero_matrix_stays_zero():
    assert not orthogonalize([torch.zeros(3, 4)], 5)[0].any()


def test_matrices_of_different_shapes_share_a_batch_and_are_not_changed_by_it():
    shapes = ((24, 32), (24, 30), (6, 40), (40, 6), (2, 3))
    assert [members for members, _ in plan_batches((*shapes[:3], (6, 40), (2, 3)))] == [[0, 1, 2, 3], [4]]
    matrices = [torch.randn(shape) for shape in shapes]
    for matrix, result in zip(matrices, orthogonalize(matrices, 5), strict=True):
        torch.testing.assert_close(result, orthogonalize([matrix], 5)[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_filters_are_updated_as_flattened_matrices(layout):
    start, grads = torch.randn(4, 3, 2, 2), torch.randn(3, 4, 3, 2, 2)
    filters = nn.Parameter(start.clone(memory_format=layout))
    matrix = nn.Parameter(start.flatten(1).clone())
    optimizers = MuonSGD([filters]), MuonSGD([matrix])
    for grad in grads:
        filters.grad, matrix.grad = grad.clone(memory_format=layout), grad.flatten(1).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert filters.flatten(1).equal(matrix)
    assert not filters.equal(start)


def test_matrices_of_one_shape_are_updated_independently():
    together = [nn.Parameter(torch.randn(4, 6)) for _ in range(3)]
    alone = deepcopy(together)
    for p, q in zip(together, alone, strict=True):
        p.grad = torch.randn(4, 6)
        q.grad = p.grad.clone()
    MuonSGD(together).step()
    for q in alone:
        MuonSGD([q]).step()
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4)  # updates are of size 0.02


def test_each_kind_of_parameter_gets_its_own_settings():
    model = net()
    muon, sgd = MuonSGD(model.parameters(), lr=0.3, momentum=0.7, sgd_lr=0.2, sgd_momentum=0.6).param_groups
    assert all(p.ndim > 1 for p in muon["params"])
    assert all(p.ndim == 1 for p in sgd["params"])
    assert {*muon["params"], *sgd["params"]} == set(model.parameters())
    assert [(group["muon"], group["lr"], group["momentum"]) for group in (muon, sgd)] == [
        (True, 0.3, 0.7),
        (False, 0.2, 0.6),
    ]


def test_settings_of_a_group_apply_to_both_kinds():
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    groups = [{"params": one.parameters(), "lr": 0.7}, {"params": two.parameters(), "muon": False, "sgd_lr": 0.4}]
    built = MuonSGD(groups, lr=0.3, sgd_lr=0.2).param_groups
    assert [(group["params"], group["muon"], group["lr"]) for group in built] == [
        ([one.weight], True, 0.7),
        ([one.bias], False, 0.7),
        ([two.weight, two.bias], False, 0.4),
    ]


def test_named_parameters_are_accepted():
    groups = MuonSGD(nn.Linear(2, 2).named_parameters()).param_groups
    assert [group["param_names"] for group in groups] == [["weight"], ["bias"]]


def test_step_calls_the_closure_with_gradients_and_returns_its_loss():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = MuonSGD([p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert p.square().sum() < 4
    assert optimizer.step() is None


def test_parameters_without_gradients_do_not_change():
    model = net()
    before = deepcopy(model.state_dict())
    model[3].weight.grad = torch.ones(4, 16)
    optimizer = MuonSGD(model.parameters(), weight_decay=0.5)
    optimizer.step()
    assert {key for key, value in model.state_dict().items() if not value.equal(before[key])} == {"3.weight"}
    assert list(optimizer.state) == [model[3].weight]


def test_a_restored_optimizer_continues_exactly():
    uninterrupted = net()
    optimizer = MuonSGD(uninterrupted.parameters(), weight_decay=0.1)
    train(uninterrupted, optimizer)
    resumed, stateless, file = deepcopy(uninterrupted), deepcopy(uninterrupted), io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    restored = MuonSGD(resumed.parameters())
    restored.load_state_dict(torch.load(file, weights_only=True))
    train(uninterrupted, optimizer, seed=1)
    train(resumed, restored, seed=1)
    assert all(p.equal(q) for p, q in zip(uninterrupted.parameters(), resumed.parameters(), strict=True))
    train(stateless, MuonSGD(stateless.parameters(), weight_decay=0.1), seed=1)
    assert not stateless[3].weight.equal(resumed[3].weight)


def test_a_deep_copy_is_independent():
    model = net()
    optimizer = MuonSGD(model.parameters(), sgd_lr=0.3)
    train(model, optimizer)
    twin, twins_optimizer = deepcopy((model, optimizer))
    train(model, optimizer, seed=1)
    assert not twin[3].weight.equal(model[3].weight)
    train(twin, twins_optimizer, seed=1)
    assert all(p.equal(q) for p, q in zip(twin.parameters(), model.parameters(), strict=True))
    twins_optimizer.add_param_group({"params": nn.Parameter(torch.ones(2))})
    assert twins_optimizer.param_groups[-1]["lr"] == 0.3


class Fit(LightningModule):
    """Map noise to one."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.losses = net(), []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss = (self.net(batch) - 1).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> MuonSGD:
        return MuonSGD(self.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trains_with_accumulated_gradients(precision):
    model = Fit()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, precision=precision, logger=False, **quiet
    )
    trainer.fit(model, DataLoader(torch.randn(480, 1, 4, 4), batch_size=8))
    assert trainer.global_step == 30
    assert sum(model.losses[-10:]) < 0.5 * sum(model.losses[:10])
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"sgd_lr": -0.1}, "sgd_lr must be at least 0, got -0.1"),
        ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ({"momentum": 1}, "momentum must be in [0, 1), got 1"),
        ({"sgd_momentum": -0.5}, "sgd_momentum must be in [0, 1), got -0.5"),
        ({"ns_steps": 0}, "ns_steps must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_rejected(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MuonSGD([nn.Parameter(torch.ones(2, 2))], **settings)


def test_uninitialized_parameters_are_rejected():
    with pytest.raises(ValueError, match="MuonSGD needs the shapes of all parameters"):
        MuonSGD(nn.LazyLinear(3).parameters())


def test_normalize_scales_each_matrix_to_the_norm_of_unit_rows():
    weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    direction = weight.detach() / weight.detach().norm()
    weight.grad = torch.randn_like(weight)
    MuonSGD([weight], lr=0.0, normalize=True).step()
    torch.testing.assert_close(weight.detach(), direction * 8**0.5)


def test_zero_matrices_learn_and_complex_ones_are_left_to_sgd():
    zeros, waves = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))
    optimizer = MuonSGD([zeros, waves], normalize=True)
    zeros.grad, waves.grad = torch.randn(4, 4), torch.full((4, 4), 1j)
    optimizer.step()
    assert zeros.isfinite().all()
    assert zeros.any()
    assert (waves.imag < 0).all()
