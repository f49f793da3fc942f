"""On Ray: Tune's searcher over Optuna's study, which says what to try and keeps the results.

A trial is known by its number in the study. Whatever a driver or a process that died left running
is handed out again under the same number, from its last checkpoint; so a restart needs nothing
else, and neither Tune's own snapshots nor its retries are used: those lose a trial whose process
dies while two things are asked of it. Ray layer.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raymc.config import Config
from raymc.errors import CheckpointError
from raymc.events import SweepEvent, TrialEnded, TrialEpochEnded, TrialStarted, TrialStateName
from raymc.search.study import distributions, patient
from raymc.search.trials import Epoch, epochs_of, note_epoch, note_failure, outcome_of
from raymc.training import checkpoint
from raymc.training.worker import EPOCH, IS_LAST

# Keys of a trial's report besides its metrics and those of every run.
FAILURE, CHECKPOINT_PATH = "failure", "checkpoint_path"
STATES: Mapping[TrialState, TrialStateName | Literal["running"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}
_ENDS = {name: state for state, name in STATES.items() if state.is_finished()}


@dataclass
class OpenTrial:
    """A trial that Tune is running: its Optuna trial and what it has reported.

    `folder` is where this run of it leaves its checkpoints, those in `checkpoints`;
    `seconds_before` is the time it had a worker before.
    """

    trial: optuna.Trial
    folder: Path
    best: Mapping[str, float]
    best_checkpoint: str
    last_epoch: int
    seconds_before: float
    checkpoints: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time the trial has had a worker."""
        return self.seconds_before + time.monotonic() - self.started

    def outdated(self, keep: set[str]) -> list[str]:
        """Return the trial's checkpoints but these, and know them no more."""
        found = [folder for folder in self.checkpoints if folder not in keep]
        self.checkpoints = [folder for folder in self.checkpoints if folder in keep]
        return found


class StudySearcher(Searcher):
    """Tune asks what to try and tells what came of it; the study answers and remembers.

    Trials wait while Tune does, so a thread of its own writes their epochs, in order, while they
    go on; what a driver that dies had not written yet is trained again. While the study's
    database is away, all of this waits for it; trials go on until they need an answer.

    Args:
        study: the sweep's study.
        config: the settings that trials vary.
        session: where this driver's trials keep their checkpoints, beside those of earlier ones.
        scheduler: learns what earlier drivers' trials had reached.
        listener: is told of every trial's start, epochs and end, those of earlier drivers
            included.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: Config,
        *,
        session: Path,
        scheduler: TrialScheduler | None,
        listener: Callable[[SweepEvent], None],
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
        self._open: dict[str, OpenTrial] = {}
        self._losses = Counter[int]()  # of processes, by trial
        self._left = dict[int, list[str]]()  # checkpoints of lost processes, by trial
        self._thread = ThreadPoolExecutor(1, "study")
        self._writes: list[Future[None]] = []
        for trial in ended:
            self._replay(trial, f"earlier-{trial.number}")
            self._retell(trial)

    @property
    def due(self) -> int:
        """How many trials are still to be handed out, as far as is known yet."""
        return self._new + len(self._orphans)

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's number, settings, folder and the checkpoint to go on from, if any.

        None while trials are under way whose processes may yet be lost, `FINISHED` after them.
        """
        if self._orphans:
            return self._adopt(self._orphans.pop(0), trial_id)
        if not self._new:
            return None if self._open else Searcher.FINISHED
        try:
            trial = self.study.ask(self._space)
        except StorageInternalError:
            self._orphans = self._begun_unheard()
            self._new -= len(self._orphans)
            return self.suggest(trial_id)
        self._new -= 1
        self._listener(TrialStarted(trial.number, dict(trial.params)))
        return self._hand_out(trial, trial_id, best={}, best_checkpoint="", last_epoch=0)

    def _hand_out(
        self,
        trial: optuna.Trial,
        trial_id: str,
        *,
        resume: str | None = None,
        seconds_before: float = 0.0,
        **reached: Any,
    ) -> dict[str, Any]:
        name = trial_folder(trial.number, self._losses[trial.number])
        opened = OpenTrial(
            trial, folder=self._session / name, seconds_before=seconds_before, **reached
        )
        opened.checkpoints += self._left.pop(trial.number, [])
        self._open[trial_id] = opened
        params = dict(trial.params)
        return {"number": trial.number, "params": params, "folder": name, "resume": resume}

    def _begun_unheard(self) -> list[FrozenTrial]:
        """Return the trials that the study has begun, but could not say so before it went away."""
        known = {opened.trial.number for opened in self._open.values()}
        running = patient(self.study.get_trials)(states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.number not in known]

    def _adopt(self, left: FrozenTrial, trial_id: str) -> dict[str, Any]:
        """Go on with a trial that an earlier driver or a lost process left running."""
        trial = optuna.Trial(self.study, left._trial_id)
        for path, values in self._space.items():
            # what it has stays; the driver may have died asking
            patient(trial._suggest)(path, values)
        last_epoch, before = max(left.intermediate_values, default=0), outcome_of(left)
        self._replay(left, trial_id)
        if not self._losses[left.number]:
            self._listener(TrialStarted(trial.number, dict(trial.params)))
            self._retell_epochs(left)
        return self._hand_out(
            trial,
            trial_id,
            resume=last_checkpoint(self._session.parent, trial.number, last_epoch),
            best=before.best,
            best_checkpoint=before.checkpoint,
            last_epoch=last_epoch,
            seconds_before=before.seconds,
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch of a trial."""
        self._note(self._open[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close a trial in the study: complete, pruned by the scheduler, or failed."""
        opened, result = self._open.pop(trial_id), result or {}
        self._note(opened, result)
        message = result.get(FAILURE, "")
        if error and not message:
            if self._is_taken_back(opened):
                return
            message = "its process was lost more often than train.max_failures allows"
        state: TrialStateName = "complete" if result.get(IS_LAST) else "pruned"
        if message or not opened.best:
            state, message = "failed", message or "it ended before its first epoch did"
        trial, seconds = opened.trial, opened.seconds
        self._write(_delete, opened.outdated({opened.best_checkpoint}))
        self._await_writes()
        if state == "failed":
            patient(note_failure)(trial, message, seconds)
        value = opened.best[self.config.train.monitor] if state == "complete" else None
        patient(self._tell)(trial, _ENDS[state], value)
        self._listener(TrialEnded(trial.number, state, opened.best, seconds, message))

    def __getstate__(self) -> dict[str, Any]:
        """Put nothing into Tune's snapshots, which raymc never reads: the study is the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study is the state."""

    def _note(self, opened: OpenTrial, result: Mapping[str, Any]) -> None:
        """Have an epoch stored in the study, once, and the checkpoints deleted that it outdates.

        Besides the best and the newest one the one before is kept, from which the trial goes on if
        its process is lost before the study knows of the newest.
        """
        number, value = result.get(EPOCH), result.get(self.config.train.monitor)
        if number is None or value is None:
            return
        checkpoint = self._checkpoint(opened, result)
        if number <= opened.last_epoch:
            return
        opened.last_epoch = number
        metrics = {key: float(x) for key, x in result.items() if key.startswith(("train/", "val/"))}
        epoch = Epoch(number, metrics, opened.seconds, checkpoint)
        if value > opened.best.get(self.config.train.monitor, -math.inf):
            opened.best, opened.best_checkpoint = {**metrics, EPOCH: number}, checkpoint
        self._write(note_epoch, opened.trial, epoch, value)
        kept = {opened.best_checkpoint, *opened.checkpoints[-2:]}
        self._write(_delete, opened.outdated(kept))
        self._listener(TrialEpochEnded(opened.trial.number, number, metrics, epoch.seconds))

    def _is_taken_back(self, opened: OpenTrial) -> bool:
        """Note that a trial's process was lost, and have it handed out again unless too often."""
        number = opened.trial.number
        self._losses[number] += 1
        if self._losses[number] > self.config.train.max_failures:
            return False
        self._left[number] = opened.checkpoints
        self._await_writes()
        self._orphans.append(patient(self.study.get_trials)(deepcopy=False)[number])
        return True

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None) -> None:
        """Close a trial, unless the study has it closed from a try that it could not answer."""
        self.study.tell(trial, value, state=state, skip_if_finished=True)

    def _write(self, write: Callable[..., None], *arguments: Any) -> None:
        self._writes.append(self._thread.submit(patient(write), *arguments))

    def _await_writes(self) -> None:
        """Wait until the study knows all it was told; raises what went wrong."""
        for write in self._writes:
            write.result()
        self._writes.clear()

    def _checkpoint(self, opened: OpenTrial, result: Mapping[str, Any]) -> str:
        """Return where a result's checkpoint lies: Ray Train says where, Tune names a folder.

        Ray Train itself deletes those that are outdated.
        """
        if CHECKPOINT_PATH in result:
            return str(result[CHECKPOINT_PATH])
        opened.checkpoints.append(str(opened.folder / result["checkpoint_dir_name"]))
        return opened.checkpoints[-1]

    def _retell(self, trial: FrozenTrial) -> None:
        """Tell the listener all of a trial that has ended; it may not have heard everything."""
        state, outcome = STATES[trial.state], outcome_of(trial)
        assert state != "running"
        self._listener(TrialStarted(trial.number, trial.params, is_over=True))
        self._retell_epochs(trial)
        self._listener(
            TrialEnded(trial.number, state, outcome.best, outcome.seconds, outcome.message)
        )

    def _retell_epochs(self, trial: FrozenTrial) -> None:
        for epoch in epochs_of(trial):
            self._listener(
                TrialEpochEnded(trial.number, epoch.number, epoch.metrics, epoch.seconds)
            )

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


def trial_folder(number: int, losses: int = 0) -> str:
    """Return the name of a trial's folder, of its own after each loss of its process."""
    return f"trial-{number:04d}" + (f".{losses}" if losses else "")


def last_checkpoint(trials_folder: Path, number: int, last_epoch: int) -> str | None:
    """Return the newest intact checkpoint that any driver's run of a trial has left.

    None that is newer than `last_epoch`: what happened after it, the study was not told.
    """
    found = []
    name = trial_folder(number)
    for folder in (*trials_folder.glob(f"*/{name}"), *trials_folder.glob(f"*/{name}.*")):
        for file in folder.glob(f"**/{checkpoint.PROGRESS}"):
            try:
                checkpoint.verify(file.parent)
                found.append((checkpoint.load_progress(file.parent).epoch, str(file.parent)))
            except CheckpointError:
                continue  # torn by the crash that made it the last one; the one before will do
    return max((one for one in found if one[0] <= last_epoch), default=(0, None))[1]


def _delete(folders: Sequence[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
