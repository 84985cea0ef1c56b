"""Weights load from files, runs, torchvision and timm, under other names, and what happened to each is told."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from src import UserError
from src.nets import MLP, ResNet, SmallCNN
from src.nets.weights import Backbone, describe, load_weights

State = dict[str, Tensor]


def cnn(num_outputs: int = 10, seed: int = 0) -> SmallCNN:
    torch.manual_seed(seed)
    return SmallCNN(num_outputs, width=4)


def save(state: object, file: str = "weights.pt") -> str:
    torch.save(state, file)
    return file


def equal(a: State, b: State) -> list[str]:
    """Return the names of tensors that are equal in both."""
    return [name for name in a if name in b and a[name].equal(b[name])]


@pytest.mark.parametrize("prefix", ["", "module.", "net.", "model.module.", "net._orig_mod."])
@pytest.mark.parametrize("under", [None, "state_dict", "model", "model_state_dict"])
def test_all_tensors_load_whatever_prefix_their_names_have(prefix: str, under: str | None) -> None:
    stored = {prefix + name: each for name, each in cnn(seed=1).state_dict().items()}
    net = cnn()
    account = load_weights(net, save({under: stored, "epoch": 3} if under else stored))
    assert len(equal(net.state_dict(), cnn(seed=1).state_dict())) == len(stored) == len(account["loaded"])
    assert len(account["renamed"]) == (len(stored) if prefix else 0)
    assert not account["other shape"] + account["missing"] + account["unexpected"]


def test_the_names_of_a_net_inside_another_need_no_prefix() -> None:
    state = models.resnet18().state_dict()
    net = ResNet(1000)
    assert len(load_weights(net, save(state))["loaded"]) == len(state)
    assert len(load_weights(nn.Sequential(net), save(net.state_dict()))["loaded"]) == len(state)


def test_tensors_of_other_modules_in_a_checkpoint_do_not_load() -> None:
    stored = {f"net.{name}": each for name, each in cnn(seed=1).state_dict().items()}
    account = load_weights(net := cnn(), save({"state_dict": {"loss.weight": torch.ones(10), **stored}}))
    assert net.head.weight.equal(cnn(seed=1).head.weight)
    assert account["unexpected"] == ["loss.weight"]


def test_of_two_nets_in_a_file_a_rule_must_choose_one() -> None:
    both = {
        f"{prefix}.{name}": w
        for prefix, i in (("net", 1), ("teacher", 2))
        for name, w in cnn(seed=i).state_dict().items()
    }
    load_weights(net := cnn(), save(both), {r"^teacher\.": ""})
    assert net.head.weight.equal(cnn(seed=2).head.weight)
    with pytest.raises(
        UserError, match=r"of net\. and teacher\. fit equally well: choose one, such as with model.rename"
    ):
        load_weights(cnn(), save(both))


def test_the_largest_state_dict_of_a_file_is_loaded() -> None:
    content = {"epoch": torch.tensor(3), "optimizer": {"x": torch.ones(1)}, "net": cnn(seed=1).state_dict()}
    load_weights(net := cnn(), save(content))
    assert net.head.weight.equal(cnn(seed=1).head.weight)


def test_a_head_for_other_classes_keeps_its_own_weights() -> None:
    net = cnn(7)
    account = load_weights(net, save(cnn(10, seed=1).state_dict()))
    assert account["other shape"] == ["head.weight", "head.bias"]
    assert not {"head.weight", "head.bias"} & {*account["loaded"]}
    assert net.head.weight.equal(cnn(7).head.weight)
    assert len(equal(net.features.state_dict(), cnn(seed=1).features.state_dict())) == len(account["loaded"])


def test_names_are_replaced_by_patterns_in_turn() -> None:
    stored = {f"stem.{name}".replace("features", "body"): w for name, w in cnn(seed=1).state_dict().items()}
    net = cnn()
    account = load_weights(
        net, save(stored), {r"body\.(\d)": r"blocks.\1", "^stem.blocks": "features", "stem.head": "head"}
    )
    assert len(account["loaded"]) == len(equal(net.state_dict(), cnn(seed=1).state_dict())) == len(stored)
    assert account["renamed"][0] == "stem.body.0.0.weight to features.0.0.weight"


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"nope": ""}, r"rename: 'nope' matches no name; closest: "),
        ({"(": ""}, r"rename must be a regular expression, got '\('"),
        ({"head": r"\1"}, r"rename: cannot replace 'head' by '\\\\1' \(invalid group reference 1"),
        ({"weight|bias": "x"}, r"rename: 'weight\|bias' renames features.0.1.weight and features.0.1.bias to "),
    ],
)
def test_rules_that_cannot_be_applied_are_rejected(rename: dict[str, str], message: str) -> None:
    file = save(cnn().state_dict())
    with pytest.raises(UserError, match=message):
        load_weights(cnn(), file, rename)


def test_tensors_pair_in_order_without_batch_counters() -> None:
    state = cnn(seed=1).state_dict()
    stored = [each for name, each in state.items() if "num_batches" not in name]
    net = cnn(7)
    account = load_weights(net, save({f"t{i}": each for i, each in enumerate(stored)}), "order")
    assert account["loaded"] == [n for n in net.state_dict() if "num_batches" not in n and "head" not in n]
    assert account["other shape"] == ["head.weight", "head.bias"]
    assert not account["missing"] + account["unexpected"]
    assert all(net.state_dict()[name].equal(state[name]) for name in account["loaded"])


def test_order_names_the_first_tensor_that_differs() -> None:
    state = cnn().state_dict()
    with pytest.raises(
        UserError, match=r"the net has features.0.0.weight \(5, 1, 3, 3\), the file has features.0.0.we"
    ):
        load_weights(SmallCNN(10, width=5), save(state), "order")
    with pytest.raises(UserError, match=r"order needs .*the net has head.bias \(10,\), the file has no more: check"):
        load_weights(cnn(), save({name: each for name, each in state.items() if name != "head.bias"}), "order")
    with pytest.raises(UserError, match=r"the net has no more, the file has more \(1,\)"):
        load_weights(cnn(), save({**state, "more": torch.ones(1)}), "order")


@pytest.mark.parametrize("state", [{}, {"a.weight": torch.ones(2)}, MLP(10).state_dict(), SmallCNN(10).state_dict()])
def test_weights_of_which_nothing_fits_are_rejected(state: State) -> None:
    with pytest.raises(UserError, match=r"^weights weights\.pt: nothing fits this net \(first names: .* and features"):
        load_weights(cnn(), save(state))  # the biases of the head fit by chance, and counts of batches


def test_files_that_hold_no_state_dict_are_rejected() -> None:
    Path("text.pt").write_text("no weights", encoding="utf-8")
    for file in ("text.pt", save(nn.Linear(2, 2), "module.pt")):  # a module would run code
        with pytest.raises(UserError, match=rf"weights {file}: cannot be read as tensors \(UnpicklingError\)"):
            load_weights(cnn(), file)
    with pytest.raises(UserError, match=r"weights list\.pt: must hold a state dict, got a list"):
        load_weights(cnn(), save([1], "list.pt"))
    with pytest.raises(UserError, match=r"weights configs: no checkpoints/best\.ckpt there"):
        load_weights(cnn(), "configs")
    with pytest.raises(UserError, match=r"weights nope\.pt does not exist: expected a file, a run folder, a name"):
        load_weights(cnn(), "nope.pt")


def test_torchvision_weights_load_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.resnet18().state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    net = ResNet(7)
    assert load_weights(net, "ResNet18_Weights.DEFAULT")["other shape"] == ["fc.weight", "fc.bias"]
    assert net.net.conv1.weight.equal(state["conv1.weight"])
    with pytest.raises(
        UserError, match=r"weights ResNet18_Weights\.X: cannot be found or downloaded \(KeyError: 'X'\)"
    ):
        load_weights(net, "ResNet18_Weights.X")


def test_timm_weights_load_by_name_and_draw_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.nets.weights.find_spec", lambda _: None)
    with pytest.raises(UserError, match="weights timm/small: timm is not installed: run make extras"):
        load_weights(cnn(), "timm/small")
    known = {"is_model": lambda name: name == "small", "create_model": lambda *_, pretrained: cnn(seed=int(pretrained))}
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(**known))
    monkeypatch.setattr("src.nets.weights.find_spec", lambda _: "found")
    net, expected = cnn(), cnn(seed=1).head.weight
    state = torch.get_rng_state()
    for name in ("timm/small", "small"):
        load_weights(net, name)
        assert net.head.weight.equal(expected)
    assert state.equal(torch.get_rng_state())
    with pytest.raises(UserError, match="weights timm/large does not exist"):
        load_weights(net, "timm/large")


def test_safetensors_files_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="safetensors is not installed: run make extras"):
        load_weights(cnn(), "net.safetensors")


def test_a_lazy_layer_takes_the_shape_that_it_loads() -> None:
    stored = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    load_weights(net, save(stored.state_dict()))
    assert net[0].weight.equal(stored[0].weight)


def test_the_account_fits_into_70_columns_and_names_the_first() -> None:
    state = cnn().state_dict() | {f"an.unexpected.name.{i}": torch.ones(1) for i in range(20)}
    account = load_weights(SmallCNN(7, width=4), save({f"net.{name}": each for name, each in state.items()}))
    lines = describe("x" * 60 + ".pt", account).splitlines()
    assert max(map(len, lines)) <= 70
    assert lines[0].startswith("36 of 38 tensors loaded from ...xxx")
    assert lines[2] == "2 of another shape, not loaded: head.weight, head.bias"
    assert lines[3].startswith("20 not in the net: net.an.unexpected.name.0, ")
    assert len(lines) == 4


class WithBackbone(nn.Module):
    """A module with the backbone of tasks."""

    backbone = Backbone()


def test_the_backbone_is_all_but_the_last_layer() -> None:
    task = WithBackbone()
    task.net = models.vit_b_16(num_classes=3, image_size=32)  # its class token and positions are in no layer
    names = {p: name for name, p in task.net.named_parameters()}
    found = [names[p] for p in task.backbone.parameters()]
    assert sorted(found) == sorted({*names.values()} - {"heads.head.weight", "heads.head.bias"})
    task.backbone = own = nn.Linear(2, 2)  # of a class derived from Task
    assert task.backbone is own
    task = WithBackbone()
    task.backbone = "resnet18"
    assert task.backbone == "resnet18"
