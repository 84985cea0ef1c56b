"""Other people's modules, nets and data run unedited; what cannot work is refused in one line before training."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src import UserError, load_run
from src.cli import main
from src.config.arguments import read
from src.config.build import build
from src.config.parser import parse
from src.engine.checkpoints import better_when
from src.tasks.setup import build_net, check_net
from tests import own_code
from tests.conftest import refused, rows, same

OWN = "tests.own_code"
DIGITS = ["fit", "--config=configs/digits.yaml", "--trainer.fast_dev_run=1"]


def fit(model: str, *args: str, data: str | None = None, epochs: int = 2) -> Any:
    given = [f"--data={OWN}.{data}"] if data else []
    return main(["fit", f"--model={OWN}.{model}", *given, f"--trainer.max_epochs={epochs}", *args])


def stored(x: Any, name: str = "last") -> dict[str, Any]:
    return torch.load(x.run.path / f"checkpoints/{name}.ckpt", weights_only=True)


def epoch_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("epoch ")]


def test_a_module_with_its_own_loaders_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("OwnLoadersTested")
    out = capsys.readouterr().out
    assert "note  best.ckpt is of the best val_loss\n" in out
    assert all("val_loss " in line and " loss " in line for line in epoch_lines(out))
    assert [line.split()[0] for line in out.splitlines() if "_loss  " in line] == ["val_loss", "test_loss"]
    assert [float(row["test_loss"]) for row in rows(x.run.path) if row.get("test_loss")]
    assert f"test    python -m src.cli test --run {x.run.path}" in out
    assert "predict" not in out
    run = f"--run={x.run.path}"
    main(["test", run])
    main(["validate", run])
    assert main(["fit", run, "--trainer.max_epochs=3"]).trainer.global_step == 9


def test_commands_without_a_step_or_loader_are_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    fit("NoValidation", epochs=1)
    out = capsys.readouterr().out
    assert "note  best.ckpt is of the last epoch\n" in out
    assert "extend" in out
    assert "src.cli test" not in out
    assert "src.cli predict" not in out
    fit("Plain", data="Loaders", epochs=1)  # forward predicts
    out = capsys.readouterr().out
    assert "src.cli test" not in out
    assert out.splitlines()[-1].startswith("use     python -m src.cli predict --run ")
    assert "--images" not in out


def test_other_metric_names_are_shown_and_monitored(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("SlashNames")
    out = capsys.readouterr().out
    assert "train/loss" in epoch_lines(out)[0]
    assert "valid/acc 1.0000  valid/acc_best 1.0000" in epoch_lines(out)[0]
    assert (x.best.monitor, x.best.mode) == ("valid/loss", "min")
    assert out.count("valid/acc  ") == 1  # in the last table
    x = fit("SlashNames", "--best.monitor=valid/acc")
    assert (x.best.mode, x.best.score) == ("max", 1.0)
    assert stored(x, "best")["epoch"] == 0


def test_a_module_with_several_validation_metrics_keeps_the_last_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("ErrorOnly")
    note = "best.ckpt is of the last epoch; for another, set --best.monitor to one of: val_mse, val_strength\n"
    assert note in capsys.readouterr().out
    assert stored(x, "best")["epoch"] == 1
    x = fit("ErrorOnly", "--best.monitor=val_mse")
    assert x.best.mode == "min"
    assert x.best.score == pytest.approx(float(x.trainer.callback_metrics["val_mse"]))


def test_a_choice_of_the_monitor_survives_a_resume() -> None:
    x = fit("OwnLoaders")
    x = main(["fit", f"--run={x.run.path}", "--trainer.max_epochs=4"])
    assert (x.best.monitor, x.best.mode) == ("val_loss", "min")
    assert stored(x, "best")["epoch"] == 3


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val_loss", "min"),
        ("valid/mse", "min"),
        ("val/MeanAbsoluteError", "min"),
        ("word_error_rate", "min"),
        ("perplexity", "min"),
        ("val_loss/dataloader_idx_0", "min"),
        ("d_losses", "min"),
        ("val_acc", "max"),
        ("valid/acc_best", "max"),
        ("MulticlassF1", "max"),
        ("val/top5_accuracy", "max"),
        ("mAP", "max"),
        ("val_strength", None),
        ("elo", None),
        ("loss_to_accuracy", None),
    ],
)
def test_the_direction_of_a_metric_comes_from_its_name(name: str, mode: str | None) -> None:
    assert better_when(name) == mode


def test_a_metric_of_unknown_direction_needs_a_mode(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["fit", f"--model={OWN}.ErrorOnly", "--trainer.max_epochs=1", "--best.monitor=val_strength"]
    error = refused(capsys, *model)
    assert error == "error: whether a higher or a lower val_strength is better is unknown: set --best.mode\n"
    assert main([*model, "--best.mode=max"]).best.score < 0


@pytest.mark.parametrize("model", ["OwnLoaders", "TwoValidations", "SlashNames"])
@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        (["--best.monitor=val_acc"], "best.monitor val_acc is not logged; choose from val"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_los"],
            "EarlyStopping's monitor val_los is not logged; choose from val",
        ),
    ],
    ids=["best", "stop"],
)
def test_a_wrong_monitor_costs_no_epoch(
    capsys: pytest.CaptureFixture[str], model: str, setting: list[str], shown: str
) -> None:
    assert shown in refused(capsys, "fit", f"--model={OWN}.{model}", "--trainer.max_epochs=2", *setting)
    assert not list(Path().glob("runs/*/*"))


def test_several_validation_loaders_are_trained_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("TwoValidations", "--best.monitor=val_loss/dataloader_idx_1")
    assert x.best.mode == "min"
    assert "val_loss[0]" in capsys.readouterr().out


def test_what_lightning_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    stop = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=nothing", "--trainer.max_epochs=1"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--model={OWN}.OwnLoaders", *stop])
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert err.startswith("error: Early stopping conditioned on metric `nothing` which is not available")
    assert len(err.splitlines()) == 1
    args = ["--trainer.max_epochs=1", f"--model={OWN}.Plain"]
    with pytest.warns(UserWarning, match="no `val_dataloader`"):
        assert "`train_dataloader` must be implemented" in refused(capsys, "fit", *args)


def test_a_missing_attribute_of_a_module_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError, match="object has no attribute 'typo'"):
        fit("Typo")


def test_errors_of_constructors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "fit", f"--model={OWN}.Broken").startswith("error: Broken: KeyError: '3' (")
    error = refused(capsys, "fit", f"--model={OWN}.OwnLoaders", "--model.width=0")
    assert error == "error: width must be at least 1, got 0\n"
    error = refused(capsys, *DIGITS, "--model.net=torch.nn.Linear")
    assert error == "error: model.net.in_features, out_features is required\n"


def test_a_module_of_pytorch_lightning_is_told_what_to_import(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "fit", "--model=tests.old_package.OldPackage")
    assert "import lightning.pytorch as pl instead of pytorch_lightning" in error


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_images_and_histograms_are_logged_to_any_logger() -> None:
    x = fit("Gan", "--trainer.log_every_n_steps=1", data="Loaders")
    events = EventAccumulator(str(x.run.path)).Reload()
    assert [image.step for image in events.Images("generated")] == [0, 1]
    assert events.Tags()["histograms"] == ["noise"]
    assert sum(float(row["g_loss"] or 0) > 0 for row in rows(x.run.path)) == 6  # steps
    main(["fit", f"--run={x.run.path}", "--trainer.max_epochs=3"])


@pytest.mark.filterwarnings("ignore:(Attribute '|Skipping '|The .* hyperparameter)")  # Lightning's advice
def test_hyperparameters_of_any_kind_are_kept_by_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--model.net={OWN}.MyNet", "--model.setup={width: 3}", "--model.criterion=torch.nn.CrossEntropyLoss"]
    x = fit("Hyperparameters", *settings, "--trust")
    note = "note  checkpoints leave out the hyperparameters net, optimizer, setup, criterion\n"
    assert capsys.readouterr().out.count(note) == 1
    assert x.task.hparams.setup == own_code.Setup(3)
    assert stored(x)["hyper_parameters"] == {"decay": 0.5}
    assert main(["fit", f"--run={x.run.path}", "--trainer.max_epochs=3", "--trust"]).trainer.global_step == 9


def test_values_outside_the_state_dict_resume() -> None:
    whole, cut = fit("SlashNames", epochs=4), fit("SlashNames")
    resumed = main(["fit", f"--run={cut.run.path}", "--trainer.max_epochs=4"])
    for x in (whole, resumed):
        assert (x.task.epochs, x.task.history) == (4, [1, 2, 3, 4])
        assert x.task.best.compute() == 1
    assert same(resumed.task.state_dict(), whole.task.state_dict())
    values = stored(cut)["module_values"]
    assert {"epochs", "history", "best.max_value"} <= values.keys()
    assert "lr" not in values  # training has not changed it, so the config's counts


def test_a_plateau_sees_the_metric_of_its_own_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit("LatePlateau", epochs=5)
    lrs = [line.split("lr ")[1].split()[0] for line in epoch_lines(capsys.readouterr().out)]
    assert lrs == ["1.0e-01", "1.0e-01", "1.0e-01", "5.0e-02", "2.5e-02"]


def test_a_plateau_counts_only_epochs_with_validation() -> None:
    x = fit("SparsePlateau", "--trainer.check_val_every_n_epoch=2", epochs=5)
    schedule = x.trainer.lr_scheduler_configs[0].scheduler
    assert schedule.last_epoch == 2
    assert schedule.num_bad_epochs == 1  # the learning rate is 0, so the second loss equals the first


def table(run: Path) -> list[list[str]]:
    return list(csv.reader((run / "predictions.csv").read_text(encoding="utf-8").splitlines()))


def test_predict_writes_reconstructions_unchanged() -> None:
    x = fit("Restorer", data="Loaders", epochs=1)
    y = main(["predict", f"--run={x.run.path}"])
    head, *lines = table(x.run.path)
    assert head == ["image", *(f"value_{i}" for i in range(64))]
    with torch.no_grad():
        expected = y.task(own_code.digits().tensors[0])
    assert torch.tensor([[float(value) for value in line[1:]] for line in lines]).equal(expected)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_dictionary_batches_train_and_predict() -> None:
    x = fit("DictModule", data="DictLoaders", epochs=1)
    main(["predict", f"--run={x.run.path}"])
    head, *lines = table(x.run.path)
    assert head == ["image", *(f"score_{i}" for i in range(8)), "label"]
    assert [int(line[-1]) for line in lines] == [i % 8 for i in range(32)]


@pytest.mark.parametrize(
    ("data", "shown", "drawn"),
    [
        ("Loaders", ["0  (16, 1, 8, 8) float32, from ", "1  (16,) int64, from 0 to 7"], True),
        ("DictLoaders", ["image  (16, 1, 8, 8) float32", "name   list ['digit 0', 'digit 1'"], True),
        ("NamedLoaders", ["image  (16, 1, 8, 8) float32", "label  (16,) int64"], True),
        ("Grouped", ["labelled.0    (16, 1, 8, 8) float32", "unlabelled.1  (16,) int64"], True),
        ("StreamLoaders", ["0  (16, 1, 8, 8) float32"], True),
        ("Numbers", ["0  (16, 12) float32", "the batch has no images (N, C, H, W) to draw"], False),
    ],
)
def test_show_prints_and_draws_the_first_batch(
    capsys: pytest.CaptureFixture[str], data: str, shown: list[str], drawn: bool
) -> None:
    main(["show", f"--model={OWN}.Plain", f"--data={OWN}.{data}"])
    out = capsys.readouterr().out
    assert all(text in out for text in shown)
    assert Path("show.png").is_file() == drawn


def test_show_uses_the_loaders_of_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", f"--model={OWN}.OwnLoaders"])
    assert Path("show.png").is_file()
    error = refused(capsys, "show", f"--model={OWN}.Plain")
    assert error == "error: show needs training data: neither data nor model has a train_dataloader\n"


@pytest.mark.parametrize(
    "net",
    [
        "MyNet",
        "FirstArgument",
        "ChannelsFirst",
        "Widened",
        "create_model",
        "{class_path: %s.create_model, init_args: {}}",
    ],
)
def test_nets_of_every_signature_train(net: str) -> None:
    path = net % OWN if "%" in net else f"{OWN}.{net}"
    x = main([*DIGITS, f"--model.net={path}"])
    assert x.task.net.fc.out_features == 10


def test_all_arguments_but_the_number_of_outputs_can_be_set() -> None:
    x = main([*DIGITS, f"--model.net={OWN}.Widened", "--model.net.width=3"])
    assert x.task.net.conv.out_channels == 3
    x = main([*DIGITS, f"--model.net={OWN}.ChannelsFirst", "--model.net.in_channels=1"])
    assert x.task.net.fc.out_features == 10


def test_a_net_with_other_outputs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *DIGITS, f"--model.net={OWN}.Five")
    assert "the net must return outputs (N, 10), got (2, 5) for N = 2: set the argument" in error


def test_torchvisions_nets_get_the_number_of_classes_and_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def downloaded(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", downloaded)
    for net in ("torchvision.models.resnet18", "{class_path: torchvision.models.resnet18, init_args: {groups: 1}}"):
        x = build(parse(read(["fit", "--config=configs/digits.yaml", f"--model.net={net}"])[0]))
        assert x.task.net.fc.out_features == 10

    def pretrained(weights: str | None = "DEFAULT", pretrained: bool = True, **kwargs: Any) -> Any:
        return weights, pretrained, kwargs

    assert build_net(pretrained, 7) == (None, False, {"num_classes": 7})


def test_a_net_without_parameters_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    data = SimpleNamespace(
        **dict.fromkeys(
            ("class_names", "splits", "files", "split_hash", "seed", "tests", "holds_images", "mix", "normalize")
        )
    )
    data.shape = data.smallest_shape = (1, 8, 8)
    check_net(own_code.NoParameters(10), data, 10)
    with pytest.raises(UserError, match="must return outputs"):
        check_net(own_code.NoParameters(10), data, 11)
    assert "empty parameter list" in refused(capsys, *DIGITS, f"--model.net={OWN}.NoParameters")


def test_weights_come_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    net = own_code.ChannelsFirst(num_classes=3)
    torch.save(net.state_dict(), "weights.pt")
    args = ["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1", "--model.optimizer.lr=0", "--test=false"]
    args += [f"--model.net={OWN}.ChannelsFirst", "--model.weights=weights.pt"]
    x = main(args)
    assert "2 of another shape, not loaded: fc.weight, fc.bias" in capsys.readouterr().out
    assert x.task.net.conv.weight.equal(net.conv.weight)
    Path("weights.pt").unlink()
    main(["test", f"--run={x.run.path}"])  # the checkpoint has the weights
    assert "error: weights weights.pt does not exist: expected a file" in refused(capsys, *args)
    torch.save([1], "weights.pt")
    assert "must hold a state dict, got a list" in refused(capsys, *args)
    torch.save({"other.weight": torch.ones(2)}, "weights.pt")
    assert "nothing fits this net (first names: other.weight and conv.weight)" in refused(capsys, *args)


def test_the_only_loss_is_monitored_however_often_it_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("StepAndEpoch")
    assert (x.best.monitor, x.best.mode) == ("val_loss_epoch", "min")
    assert "to one of: val_kl_loss, val_recon_loss\n" in capsys.readouterr().out
    assert Path(x.task.best_path) == x.best.file()
    assert x.best.file().is_file()


def test_trainer_names_the_best_file_of_a_model_checkpoint() -> None:
    settings = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val_loss_epoch"]
    x = fit("StepAndEpoch", *settings, epochs=1)
    assert Path(x.task.best_path).name == "epoch=0-step=3.ckpt"


@pytest.mark.parametrize("model", ["BuiltInSetup", "Configured", "Lazy", "MemoryBank", "OwnSchedule"])
def test_a_net_that_changes_while_it_is_loaded_resumes(model: str) -> None:
    whole, cut = fit(model, epochs=3), fit(model)
    run = f"--run={cut.run.path}"
    main(["validate", run])
    assert same(main(["fit", run, "--trainer.max_epochs=3"]).task.state_dict(), whole.task.state_dict())
    lrs = [group["lr"] for x in (cut, whole) for group in stored(x)["optimizer_states"][0]["param_groups"]]
    assert lrs[0] == lrs[1]


def test_a_net_that_setup_builds_is_loaded_or_refused_in_one_line() -> None:
    x = fit("Configured", epochs=1)
    assert same(load_run(x.run.path)[0].state_dict(), x.task.state_dict())
    with pytest.raises(UserError, match="the checkpoint does not match the net: "):
        load_run(fit("BuiltInSetup", epochs=1).run.path)


@pytest.mark.filterwarnings("ignore:.*will be pruned")
def test_a_pruned_module_resumes() -> None:
    settings = ["--trainer.callbacks+=ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"]
    settings += ["--trainer.callbacks.amount=0.25"]
    whole, cut = fit("OwnLoaders", *settings, epochs=3), fit("OwnLoaders", *settings)
    resumed = main(["fit", f"--run={cut.run.path}", "--trainer.max_epochs=3"])
    assert same(stored(resumed)["state_dict"], stored(whole)["state_dict"])


def test_validation_data_of_the_fit_stage_is_validated(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("Plain", data="FitOnly")
    main(["validate", f"--run={x.run.path}"])
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("val_loss  ")]
    assert len(shown) == 2
    assert shown[0].split() == shown[1].split()


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("none", []),
        ("numpy", [f"value_{i}" for i in range(8)]),
        ("dataclass", [*(f"score_{i}" for i in range(8)), "label"]),
        ("list", ["boxes", "label"]),
    ],
)
@pytest.mark.filterwarnings("ignore:predict returned None")
def test_predictions_of_every_form_are_written(form: str, head: list[str]) -> None:
    x = fit("Predicts", f"--model.form={form}", data="Loaders", epochs=1)
    main(["predict", f"--run={x.run.path}"])
    first, *lines = table(x.run.path)
    assert first == ["image", *head]
    assert len(lines) == (48 if head else 0)
    if form == "list":
        assert [line[1].count("1.0") for line in lines] == [4 * (i % 8 % 3) for i in range(48)]


def test_predictions_of_several_loaders_follow_each_other() -> None:
    x = fit("Predicts", "--model.form=numpy", data="TwoPredictLoaders", epochs=1)
    y = main(["predict", f"--run={x.run.path}"])
    values = [[float(value) for value in line[1:]] for line in table(x.run.path)[1:]]
    with torch.no_grad():
        expected = y.task(own_code.digits(16).tensors[0])
    assert torch.tensor(values).allclose(torch.cat([expected, expected]))


def test_forward_predicts_from_the_inputs_of_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    x = fit("Plain", data="Loaders", epochs=1)
    for data in ("Loaders", "DictLoaders"):
        y = main(["predict", f"--run={x.run.path}", f"--data={OWN}.{data}"])
        with torch.no_grad():
            expected = y.task(own_code.digits().tensors[0])
        values = torch.tensor([[float(value) for value in line[1:]] for line in table(x.run.path)[1:]])
        assert values.allclose(expected[: len(values)]), data
    x = fit("Latent", data="Loaders", epochs=1)
    error = refused(capsys, "predict", f"--run={x.run.path}")
    assert "Latent needs a predict_step, because its forward accepts neither a batch nor its first entry" in error


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_unknown_numbers_are_not_shown_as_zero(capsys: pytest.CaptureFixture[str]) -> None:
    fit("OwnLoaders", epochs=1)
    assert "batch size" not in capsys.readouterr().out
    fit("Plain", data="StreamLoaders", epochs=1)
    assert "samples" not in capsys.readouterr().out


def test_a_net_may_require_arguments_besides_the_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    x = main([*DIGITS, f"--model.net={OWN}.Transformer", "--model.net.in_channels=1", "--model.net.width=2"])
    assert (x.task.net.conv.out_channels, x.task.net.fc.out_features) == (2, 10)
    error = refused(capsys, *DIGITS, f"--model.net={OWN}.unannotated")
    assert "write what the function returns, such as def unannotated(...) -> torch.nn.Module" in error
