"""What users get wrong, and what each is told: settings, commands, configs, and configs from elsewhere."""

import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scripts.processes import ROOT, Process
from src.cli import main

SETTINGS = {  # typed after fit --config configs/digits.yaml; what is told
    "unknown key": (["--model.widht=3"], "unknown setting model.widht"),
    "unknown nested key": (["--model.net.widht=3"], "unknown setting model.net.widht, did you mean model.net.width?"),
    "unknown top-level key": (["--modle=3"], "unknown setting --modle=3, did you mean model?"),
    "abbreviated option": (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "stray word": (["trainer.max_epochs=3"], "unexpected 'trainer.max_epochs=3'"),
    "wrong type": (["--trainer.max_epochs=many"], "trainer.max_epochs: must be int, got many"),
    "wrong nested type": (["--model.net.width=wide"], "model.net.width: must be int, got wide"),
    "misspelled class": (["--model.net=src.nets.SmalCNN"], "src.nets has no SmalCNN, did you mean src.nets.SmallCNN?"),
    "misspelled module": (["--model.net=src.net.SmallCNN"], "did you mean src.nets?"),
    "misspelled package": (["--data=scr.data.Digits"], "there is no module scr"),
    "misspelled optimizer": (["--model.optimizer=torch.optim.Adamm"], "did you mean torch.optim.Adam?"),
    "misspelled loss": (["--model.loss=torch.nn.CrossEntropyLos"], "did you mean torch.nn.CrossEntropyLoss?"),
    "class of another kind": (["--model=torch.nn.Linear"], "model: must be a class path of a LightningModule"),
    "bare word for a class": (["--trainer.callbacks=Foo"], "must be a class path such as src.nets.SmallCNN, got Foo"),
    "no accumulation": (
        ["--trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches must be more than 0, got 0",
    ),
    "no training": (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches must be more than 0, got 0"),
    "never validated": (["--trainer.val_check_interval=0"], "trainer.val_check_interval must be more than 0, got 0"),
    "runs elsewhere": (["--name=../elsewhere"], "name must be that of a folder below runs/, got '../elsewhere'"),
    "absolute name": (["--name=/"], "name must be that of a folder below runs/, got '/'"),
    "mode of an initialisation": (
        ["--model.init=src.nets.Init", "--model.init.settings={mode: sideways}"],
        "init: kaiming_normal_ with {'mode': 'sideways'} fails",
    ),
    "unlogged metric": (
        ["--best.monitor=val/acc"],
        "BestCheckpoint's monitor val/acc is not logged; choose of val/accuracy",
    ),
    "steps to leave out": (["--non_finite.most_in_a_row=0"], "most_in_a_row must be at least 1, got 0"),
    "memory": (["--model.on_out_of_memory=cry"], "model.on_out_of_memory: must be"),
    "batch size zero": (["--data.batch_size=0"], "batch_size must be at least 1, got 0"),
    "fold out of range": (["--data.fold=99"], "fold must be in [0, 10), got 99"),
    "one fold": (["--data.folds=1"], "folds must be at least 2, got 1"),
    "negative learning rate": (["--model.optimizer.lr=-1"], "Invalid learning rate: -1"),
    "fewer samples than one batch": (["--data.batch_size=5000"], "batch_size must be at most 1293"),
    "wrong number of classes": (
        ["--model.num_classes=7"],
        "num_classes must be 10, the classes of the data (0, 1, 2, 3",
    ),
    "net for other images": (["--model.net.in_channels=3"], "does not take the data's images, (C, H, W) = (1, 8, 8)"),
    "no such strategy": (["--trainer.strategy=foo"], "invalid strategy name"),
    "no number": (["--model.optimizer.lr=4e-3x"], "model.optimizer.lr: must be float, got 4e-3x"),
    "absent checkpoint": (["--ckpt_path=absent.ckpt"], "checkpoint absent.ckpt does not exist"),
    "null for a choice": (
        ["--model.tta=null"],
        "model.tta must be Literal['plain', 'mirror', 'mirror_shift'], got null",
    ),
    "null of a parent class": (["--data.batch_size=null"], "data.batch_size must be int, got null"),
    "null in a list": (
        ["--data.augment=[{class_path: src.data.RandomCrop, init_args: {padding: null}}]"],
        "data.augment.0.padding must be int, got null",
    ),
    "infinite number": (["--model.optimizer.lr=.inf"], "model.optimizer.lr must be a finite number, got inf"),
    "mix for augment": (["--data.augment=[src.data.MixUp]"], "data.augment: MixUp fails on images (2, 1, 8, 8)"),
    "augment for mix": (["--data.mix=src.data.RandomFlip"], "data.mix: RandomFlip fails on images (2, 1, 8, 8)"),
    "one draw for all": (
        ["--data.augment=[{class_path: torchvision.transforms.v2.RandomRotation, init_args: {degrees: 9}}]"],
        "data.augment: RandomRotation draws once a batch: wrap it in src.data.PerSample",
    ),
    "another shape": (["--data.augment=[torch.nn.Flatten]"], "must keep the shape (2, 1, 8, 8), got (1, 2, 64)"),
    "images that a net does not take in the first epoch": (
        [
            "--model.net=src.nets.MLP",
            "--model.net.image_shape=[1,8,8]",
            '--data.augment=[{"class_path": "src.data.ProgressiveResize", "init_args": {"sizes": [6]}}]',
        ],
        "the net does not take the data's images, (C, H, W) = (1, 6, 6)",
    ),
    "no loss": (["--model.loss=torch.nn.ReLU"], "the loss does not take logits (N, 10) and classes (N,)"),
    "loss of each sample": (
        ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=none"],
        "the loss must be one number that depends on the logits, got (2,)",
    ),
    "contradiction": (["--trainer.accelerator=gpu"], "No supported gpu backend found"),
    "clipping of a fused optimizer": (
        ["--model.optimizer.fused=true", "--trainer.gradient_clip_val=1", "--trainer.precision=bf16-mixed"],
        "trainer.gradient_clip_val must be 0 for a fused optimizer in mixed precision, or fused false",
    ),
    "negative clipping": (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be at least 0, got -1"),
    "negative pause": (["--trainer.log_every_n_steps=-1"], "trainer.log_every_n_steps must be at least 0, got -1"),
    "validated each 0 epochs": (
        ["--trainer.check_val_every_n_epoch=0"],
        "trainer.check_val_every_n_epoch must be more than 0, got 0",
    ),
    "least above most": (
        ["--trainer.min_epochs=9", "--trainer.max_epochs=3"],
        "trainer.min_epochs must be at most max_epochs 3, got 9",
    ),
    "negative epochs": (["--trainer.max_epochs=-5"], "`max_epochs` must be a non-negative integer or -1"),
    "negative steps": (["--trainer.max_steps=-7"], "`max_steps` must be a non-negative integer or -1"),
    "no devices": (["--trainer.devices=0"], "`Trainer(devices='0')` value is not a valid input"),
    "no machines": (["--trainer.num_nodes=0"], "`num_nodes` must be a positive integer, but got 0"),
    "no such accelerator": (["--trainer.accelerator=cpux"], "invalid accelerator name: `accelerator='cpux'`"),
    "no such precision": (["--trainer.precision=banana"], "trainer.precision: must be int or Literal["),
    "no such profiler": (["--trainer.profiler=foo"], "the `profiler` parameter of `Trainer`"),
    "no such logger": (["--trainer.logger=nonsense"], "trainer.logger: must be Iterable or bool, got nonsense"),
    "more than all batches": (["--trainer.limit_val_batches=2.5"], "invalid value 2.5 for limit_val_batches"),
    "validated less than once": (["--trainer.val_check_interval=1.5"], "invalid value 1.5 for val_check_interval"),
    "no time": (["--trainer.max_time=xyz"], "'xyz')` is not a valid duration"),
    "unlogged metric of another callback": (
        ["--trainer.callbacks=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/los"],
        "EarlyStopping's monitor val/los is not logged; choose of val/accuracy",
    ),
    "width below zero": (["--model.net.width=-3"], "Trying to create tensor with negative dimension -3"),
    "share above one": (
        ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--model.net.dropout=1.5"],
        "dropout probability has to be between 0 and 1, but got 1.5",
    ),
    "setting that is missing": (
        ["--model.schedule=torch.optim.lr_scheduler.StepLR"],
        "model.schedule.step_size is required",
    ),
    "group of nothing": (
        ["--model.groups=[{match: nothing, lr: 1}]"],
        "groups: 'nothing' matches no trained parameter",
    ),
    "group of no expression": (["--model.groups=[{match: '(', lr: 1}]"], "groups: '(' is not a regular expression"),
    "decay above one": (["--model.layer_decay=2"], "layer_decay must be in (0, 1], got 2.0"),
    "negative warm-up": (["--model.warmup_steps=-1"], "warmup_steps must be at least 0, got -1"),
    "average of more than all": (
        ["--trainer.callbacks=src.callbacks.EMA", "--trainer.callbacks.decay=2"],
        "decay must be in [0, 1), got 2.0",
    ),
    "negative mixing": (["--data.mix=src.data.MixUp", "--data.mix.alpha=-1"], "alpha must be above 0, got -1.0"),
    "no epochs": (["--trainer.max_epochs=0"], "trainer.max_epochs must be more than 0, or -1 for no limit, got 0"),
    "no steps": (["--trainer.max_steps=0"], "trainer.max_steps must be more than 0, or -1 for no limit, got 0"),
    "weights of other classes": (
        ["--model.class_weights=[1,2]"],
        "class_weights must be 10 numbers, one for each class, got 2",
    ),
    "no choice": (["--best.mode=biggest"], "best.mode: must be Literal['max', 'min'], got biggest"),
    "no seed": (["--seed_everything=false"], "seed_everything must be a number, or true for one that is drawn"),
    "seed that is no number": (["--seed_everything=abc"], "seed_everything: must be bool or int, got abc"),
    "negative seed": (["--seed_everything=-1"], "-1 is not in bounds"),
    "no switch": (["--compile=perhaps"], "compile: must be bool, got perhaps"),
    "never resumed": (["--resume=sometimes"], "--resume: invalid choice: 'sometimes' (choose from 'auto', 'never')"),
    "no run": (["--run=nowhere"], "nowhere is not a run folder: it has no config.yaml"),
    "no second config": (["--config=absent.yaml"], "config absent.yaml does not exist"),
    "no checkpoint but a config": (["--ckpt_path=configs/digits.yaml"], "is damaged or holds more than tensors"),
    "no pictures": (
        ["--data=src.data.ImageFolder", "--data.root=/nowhere"],
        "no class folders in /nowhere/train: put pictures into root/train/<class>/",
    ),
    "no folder for runs": (["--trainer.default_root_dir=/proc/x"], "cannot make a run folder in /proc/x/digits"),
    "optimizer for matrices alone": (["--model.optimizer=torch.optim.Muon"], "Muon only supports 2D parameters"),
}
COMMANDS = {
    "misspelled command": (["fitt"], "unknown command 'fitt', did you mean fit?"),
    "nothing to train": (["fit"], "model is required; name a config with --config"),
    "misspelled config": (["fit", "--config", "configs/digit.yaml"], "config configs/digit.yaml does not exist"),
    "random weights judged": (["test", "--config", "configs/digits.yaml"], "test needs a trained model"),
    "random weights validated": (["validate", "--config", "configs/digits.yaml"], "validate needs a trained model"),
    "random weights asked": (["predict", "--config", "configs/digits.yaml"], "predict needs a trained model"),
    "pictures to train on": (["fit", "--images", "a.png"], "--images goes with predict, not with fit"),
    "folder as a file": (["show", "--output", "."], "--output must be a file, got the folder ."),
    "option without its value": (["fit", "--run"], "--run: expected one argument"),
}
FILES = {  # content of a config
    "unclosed brace": (b"trainer: {max_epochs: 1\nmodel: 2\n", "line 2 is not valid YAML"),
    "picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not text in UTF-8"),
    "zero bytes": (b"\x00\x01\x02", "is not valid YAML"),
    "braces of a template": (b"trainer: {{ value }}\n", "a key must be a word"),
    "nothing in it": (b"", "must hold settings, 'key: value', got nothing"),
    "section without settings": (
        b"data: src.data.Digits\ntrainer:\n",
        "line 2: trainer must hold settings, 'key: value', got nothing",
    ),
    "word for a section": (b"best: val/loss\n", "line 1: best must hold settings, 'key: value', got val/loss"),
    "run without a name": (b"name:\n", "line 1: name must be a word, got nothing"),
    "list": (b"- 1\n- 2\n", "must hold settings, 'key: value', got sequence"),
    "key that stands twice": (
        b"trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n",
        "line 4: key 'max_epochs' stands in line 2 already",
    ),
    "misspelled section": (b"modle: {}\n", "unknown setting modle, did you mean model?"),
    "alias of itself": (b"data: &a [*a]\n", "has an alias that holds itself"),
    "section without a class": (
        b"model: {class_path: src.tasks.Classifier, init_args: {net: src.nets.SmalCNN}}\n",
        "did you mean src.nets.SmallCNN?",
    ),
}
DOORS = {  # configs that name code; other.yaml, other.txt and configs/beside.yaml name evil.Net
    "class path": "model: {class_path: evil.Net}",
    "short class path": "model: evil.Net",
    "namespace package": "model: {class_path: folder.evil.Net}",
    "net": "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, net: {class_path: evil.Net}}}",
    "callback": "trainer: {callbacks: [{class_path: evil.Net}]}",
    "logger": "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: touch ran}}}",
    "function": "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, init: os.system}}",
    "function of a package": (
        "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, init: torch.os.system}}"
    ),
    "text that is YAML": "trainer: {callbacks: '[{class_path: evil.Net}]'}",
    "text in a text": """model: '"{class_path: evil.Net}"'""",
    "built-in": "model: {class_path: builtins.eval}",
    "anchor": "data: &evil evil.Net\nmodel: *evil",
    "other file": "model: other.yaml",
    "file of another ending": "model: other.txt",
    "file beside the config": "model: beside.yaml",
    "file that names itself": "data: bad.yaml\nmodel: evil.Net",
    "tag": "model: !!python/object/apply:os.system [touch ran]",
}


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Write the bad configs into a folder; return what to type there, and what is told then."""
    found = {name: (["fit", "--config=configs/digits.yaml", *typed], told) for name, (typed, told) in SETTINGS.items()}
    for i, (name, (content, told)) in enumerate(FILES.items()):
        (folder / f"bad_{i}.yaml").write_bytes(content)
        found[name] = ["fit", f"--config=bad_{i}.yaml"], told
    return found | COMMANDS


def inputs(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Settings, commands and configs that are wrong: exit code 2 and one line that names what, before training."""
    folder.mkdir(parents=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    known = commands(folder)
    for name in draw.sample(sorted(known), min(tries, len(known))):
        typed, told = known[name]
        wrong = refusal(Process(typed, folder), told)
        yield wrong and f"{name}: {wrong}"


def refusal(process: Process, told: str) -> str:
    """Return what is wrong with how a process refuses a mistake."""
    code, printed = process.wait(), process.log.read_text()
    process.log.unlink()
    error = [line for line in printed.splitlines() if line.startswith("error: ")]
    right = (
        code == 2 and len(error) == 1 and told in error[0] and printed.count("\n") <= 5 and "Traceback" not in printed
    )
    return "" if right else f"exit code {code}: {printed[-500:]}"


def build(door: str, folder: Path) -> Path:
    """Write a config that would run code from elsewhere, and that code, which leaves a file ``ran``."""
    (folder / "folder").mkdir(parents=True)
    for place in (folder, folder / "folder"):
        (place / "evil.py").write_text(
            "from pathlib import Path\nPath('ran').touch()\nfrom src.nets import MLP as Net\n"
        )
    (folder / "given").mkdir()
    for name in ("other.yaml", "other.txt", "given/beside.yaml"):
        (folder / name).write_text("class_path: evil.Net")
    (folder / "given/bad.yaml").write_text(DOORS[door])
    return Path("given/bad.yaml")


def doors(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """Configs that name code from elsewhere, without --trust: refused, and none of it runs."""
    for door in draw.sample(sorted(DOORS), min(tries, len(DOORS))):
        config = build(door, folder / door)
        wrong = refusal(
            Process(partial(fit_there, folder / door, config), folder / door),
            "bad.yaml" if door == "tag" else "--trust",
        )
        yield f"{door}: it ran" if (folder / door / "ran").exists() else wrong and f"{door}: {wrong}"


def fit_there(folder: Path, config: Path) -> None:
    """Train where modules of the folder can be imported, as under ``python -m``."""
    sys.path.insert(0, str(folder))
    main(["fit", f"--config={config}"])
