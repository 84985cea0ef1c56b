"""Optuna's side of a study: its storage, its sampler and its pruner."""

import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from src import UserError, lock, require
from src.analysis.study.importance import distribution
from src.commands.studies.claim import Claim
from src.commands.studies.record import Record, Study
from src.commands.studies.sampling import SeededSampler, make_pruner

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class JournalLock(JournalFileSymlinkLock):
    """Lock a journal by flock, which ends with its process; drop a last line that a killed process left unfinished.

    The next line would be appended to it, and the journal could not be read any more. Where files cannot be locked,
    Optuna's own lock is used, which others break 30 s after its process was killed.
    """

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.file, self.held = file, -1

    def acquire(self) -> bool:
        self.held = os.open(f"{self.file}.flock", os.O_CREAT | os.O_RDWR)
        try:
            lock(self.held, wait=True)
        except OSError:
            os.close(self.held)
            self.held = -1
            super().acquire()
        with open(self.file, "rb+") as journal:  # noqa: PTH123
            content = journal.read()
            journal.truncate(content.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        if self.held < 0:
            super().release()
        else:
            os.close(self.held)


class Storage:
    """Optuna's record of a study: its journal, or the database of a URL. It can be rebuilt from the trials' folders."""

    def __init__(self, study: Study) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, url = study.plan, study.url
        name, where = study.folder.name, without_password(url) or study.folder / "study.log"
        direction: Any = {"max": "maximize", "min": "minimize"}[study.content["mode"]]
        settings: dict[str, Any] = {"sampler": SeededSampler(self.plan), "pruner": make_pruner(self.plan)}
        try:
            self.backend = open_backend(study.folder, url)
            self.study = optuna.create_study(
                storage=self.backend, study_name=name, direction=direction, load_if_exists=True, **settings
            )
            self.id = self.backend.get_study_id_from_name(name)
            owner = self.study.user_attrs.get("id")
        except Exception as error:  # of any database
            if hasattr(self, "backend"):
                self.close()
            if isinstance(error, UserError):
                raise
            hint = "" if url else "; if it is damaged, delete it: it is rebuilt from the trials"
            raise UserError(f"cannot use the storage {where}: {' '.join(str(error).split())[:200]}{hint}") from None
        if owner is None:
            self.rebuild(study)
        elif url and owner != study.content["id"]:
            self.close()
            others = f"the storage {where} has a study {name} of another folder"
            raise UserError(
                f"{others}: all machines must share {study.folder}, or start another study with --name=NAME"
            )

    def rebuild(self, study: Study) -> None:
        """Add the trials that the study's folder knows, none if it is new."""
        claim = Claim(study.folder / ".index")
        while not claim.take():
            time.sleep(0.1)
        records = {record.number: record for record in study.records()}
        for number in range(self.count(), 1 + max(records, default=-1)):
            self.study.add_trial(self.frozen(records.get(number)))
        self.study.set_user_attr("id", study.content["id"])
        claim.release()

    def frozen(self, record: Record | None) -> FrozenTrial:
        settings, space = record.settings if record else {}, self.plan.space
        stored = {key: json.dumps(value) if "choices" in space[key] else value for key, value in settings.items()}
        state = STATES.get(record.state if record else "", TrialState.RUNNING)
        value = record.mean() if record and state == TrialState.COMPLETE else None
        kinds = {key: distribution(space[key]) for key in settings}
        return create_trial(state=state, value=value, params=stored, distributions=kinds)

    def count(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def ask(self) -> int:
        """Add a trial and return its number."""
        return self.study.ask().number

    def trial(self, number: int) -> Trial:
        return Trial(self.study, self.backend.get_trial_id_from_study_id_trial_number(self.id, number))

    def stored(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def tell(self, number: int, state: str, value: float) -> None:
        """Store how a trial ended; another worker may have done so before it was killed."""
        self.study.tell(number, value if state == "complete" else None, STATES[state], skip_if_finished=True)

    def close(self) -> None:
        """Close the connections to a database."""
        if isinstance(self.backend, RDBStorage):
            self.backend.remove_session()
            self.backend.engine.dispose()
        elif isinstance(self.backend, GrpcStorageProxy):
            self.backend.close()


def without_password(url: str | None) -> str | None:
    return url and re.sub(r"(?<=://)([^:@/]*):[^@/]*@", r"\1@", url)


def open_backend(folder: Path, url: str | None) -> Any:
    if url is None:
        file = str(folder / "study.log")
        return JournalStorage(JournalFileBackend(file, JournalLock(file)))
    known = "postgresql://USER@HOST/DATABASE or grpc://HOST:PORT"
    require(url.startswith(("postgresql", "grpc://")), f"--storage must be {known}, got {without_password(url)}")
    if url.startswith("postgresql"):
        return RDBStorage(url, {"pool_pre_ping": True})
    host, _, port = url.removeprefix("grpc://").partition(":")
    require(port.isdecimal(), f"--storage must be {known}, got {url}")
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return GrpcStorageProxy(host=host, port=int(port))
