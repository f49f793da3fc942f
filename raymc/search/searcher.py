"""On Ray: the searcher that stands between Tune, which runs trials, and Optuna's study.

Tune's own `OptunaSearch` isn't used: it reports a trial that the scheduler stopped as COMPLETE
with its last value, leaves one whose metric is NaN running for ever, and enqueues the default
settings again whenever a study is reopened.

Tune's snapshots and retries aren't used either: they lose a trial whose process dies while a
decision about it is under way. The study is the only state. A trial is known by its number there,
and one that a dead driver or worker left running is handed out again under that number, from its
last checkpoint.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.search_generator import SearchGenerator

from raymc.config import Config
from raymc.errors import CheckpointError
from raymc.search.study import distributions, patient
from raymc.search.trials import STATES, Epoch, Trial, new_trial, note_epoch, note_failure, trial_of
from raymc.training import checkpoint
from raymc.training.worker import EPOCH, IS_LAST

# Keys of a trial's report besides its metrics and those of every run.
FAILURE, CHECKPOINT_PATH = "failure", "checkpoint_path"
_ENDS = {state: TrialState[name] for name, state in STATES.items()}


@dataclass
class _Running:
    """A trial that Tune is running, as far as it has come."""

    asked: optuna.Trial  # writes to the study
    trial: Trial
    folder: Path  # of this attempt's checkpoints
    seconds_before: float  # how long earlier attempts had a worker
    checkpoints: list[str]  # those on disk, oldest first
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def take_outdated(self, keep: set[str]) -> list[str]:
        """Forget all checkpoints but these, and return what was forgotten."""
        found = [folder for folder in self.checkpoints if folder not in keep]
        self.checkpoints = [folder for folder in self.checkpoints if folder in keep]
        return found


class StudySearcher(Searcher):
    """Gives Tune the study's trials, and writes their epochs and ends into the study.

    Tune calls the searcher in the loop that serves all trials, so a thread writes epochs to the
    study, in order. Epochs that a driver has not written when it dies are trained again. While the
    study's database is unreachable, writes wait for it, and trials continue until they need an
    answer.

    The folder `session` holds this driver's checkpoints, beside those of earlier drivers. The
    scheduler is shown what earlier drivers' trials reached. The listener is called with a trial
    whenever it starts, ends an epoch or ends, and once with each that ended under an earlier
    driver.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: Config,
        *,
        session: Path,
        scheduler: TrialScheduler | None,
        listener: Callable[[Trial], None],
    ) -> None:
        super().__init__(metric=config.train.monitor, mode="max")
        self.study, self.config = study, config
        self._space = distributions(config)
        self._session, self._scheduler = session, scheduler
        self._listener = listener
        trials = study.get_trials(deepcopy=False)
        self._orphans = [t for t in trials if t.state == TrialState.RUNNING]
        ended = [t for t in trials if t.state.is_finished()]
        self._new = max(0, config.search.trials - len(ended) - len(self._orphans))
        began = min((t.datetime_start for t in trials if t.datetime_start), default=None)
        self._until = math.inf if began is None else self._end_of_hours(began)
        self._running: dict[str, _Running] = {}
        self._losses = Counter[int]()  # of processes, by trial
        self._left = dict[int, list[str]]()  # checkpoints of lost processes, by trial
        self._thread = ThreadPoolExecutor(1, "study")
        self._writes: list[Future[None]] = []
        for trial in ended:
            self._replay(trial, f"earlier-{trial.number}")
            self._listener(trial_of(trial, config))

    @property
    def due(self) -> int:
        """How many trials are still to be handed out, as far as is known yet."""
        return len(self._orphans) + (self._new if time.monotonic() <= self._until else 0)

    def _end_of_hours(self, began: datetime) -> float:
        """Return when a sweep that began then starts no more trials, by the monotonic clock."""
        hours = math.inf if self.config.search.hours is None else self.config.search.hours
        return time.monotonic() + 3600 * hours - (datetime.now() - began).total_seconds()

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's number, settings, folder, and the checkpoint to resume from, if any.

        Returns None while trials are running whose processes may yet be lost, and `FINISHED`
        after them.
        """
        if self._orphans:
            return self._adopt(self._orphans.pop(0), trial_id)
        if not self.due:
            return None if self._running else Searcher.FINISHED
        try:
            asked = self.study.ask(self._space)
        except StorageInternalError:
            self._orphans = self._started_unheard()
            self._new -= len(self._orphans)
            return self.suggest(trial_id)
        self._new -= 1
        self._until = min(self._until, self._end_of_hours(datetime.now()))  # of the first trial
        return self._hand_out(asked, trial_id, new_trial(asked.number, asked.params, self.config))

    def _hand_out(
        self, asked: optuna.Trial, trial_id: str, trial: Trial, *, resume: str | None = None
    ) -> dict[str, Any]:
        name = trial_folder(trial.number, self._losses[trial.number])
        left = self._left.pop(trial.number, [])
        self._running[trial_id] = _Running(asked, trial, self._session / name, trial.seconds, left)
        self._listener(trial)
        params = dict(trial.params)
        return {"number": trial.number, "params": params, "folder": name, "resume": resume}

    def _started_unheard(self) -> list[FrozenTrial]:
        """Return trials that the study started just before its database became unreachable.

        Their answer was lost, so nobody runs them.
        """
        known = {running.trial.number for running in self._running.values()}
        running = patient(self.study.get_trials)(states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.number not in known]

    def _adopt(self, left: FrozenTrial, trial_id: str) -> dict[str, Any]:
        """Resume a trial that an earlier driver or a lost process left running."""
        asked = optuna.Trial(self.study, left._trial_id)
        for path, values in self._space.items():
            # Keeps values that were drawn. The driver may have died while it drew them.
            patient(asked._suggest)(path, values)
        self._replay(left, trial_id)
        trial = replace(trial_of(left, self.config), params=dict(asked.params))
        resume = last_checkpoint(self._session.parent, trial.number, trial.epoch)
        return self._hand_out(asked, trial_id, trial, resume=resume)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch of a trial."""
        self._note(self._running[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close a trial in the study: complete, pruned by the scheduler, or failed."""
        running, result = self._running.pop(trial_id), result or {}
        self._note(running, result)
        message = result.get(FAILURE, "")
        if error and not message:
            if self._is_taken_back(running):
                return
            message = "its process was lost more often than train.max_failures allows"
        if not message and not running.trial.best:
            message = "it ended before its first epoch did"
        state = "failed" if message else "complete" if result.get(IS_LAST) else "pruned"
        ended = replace(running.trial, state=state, seconds=running.seconds, message=message)
        self._write(_delete, running.take_outdated({ended.checkpoint}))
        self._await_writes()
        if state == "failed":
            patient(note_failure)(running.asked, message, ended.seconds)
        patient(self._tell)(running.asked, ended)
        self._listener(ended)

    def __getstate__(self) -> dict[str, Any]:
        """Put nothing into Tune's snapshots, which are never read: the study is the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study is the state."""

    def _note(self, running: _Running, result: Mapping[str, Any]) -> None:
        """Store an epoch in the study, once, and delete the checkpoints that it outdates.

        The best, the newest and the one before are kept. If the process is lost before the study
        knows of the newest epoch, the trial resumes from the one before.
        """
        number, value = result.get(EPOCH), result.get(self.config.train.monitor)
        if number is None or value is None:
            return
        checkpoint = self._checkpoint(running, result)
        if number <= running.trial.epoch:
            return
        metrics = {key: float(x) for key, x in result.items() if key.startswith(("train/", "val/"))}
        epoch = Epoch(number, value, metrics, running.seconds, checkpoint)
        running.trial = running.trial.after(epoch)
        self._write(note_epoch, running.asked, epoch)
        kept = {running.trial.checkpoint, *running.checkpoints[-2:]}
        self._write(_delete, running.take_outdated(kept))
        self._listener(running.trial)

    def _is_taken_back(self, running: _Running) -> bool:
        """Hand a trial whose process was lost out again, unless that happened too often."""
        number = running.trial.number
        self._losses[number] += 1
        if self._losses[number] > self.config.train.max_failures:
            return False
        self._left[number] = running.checkpoints
        self._await_writes()
        self._orphans.append(patient(self.study.get_trials)(deepcopy=False)[number])
        return True

    def _tell(self, asked: optuna.Trial, ended: Trial) -> None:
        """Close a trial, unless an earlier try did whose answer was lost."""
        value = ended.value if ended.state == "complete" else None
        self.study.tell(asked, value, state=_ENDS[ended.state], skip_if_finished=True)

    def _write(self, write: Callable[..., None], *arguments: Any) -> None:
        self._writes.append(self._thread.submit(patient(write), *arguments))

    def _await_writes(self) -> None:
        """Wait until all is written; raises what went wrong."""
        for write in self._writes:
            write.result()
        self._writes.clear()

    def _checkpoint(self, running: _Running, result: Mapping[str, Any]) -> str:
        """Return where a result's checkpoint is: Ray Train gives a path, Tune a folder's name.

        Ray Train deletes outdated ones itself, so only Tune's are noted.
        """
        if CHECKPOINT_PATH in result:
            return str(result[CHECKPOINT_PATH])
        running.checkpoints.append(str(running.folder / result["checkpoint_dir_name"]))
        return running.checkpoints[-1]

    def _replay(self, trial: FrozenTrial, name: str) -> None:
        """Show the scheduler what a trial reported to an earlier driver."""
        if self._scheduler is None or not trial.intermediate_values:
            return
        stand_in: Any = SimpleNamespace(trial_id=name)
        controller: Any = None
        self._scheduler.on_trial_add(controller, stand_in)
        for epoch, value in sorted(trial.intermediate_values.items()):
            result = {EPOCH: epoch, self.config.train.monitor: value}
            self._scheduler.on_trial_result(controller, stand_in, result)


class HandingOut(SearchGenerator):
    """Gives Tune a searcher's trials, at most `concurrent` at a time.

    The search counts as finished while no trial is left to hand out. Until then Tune keeps an idle
    process for the next trial, and with it a node, while the last trials run. A trial whose process
    is lost is to be handed out again, so the search is then no longer finished.
    """

    def __init__(self, searcher: StudySearcher, *, concurrent: int) -> None:
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent=concurrent))
        self._source = searcher

    def is_finished(self) -> bool:
        """Whether no trial is left to hand out, as far as is known yet."""
        return not self._source.due


def trial_folder(number: int, losses: int = 0) -> str:
    """Return the name of a trial's folder, another one after each loss of its process."""
    return f"trial-{number:04d}" + (f".{losses}" if losses else "")


def last_checkpoint(trials_folder: Path, number: int, last_epoch: int) -> str | None:
    """Return the newest intact checkpoint that any driver's attempt at a trial has left.

    Checkpoints after `last_epoch` don't count, because the study doesn't know those epochs.
    """
    found = []
    name = trial_folder(number)
    for folder in (*trials_folder.glob(f"*/{name}"), *trials_folder.glob(f"*/{name}.*")):
        for file in folder.glob(f"**/{checkpoint.PROGRESS}"):
            try:
                checkpoint.verify(file.parent)
                found.append((checkpoint.load_progress(file.parent).epoch, str(file.parent)))
            except CheckpointError:
                continue  # torn by the crash; the one before will do
    return max((one for one in found if one[0] <= last_epoch), default=(0, None))[1]


def _delete(folders: Sequence[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
