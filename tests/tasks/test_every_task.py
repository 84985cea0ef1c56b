"""Every task: its config resumes to the bit, and all commands use its run."""

from pathlib import Path

import pytest
import torch

from src.cli import main
from tests.conftest import heavy, same, weights

SMALL = {  # settings that make a run short; the step at which it is cut
    "diabetes": (["--model.schedule=null"], 13),
    "digits_autoencoder": ([], 21),  # at the end of an epoch, because it keeps no means of one
    "digits_distill": (["--model.schedule=null"], 30),
    "digits_masks": (["--model.schedule=null", "--model.net.width=4", "--model.net.depth=1"], 30),
    "digits_multilabel": (["--model.schedule=null", "--model.net.width=4"], 30),
    "digits_retrieval": (["--model.schedule=null", "--model.net.width=4"], 20),
    "digits_rotation": (["--model.schedule=null", "--model.net.width=4"], 30),
}


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
    samples = len((run / "predictions.csv").read_text().splitlines()) - 1
    assert len([*run.glob("predictions_pictures/*.png")]) == pictures * samples
    assert (run / "predictions_neighbors.png").exists() == (name == "digits_retrieval")
    main(["show", f"--config=configs/{name}.yaml"])
    assert Path("show.png").exists() == (name != "diabetes")
    assert ("--images FILE" in fitted) == (name != "diabetes")
