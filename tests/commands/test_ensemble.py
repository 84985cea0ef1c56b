"""Several runs in test and predict: averages, intervals, choices and soups against oracles, and what is refused."""

import csv
import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import ttest_rel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src import load_run
from src.cli import main
from src.commands.ensemble import ROUNDS, greedy_choice, greedy_soup
from src.data import Digits
from tests.commands.test_fit_processes import TWO_PROCESSES, command_line
from tests.conftest import SMALL, refused, weights
from tests.test_docs import PAGES, commands, section

PARENT = Path("runs/digits")
NAMES = ["version_0", "version_1", "version_2"]
CNN = ["--model.net=src.nets.SmallCNN", "--model.net.width=2", "--data.batch_size=256"]


@pytest.fixture
def three(three: list[str]) -> list[str]:
    """Return the options of three runs."""
    return [f"--run={run}" for run in three]


def probabilities(file: str | Path) -> Tensor:
    lines = [*csv.reader(Path(file).read_text(encoding="utf-8").splitlines())][1:]
    return torch.tensor([[float(x) for x in line[3:13]] for line in lines])


def classes_of_test() -> Tensor:
    return Digits().load(train=False)[1]


def test_an_ensemble_predicts_the_mean_of_its_members(three: list[str]) -> None:
    for option in three:
        main(["predict", option])
    before = {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    x = main(["predict", *three])
    each = [probabilities(PARENT / name / "predictions.csv") for name in NAMES]
    assert torch.allclose(probabilities("predictions.csv"), torch.stack(each).mean(0), atol=2e-6)
    assert before == {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    assert x.run is None


def test_test_compares_an_ensemble_with_each_member(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for option in three:
        main(["predict", option])
    capsys.readouterr()
    x = main(["test", *three])
    out = capsys.readouterr().out
    each = torch.stack([probabilities(PARENT / name / "predictions.csv") for name in NAMES])
    right = [(rows.argmax(1) == classes_of_test()).double().numpy() for rows in (*each, each.mean(0))]
    for name, own in zip(NAMES, right, strict=False):
        stored = json.loads((PARENT / name / "results.json").read_text(encoding="utf-8"))["test/accuracy"]
        assert own.mean() == pytest.approx(stored)
        low, high = ttest_rel(right[-1], own).confidence_interval(0.95)
        line = f"{stored:.4f}  {right[-1].mean() - stored:+.4f} +/- {(high - low) / 2:.4f}"
        assert re.search(rf"^runs/digits/{name} +{re.escape(line)}$", out, re.M)
    assert re.search(rf"^ensemble +{right[-1].mean():.4f}$", out, re.M)
    assert float(x.trainer.callback_metrics["test/accuracy"]) == pytest.approx(right[-1].mean())
    assert max(map(len, out.splitlines())) <= 80
    assert main(["test", *three, "--data.batch_size=7"]).task.results == pytest.approx(x.task.results)


@pytest.mark.heavy
def test_members_keep_their_precision_and_test_time_augmentation() -> None:
    settings = [["--config=configs/presets/bf16.yaml"], ["--trainer.precision=64-true"], ["--model.tta=mirror_shift"]]
    for typed in settings:
        main(["fit", *SMALL, *CNN, *typed, "--trainer.max_epochs=1"])
    results = [
        json.loads((PARENT / name / "results.json").read_text(encoding="utf-8"))["test/accuracy"] for name in NAMES
    ]
    x = main(["test", *(f"--run={PARENT / name}" for name in NAMES)])
    assert x.task.results[:3] == pytest.approx(results)
    assert [next(each.parameters()).dtype for each in x.task.members] == [torch.float32, torch.float64, torch.float32]


@pytest.mark.parametrize("command", commands(section(PAGES["tasks.md"], "Ensembles"), "src.cli"))
def test_a_command_for_ensembles_runs_as_printed(command: str, three: list[str]) -> None:
    assert len(three) == 3
    assert len(main(command.split()[1:]).task.members) >= 2


def brute_force(soft: Tensor, score: Callable[[Tensor], float]) -> list[int]:
    """Return the counts of the best ensemble on the way, averaging all members of each ensemble again."""
    path: list[list[int]] = []
    for _ in range(ROUNDS * soft.shape[1]):
        members = path[-1] if path else []
        tried = [[*members, i] for i in range(soft.shape[1])]
        path.append(max(tried, key=lambda each: (score(soft[:, each].mean(1)), -members.count(each[-1]))))
    best = max(path, key=lambda each: (score(soft[:, each].mean(1)), len(each)))
    counts = [best.count(i) for i in range(soft.shape[1])]
    return [count // math.gcd(*counts) for count in counts]


@pytest.mark.parametrize("seed", range(4))
def test_the_greedy_choice_is_that_of_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(5, (60,), generator=generator)
    noise = 2 * torch.randn(60, 6, 5, generator=generator, dtype=torch.float64)
    soft = (noise + nn.functional.one_hot(targets, 5)[:, None]).softmax(2)

    def score(mean: Tensor) -> float:
        return round(-float(cross_entropy(mean.log(), targets)), 12)  # sums of another order round otherwise

    counts = greedy_choice(soft, score)
    assert counts == brute_force(soft, score)
    assert score((soft * torch.tensor(counts)[:, None] / sum(counts)).sum(1)) >= max(map(score, soft.unbind(1)))


def test_of_equal_members_the_greedy_choice_uses_all() -> None:
    assert greedy_choice(torch.rand(4, 5, 2), len) == [1] * 5


def test_the_greedy_choice_uses_the_validation_split(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    x = main(["test", *three, "--greedy"])
    soft, targets = [], None
    for name in NAMES:
        task, data = load_run(PARENT / name)
        data.setup("validate")
        batches = [*data.val_dataloader()]
        with torch.no_grad():
            soft.append(torch.cat([task(images).softmax(1) for images, _ in batches]))
        targets = torch.cat([classes for _, classes in batches])
    counts = brute_force(torch.stack(soft, 1), lambda mean: float((mean.argmax(1) == targets).double().mean()))
    assert x.task.weights == [count / sum(counts) for count in counts]
    out = capsys.readouterr().out
    assert out.startswith("chosen  by val/accuracy\n")
    for name, count in zip(NAMES, counts, strict=True):
        assert (f"{count} x" in out) == bool(count)
        assert count == 0 or re.search(rf"^{count} x +runs/digits/{name}$", out, re.M)
    assert len(main(["predict", *three, "--greedy"]).task.members) == sum(map(bool, counts))


def test_a_greedy_soup_takes_what_does_not_make_it_worse() -> None:
    table = {frozenset(each): i * 7 % 11 for i, each in enumerate(itertools.combinations(range(4), 2), 3)}
    table |= {frozenset(each): i * 5 % 13 for i, each in enumerate(itertools.combinations(range(4), 3), 1)}
    table[frozenset(range(4))] = 10
    for scores in itertools.permutations([2.0, 4.0, 4.0, 6.0]):
        soup: set[int] = set()
        best = -1.0
        for i in sorted(range(4), key=lambda i: (-scores[i], i)):
            value = table[frozenset(soup | {i})] if soup else scores[i]
            soup, best = (soup | {i}, value) if value >= best else (soup, best)
        found = greedy_soup([*scores], lambda members: table[frozenset(members)])
        assert found == [int(i in soup) for i in range(4)]


def test_a_soup_has_mean_weights(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    x = main(["test", *three[:2], "--soup"])
    states = [weights(PARENT / name, "best") for name in NAMES[:2]]
    soup: Any = x.task.members[-1]
    for key, value in soup.state_dict().items():
        assert torch.allclose(value, (states[0][key] + states[1][key]) / 2), key
    assert x.task.weights == [0, 0, 1]
    images, targets = Digits().load(train=False)
    with torch.no_grad():
        right = (soup.eval()(x.data.normalize(images)).argmax(1) == targets).double().mean()
    out = capsys.readouterr().out
    assert re.search(rf"^soup +{right:.4f}$", out, re.M)
    assert re.search(r"^run +accuracy  soup minus run$", out, re.M)
    main(["predict", *three[:2], "--soup"])
    predicted = probabilities("predictions.csv").argmax(1)
    assert float((predicted == targets).double().mean()) == pytest.approx(float(right))


@pytest.mark.heavy
def test_batch_norm_of_a_soup_is_measured_on_the_training_split() -> None:
    for seed in range(2):
        typed = [f"--seed_everything={seed}", "--data.augment=[]", "--trainer.max_epochs=1", "--test=false"]
        main(["fit", *SMALL, *CNN, *typed])
    runs = [f"--run={PARENT / name}" for name in NAMES[:2]]
    x = main(["test", *runs, "--soup"])
    soup: Any = x.task.members[-1]
    train = x.data.splits["train"]
    states = [weights(PARENT / name, "best") for name in NAMES[:2]]
    first = next(name for name, each in soup.net.named_modules() if isinstance(each, nn.BatchNorm2d))
    conv = next(each for each in soup.net.modules() if isinstance(each, nn.Conv2d))
    with torch.no_grad():
        seen = conv(x.data.normalize(train[torch.arange(len(train))][1]))
    norm = soup.net.get_submodule(first)
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-2)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), rtol=5e-2)
    mean = (states[0][f"net.{first}.running_var"] + states[1][f"net.{first}.running_var"]) / 2
    assert not torch.allclose(norm.running_var, mean, rtol=5e-2)
    assert (states[0]["net." + first + ".weight"] + states[1]["net." + first + ".weight"]).div(2).allclose(norm.weight)


@pytest.mark.heavy
@pytest.mark.parametrize("options", [[], ["--greedy"], ["--greedy", "--soup"]], ids=" ".join)
def test_two_processes_print_what_one_prints(
    options: list[str], three: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    main(["test", *three[:2], *options])
    done = command_line("test", *three[:2], *options, *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == capsys.readouterr().out


REFUSED = {
    "fit": (["fit"], "fit takes one --run, got 2"),
    "validate": (["validate"], "validate takes one --run, got 2"),
    "twice": (["test", "--run=runs/digits/../digits/version_0"], "version_0 is given twice"),
    "checkpoint": (["test", "--ckpt_path=runs/digits/version_0/checkpoints/best.ckpt"], "--ckpt_path names one"),
    "root": (["test", "--data.root=elsewhere"], "root must stay data"),
    "another fold": (["test", "--data.fold=3", "--greedy"], "another split of the data"),
    "soup": (
        ["test", "--run=runs/digits/version_2", "--soup"],
        "(16, 64) torch.float32 in runs/digits/version_0; (24,",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_ensemble_is_refused(name: str, three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (command, *args), message = REFUSED[name]
    assert message in refused(capsys, command, *three[:2], *args)


OTHERS = {
    "split": (["--data.split_seed=1"], "members need the same split, got "),
    "data module": (
        ["--data=tests.commands.test_ensemble.Odd"],
        "need the same data module, got src.data.digits.Digits in runs",
    ),
}


def test_members_of_other_classes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for root, classes in (("images", "ab"), ("others", "bc")):  # as many classes
        for name in (f"{root}/train/{letter}" for letter in classes):
            Path(name).mkdir(parents=True)
            for i in range(12):
                Image.new("L", (8, 8), i).save(f"{name}/{i}.png")
        settings = ["--data=src.data.ImageFolder", "--data.size=8", "--data.batch_size=8", "--data.folds=4"]
        settings += ["--model.num_classes=2", "--model.net.image_shape=[3,8,8]", "--trainer.max_epochs=1"]
        main(["fit", *SMALL, *settings, f"--data.root={root}", "--test=false"])
    both = [f"--run=runs/digits/version_{i}" for i in range(2)]
    for command in ("test", "predict"):
        assert "members need the same classes, got ['a', 'b'] in runs/digits/version_0 and ['b'" in refused(
            capsys, command, *both
        )


class Odd(Digits):
    """Digits under another name."""


@pytest.mark.parametrize("name", OTHERS)
def test_members_of_other_data_or_kind_are_refused(
    name: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, message = OTHERS[name]
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", *typed])
    assert message in refused(capsys, "test", f"--run={trained}", "--run=runs/digits/version_1")
