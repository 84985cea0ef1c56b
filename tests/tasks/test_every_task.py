"""Every task: its config resumes to the bit, no step waits for a GPU, and all commands use its run."""

import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from src.cli import main
from src.engine.skip_non_finite import SkipNonFinite
from tests.conftest import FIT, heavy, same, weights

SMALL = {  # settings that make a run short; the step at which it is cut
    "diabetes": (["--model.schedule=null"], 13),
    "digits_autoencoder": ([], 21),  # at the end of an epoch, because it keeps no means of one
    "digits_distill": (["--model.schedule=null"], 30),
    "digits_masks": (["--model.schedule=null", "--model.net.width=4", "--model.net.depth=1"], 30),
    "digits_multilabel": (["--model.schedule=null", "--model.net.width=4"], 30),
    "digits_retrieval": (["--model.schedule=null", "--model.net.width=4"], 20),
    "digits_rotation": (["--model.schedule=null", "--model.net.width=4"], 30),
}
QUICK = ("accumulate", "clip", "ema", "muon", "swa")
SLOW = ("balanced", "bf16", "channels_last", "checkpointing", "early_stopping", "micro_batches")
PRESETS = {name: [f"--config=configs/presets/{name}.yaml"] for name in (*QUICK, *SLOW, "monitor", "pictures")}


@pytest.mark.usefixtures("trained")  # the teacher of digits_distill
@pytest.mark.parametrize("name", heavy(SMALL, "digits_distill", "digits_masks", "digits_retrieval"))
def test_a_cut_run_of_each_task_resumes_to_the_bit(name: str) -> None:
    settings, cut = SMALL[name]
    fit = ["fit", f"--config=configs/{name}.yaml", "--trainer.max_epochs=2", "--test=false", *settings]
    whole, resumed = (Path(f"runs/{name}/version_{i}") for i in range(2))
    main(fit)
    main([*fit, f"--trainer.max_steps={cut}"])
    assert torch.load(resumed / "checkpoints/last.ckpt", weights_only=True)["global_step"] == cut
    main(["fit", f"--run={resumed}", "--trainer.max_steps=-1"])
    assert same(weights(whole), weights(resumed))
    before = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert same(before, torch.load(resumed / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"])


class Reads(TorchDispatchMode):
    """Where Python reads numbers of tensors, or their number depends on them: a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func.name() == "aten::index.Tensor" and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if masks or func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"):
            calls = [f"{each.filename}:{each.lineno} {each.name}" for each in traceback.extract_stack()[:-1]]
            calls = [call for call in calls if "torch/_" not in call][-4:]
            if not any("torch/optim/adam" in call for call in calls):  # reads its step, which is on the CPU
                self.found.append(calls[-1])
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Collect the reads of all steps that log nothing, from the second, until the next step starts."""

    reads: Reads | None = None
    found: list[str] | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.stop()
        if batch_idx > 0 and (trainer.global_step + 1) % trainer.log_every_n_steps:
            self.reads = Reads()
            self.reads.__enter__()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:  # noqa: ARG002
        if trainer.is_last_batch:
            self.stop()

    def stop(self) -> None:
        if self.reads is not None:
            self.reads.__exit__(None, None, None)
            self.found, self.reads = [*(self.found or []), *self.reads.found], None


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", heavy([*SMALL, *PRESETS], *SLOW, "monitor", "pictures"))
def test_no_step_would_make_the_cpu_wait_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start, on_gpu = SkipNonFinite.on_train_start, SimpleNamespace(root_device=torch.device("cuda"))
    monkeypatch.setattr(
        SkipNonFinite,
        "on_train_start",
        lambda guard, _, net: start(guard, cast("Any", SimpleNamespace(strategy=on_gpu)), net),
    )
    args = [f"--config=configs/{name}.yaml", *SMALL[name][0]] if name in SMALL else [*FIT[1:], *PRESETS[name]]
    x = main(["fit", *args, "--trainer.max_epochs=1", "--test=false", f"--trainer.callbacks+={__name__}.Watch"])
    assert next(each.found for each in x.trainer.callbacks if isinstance(each, Watch)) == []


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", heavy(SMALL, "digits_masks", "digits_retrieval", "digits_multilabel"))
def test_all_commands_use_a_run_of_each_task(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings, _ = SMALL[name]
    main(["fit", f"--config=configs/{name}.yaml", "--trainer.max_epochs=1", *settings])
    run = Path(f"runs/{name}/version_0")
    fitted = capsys.readouterr().out
    for command, column in (("validate", 1), ("test", 2)):
        main([command, f"--run={run}"])
        loss = next(line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("loss"))
        assert loss == next(line.split()[column] for line in fitted.splitlines() if line.startswith("loss"))
    main(["predict", f"--run={run}"])
    pictures = {"digits_masks": 2, "digits_autoencoder": 1}.get(name, 0)  # of each sample
    samples = len((run / "predictions.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert len([*run.glob("predictions_pictures/*.png")]) == pictures * samples
    assert (run / "predictions_neighbors.png").exists() == (name == "digits_retrieval")
    main(["show", f"--config=configs/{name}.yaml"])
    assert Path("show.png").exists() == (name != "diabetes")
    assert ("--images FILE" in fitted) == (name != "diabetes")
