"""The audit of a run or sweep: checkpoints' records of rows against the dataset. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import fs
from rich.table import Table

from raymc import checkpoint
from raymc.attempts import Restart, load_attempts, restarts
from raymc.audit import EpochAudit, RowLog, audit
from raymc.checkpoint import Found
from raymc.errors import CheckpointError
from raymc.outcome import outcome_of
from raymc.runs import TRIALS, find_run, read_config, storage_of
from raymc.shards import open_dataset
from raymc.shards.storage import open_address, reaching
from raymc.study import read_study


@dataclass(frozen=True)
class RunAudit:
    """What became of the rows of a run.

    Attributes:
        name: of the run, or the trial's number.
        checkpoint: the one whose record was read.
        rows: of the training split.
        epochs: in order, the one under way last.
        restarts: what every start but the first cost.
    """

    name: str
    checkpoint: str
    rows: int
    epochs: Sequence[EpochAudit]
    restarts: Sequence[Restart]

    @property
    def is_right(self) -> bool:
        """Whether every epoch used every row once."""
        return all(epoch.is_right for epoch in self.epochs)


def audit_run(run: str, runs_folder: str) -> RunAudit:
    """Read which rows the last intact checkpoint of a run was trained on.

    Args:
        run: its name, or its folder.
        runs_folder: where runs of a name lie, the setting `run.folder`.

    Raises:
        ConfigError: there is no such run.
        CheckpointError: it has no intact checkpoint.
        DataError: its dataset or its checkpoints are out of reach.
    """
    folder = find_run(run, runs_folder)
    config = read_config(folder)
    rows = open_dataset(config.data.path).manifest.rows(config.data.train)
    address = f"{storage_of(config)}/{folder.name}" if config.run.storage else str(folder)
    last, log = _last_record(address)
    progress = last.progress
    is_part = progress.part.steps > 0
    return RunAudit(
        name=folder.name,
        checkpoint=last.path,
        rows=rows,
        epochs=audit(log, rows=rows, epochs=progress.epoch, is_part=is_part),
        restarts=restarts(load_attempts(folder)),
    )


def audit_trials(sweep: str, runs_folder: str) -> list[RunAudit]:
    """Read which rows the best checkpoint of each trial of a sweep was trained on.

    A trial keeps no other checkpoint once it has ended, so that the epochs after its best are
    not told of; nor are trials without an epoch.

    Args:
        sweep: its name, or its folder.
        runs_folder: where sweeps of a name lie, the setting `run.folder`.

    Raises:
        ConfigError: there is no such sweep.
        CheckpointError: a checkpoint is torn or missing.
        DataError: the dataset or a checkpoint is out of reach.
    """
    folder = find_run(sweep, runs_folder)
    config = read_config(folder)
    rows = open_dataset(config.data.path).manifest.rows(config.data.train)
    trials = read_study(config, folder.name, folder).get_trials(deepcopy=False)
    best = {trial.number: outcome_of(trial).checkpoint for trial in trials}
    return [_audit_trial(number, address, rows) for number, address in best.items() if address]


def is_sweep(run: str, runs_folder: str) -> bool:
    """Tell whether a run is a sweep that has begun.

    Raises:
        ConfigError: there is no such run.
    """
    return (find_run(run, runs_folder) / TRIALS).is_dir()


def _audit_trial(number: int, address: str, rows: int) -> RunAudit:
    filesystem, path = open_address(address)
    log = _record_of(filesystem, path)
    epochs = audit(log, rows=rows, epochs=max(log.counts, default=0), is_part=False)
    return RunAudit(str(number), checkpoint=address, rows=rows, epochs=epochs, restarts=[])


def _last_record(address: str) -> tuple[Found, RowLog]:
    filesystem, path = open_address(address)
    found, _ = checkpoint.find(filesystem, path)
    for one in found:
        try:
            return one, _record_of(filesystem, one.path)
        except CheckpointError:
            continue
    raise CheckpointError(f"no intact checkpoint in {address}: there is nothing to audit")


def _record_of(filesystem: fs.FileSystem, path: str) -> RowLog:
    with TemporaryDirectory(prefix="raymc-") as folder:
        local = Path(path)
        if not isinstance(filesystem, fs.LocalFileSystem):
            local = Path(folder)
            with reaching(path):
                fs.copy_files(path, folder, source_filesystem=filesystem)
        checkpoint.verify(local)
        return RowLog.from_json(checkpoint.load_rows(local))


def audit_table(found: RunAudit) -> Table:
    """Return a row for each epoch."""
    table = Table(title=f"run {found.name}: {found.rows:,} rows an epoch", title_justify="left")
    for column in ("epoch", "steps", "seen once", "lost", "repeated", "workers", "attempts", ""):
        table.add_column(column, justify="left" if column == "workers" else "right")
    for epoch in found.epochs:
        numbers = (epoch.epoch, epoch.steps, epoch.once, epoch.lost, epoch.repeated)
        note = "" if epoch.is_over else "under way"
        workers = "→".join(str(number) for number in epoch.workers)
        cells = [f"{number:,}" for number in numbers]
        style = "" if epoch.is_right else "red"
        table.add_row(*cells, workers, str(epoch.attempts), note, style=style)
    return table


def trials_table(sweep: str, found: Sequence[RunAudit]) -> Table:
    """Return a row for each trial, its epochs added up."""
    table = Table(title=f"sweep {sweep}: epochs to each trial's best", title_justify="left")
    for column in ("trial", "epochs", "rows", "seen once", "lost", "repeated", "attempts"):
        table.add_column(column, justify="left" if column == "trial" else "right")
    for trial in found:
        epochs = trial.epochs
        once, lost, repeated = (
            sum(getattr(epoch, name) for epoch in epochs) for name in ("once", "lost", "repeated")
        )
        attempts = max((epoch.attempts for epoch in epochs), default=0)
        numbers = (len(epochs), trial.rows * len(epochs), once, lost, repeated, attempts)
        style = "" if trial.is_right else "red"
        table.add_row(trial.name, *(f"{number:,}" for number in numbers), style=style)
    return table


def restarts_line(found: RunAudit) -> str:
    """Say what restarts cost; empty if there was none."""
    if not found.restarts:
        return ""
    steps = sum(restart.repeated_steps for restart in found.restarts)
    longest = max(restart.seconds for restart in found.restarts)
    times = "once" if len(found.restarts) == 1 else f"{len(found.restarts)} times"
    return (
        f"went on {times} from a checkpoint: about {steps:,} steps of work done again, "
        f"{longest:,.0f} s at most from the last step to the next"
    )
