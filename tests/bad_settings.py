"""Invalid settings and the error message that each must get."""

SETTINGS = {  # arguments after fit --config configs/digits.yaml, and a part of the error message
    "unknown key": (["--model.widht=3"], "unknown setting model.widht"),
    "unknown nested key": (["--model.net.widht=3"], "unknown setting model.net.widht, did you mean model.net.width?"),
    "unknown top-level key": (["--modle=3"], "unknown setting --modle=3, did you mean model?"),
    "abbreviated option": (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "stray word": (["trainer.max_epochs=3"], "unexpected 'trainer.max_epochs=3'"),
    "wrong type": (["--trainer.max_epochs=many"], "trainer.max_epochs: must be int, got many"),
    "wrong type of a nested setting": (["--model.net.width=wide"], "model.net.width: must be int, got wide"),
    "misspelled class": (["--model.net=src.nets.SmalCNN"], "src.nets has no SmalCNN, did you mean src.nets.SmallCNN?"),
    "misspelled module": (["--model.net=src.net.SmallCNN"], "did you mean src.nets?"),
    "misspelled package": (["--data=scr.data.Digits"], "there is no module scr"),
    "misspelled optimizer": (["--model.optimizer=torch.optim.Adamm"], "did you mean torch.optim.Adam?"),
    "misspelled loss": (["--model.loss=torch.nn.CrossEntropyLos"], "did you mean torch.nn.CrossEntropyLoss?"),
    "class of another kind": (["--model=torch.nn.Linear"], "model: must be a class path of a LightningModule"),
    "bare word for a class": (["--trainer.callbacks=Foo"], "must be a class path such as src.nets.SmallCNN, got Foo"),
    "accumulation of 0 batches": (
        ["--trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches must be more than 0, got 0",
    ),
    "0 training batches": (
        ["--trainer.limit_train_batches=0"],
        "trainer.limit_train_batches must be more than 0, got 0",
    ),
    "validation every 0 batches": (
        ["--trainer.val_check_interval=0"],
        "trainer.val_check_interval must be more than 0, got 0",
    ),
    "run name outside runs/": (
        ["--name=../elsewhere"],
        "name must be a folder below runs/, got '../elsewhere'",
    ),
    "absolute run name": (["--name=/"], "name must be a folder below runs/, got '/'"),
    "unknown mode of an initialization": (
        ["--model.init=src.nets.Init", "--model.init.settings={mode: sideways}"],
        "init: kaiming_normal_ with {'mode': 'sideways'} fails",
    ),
    "monitored metric that is not logged": (
        ["--best.monitor=val/acc"],
        "BestCheckpoint's monitor val/acc is not logged; choose from val/accuracy",
    ),
    "0 skipped steps": (["--non_finite.max_consecutive=0"], "max_consecutive must be at least 1, got 0"),
    "0 micro-batches": (
        ["--trainer.callbacks=src.callbacks.MicroBatches", "--trainer.callbacks.count=0"],
        "count must be at least 1, got 0",
    ),
    "batch size zero": (["--data.batch_size=0"], "batch_size must be at least 1, got 0"),
    "fold out of range": (["--data.fold=99"], "fold must be in [0, 10), got 99"),
    "a single fold": (["--data.folds=1"], "folds must be at least 2, got 1"),
    "negative learning rate": (["--model.optimizer.lr=-1"], "Invalid learning rate: -1"),
    "fewer samples than one batch": (["--data.batch_size=5000"], "batch_size must be at most 1293"),
    "wrong number of classes": (
        ["--model.num_classes=7"],
        "num_classes must be 10, the classes of the data (0, 1, 2, 3",
    ),
    "net for another number of channels": (
        ["--model.net.in_channels=3"],
        "the net does not accept the data's images, (C, H, W) = (1, 8, 8)",
    ),
    "unknown strategy": (["--trainer.strategy=foo"], "invalid strategy name"),
    "malformed number": (["--model.optimizer.lr=4e-3x"], "model.optimizer.lr: must be float, got 4e-3x"),
    "missing checkpoint": (["--ckpt_path=absent.ckpt"], "checkpoint absent.ckpt does not exist"),
    "null for a choice": (
        ["--model.tta=null"],
        "model.tta must be Literal['plain', 'mirror', 'mirror_shift'], got null",
    ),
    "null for an inherited setting": (["--data.batch_size=null"], "data.batch_size must be int, got null"),
    "null in a list": (
        ["--data.augment=[{class_path: src.data.RandomCrop, init_args: {padding: null}}]"],
        "data.augment.0.padding must be int, got null",
    ),
    "infinite number": (["--model.optimizer.lr=.inf"], "model.optimizer.lr must be a finite number, got inf"),
    "mixing as augmentation": (["--data.augment=[src.data.MixUp]"], "data.augment: MixUp fails on images (2, 1, 8, 8)"),
    "augmentation as mixing": (["--data.mix=src.data.RandomFlip"], "data.mix: RandomFlip fails on images (2, 1, 8, 8)"),
    "augmentation with one draw per batch": (
        ["--data.augment=[{class_path: torchvision.transforms.v2.RandomRotation, init_args: {degrees: 9}}]"],
        "RandomRotation uses the same random parameters for the whole batch; wrap it in src.data.PerSample",
    ),
    "augmentation that changes the shape": (
        ["--data.augment=[torch.nn.Flatten]"],
        "must keep the shape (2, 1, 8, 8), got (1, 2, 64)",
    ),
    "net that cannot take the smaller images of early epochs": (
        [
            "--model.net=src.nets.MLP",
            "--model.net.image_shape=[1,8,8]",
            '--data.augment=[{"class_path": "src.data.ProgressiveResize", "init_args": {"sizes": [6]}}]',
        ],
        "the net does not accept the data's images, (C, H, W) = (1, 6, 6)",
    ),
    "module that is not a loss": (
        ["--model.loss=torch.nn.ReLU"],
        "the loss does not accept logits (N, 10) and classes (N,)",
    ),
    "unreduced loss": (
        ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=none"],
        "the loss must return one number that depends on the logits, got shape (2,)",
    ),
    "contradiction": (["--trainer.accelerator=gpu"], "No supported gpu backend found"),
    "clipping with a fused optimizer": (
        ["--model.optimizer.fused=true", "--trainer.gradient_clip_val=1", "--trainer.precision=bf16-mixed"],
        "gradient clipping does not work with a fused optimizer in mixed precision: set trainer.gradient_clip_val=0",
    ),
    "negative clipping": (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be at least 0, got -1"),
    "negative logging interval": (
        ["--trainer.log_every_n_steps=-1"],
        "trainer.log_every_n_steps must be at least 0, got -1",
    ),
    "validation every 0 epochs": (
        ["--trainer.check_val_every_n_epoch=0"],
        "trainer.check_val_every_n_epoch must be more than 0, got 0",
    ),
    "min_epochs above max_epochs": (
        ["--trainer.min_epochs=9", "--trainer.max_epochs=3"],
        "trainer.min_epochs must be at most max_epochs 3, got 9",
    ),
    "negative epochs": (["--trainer.max_epochs=-5"], "`max_epochs` must be a non-negative integer or -1"),
    "negative steps": (["--trainer.max_steps=-7"], "`max_steps` must be a non-negative integer or -1"),
    "0 devices": (["--trainer.devices=0"], "`Trainer(devices='0')` value is not a valid input"),
    "0 nodes": (["--trainer.num_nodes=0"], "`num_nodes` must be a positive integer, but got 0"),
    "unknown accelerator": (["--trainer.accelerator=cpux"], "invalid accelerator name: `accelerator='cpux'`"),
    "unknown precision": (["--trainer.precision=banana"], "trainer.precision: must be int or Literal["),
    "unknown profiler": (["--trainer.profiler=foo"], "the `profiler` parameter of `Trainer`"),
    "unknown logger": (["--trainer.logger=nonsense"], "trainer.logger: must be Iterable or bool, got nonsense"),
    "more than all validation batches": (
        ["--trainer.limit_val_batches=2.5"],
        "invalid value 2.5 for limit_val_batches",
    ),
    "validation interval above one epoch": (
        ["--trainer.val_check_interval=1.5"],
        "invalid value 1.5 for val_check_interval",
    ),
    "malformed duration": (["--trainer.max_time=xyz"], "'xyz')` is not a valid duration"),
    "metric of EarlyStopping that is not logged": (
        ["--trainer.callbacks=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/los"],
        "EarlyStopping's monitor val/los is not logged; choose from val/accuracy",
    ),
    "negative width": (["--model.net.width=-3"], "Trying to create tensor with negative dimension -3"),
    "dropout above 1": (
        ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--model.net.dropout=1.5"],
        "dropout probability has to be between 0 and 1, but got 1.5",
    ),
    "missing setting": (
        ["--model.schedule=torch.optim.lr_scheduler.StepLR"],
        "model.schedule.step_size is required",
    ),
    "group that matches nothing": (
        ["--model.groups=[{match: nothing, lr: 1}]"],
        "groups: 'nothing' matches no trainable parameter; closest: ",
    ),
    "group with an invalid expression": (
        ["--model.groups=[{match: '(', lr: 1}]"],
        "groups: match must be a regular expression, got '('",
    ),
    "layer decay above 1": (["--model.layer_decay=2"], "layer_decay must be in (0, 1], got 2.0"),
    "negative warm-up": (["--model.warmup_steps=-1"], "warmup_steps must be at least 0, got -1"),
    "EMA decay above 1": (
        ["--trainer.callbacks=src.callbacks.EMA", "--trainer.callbacks.decay=2"],
        "decay must be in [0, 1), got 2.0",
    ),
    "negative mixing": (["--data.mix=src.data.MixUp", "--data.mix.alpha=-1"], "alpha must be above 0, got -1.0"),
    "0 epochs": (["--trainer.max_epochs=0"], "trainer.max_epochs must be more than 0, or -1 for no limit, got 0"),
    "0 steps": (["--trainer.max_steps=0"], "trainer.max_steps must be more than 0, or -1 for no limit, got 0"),
    "wrong number of class weights": (
        ["--model.class_weights=[1,2]"],
        "class_weights must be 10 numbers, one for each class, got 2",
    ),
    "unknown choice": (["--best.mode=biggest"], "best.mode: must be Literal['max', 'min'], got biggest"),
    "seed turned off": (
        ["--seed_everything=false"],
        "seed_everything must be an integer, or true for a random seed; got false",
    ),
    "seed that is not a number": (["--seed_everything=abc"], "seed_everything: must be bool or int, got abc"),
    "negative seed": (["--seed_everything=-1"], "-1 is not in bounds"),
    "malformed boolean": (["--test=perhaps"], "test: must be bool, got perhaps"),
    "malformed compile": (["--compile=perhaps"], "compile: must be bool or dict, got perhaps"),
    "unknown argument of compile": (
        ["--compile={mod: default}"],
        "compile must be true, false or arguments of torch.compile, got {'mod': 'default'}",
    ),
    "unknown mode of compile": (["--compile={mode: fast}"], "Unrecognized mode=fast"),
    "unknown way to resume": (
        ["--resume=sometimes"],
        "--resume: invalid choice: 'sometimes' (choose from 'auto', 'never')",
    ),
    "folder that is not a run": (["--run=nowhere"], "nowhere is not a run folder: it has no config.yaml"),
    "missing second config": (["--config=absent.yaml"], "config absent.yaml does not exist"),
    "config as a checkpoint": (["--ckpt_path=configs/digits.yaml"], "is damaged or holds more than tensors"),
    "no class folders": (
        ["--data=src.data.ImageFolder", "--data.root=/nowhere"],
        "no class folders in /nowhere/train: put images into root/train/<class>/",
    ),
    "unwritable folder for runs": (
        ["--trainer.default_root_dir=/proc/x"],
        "cannot create a run folder in /proc/x/digits",
    ),
    "optimizer for matrices only": (["--model.optimizer=torch.optim.Muon"], "Muon only supports 2D parameters"),
}
