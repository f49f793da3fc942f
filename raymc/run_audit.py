"""The audit of a run: its last checkpoint's record of rows against the dataset. Pure."""

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
from raymc.runs import find_run, read_config, storage_of
from raymc.shards import open_dataset
from raymc.shards.storage import open_address, reaching


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


def _last_record(address: str) -> tuple[Found, RowLog]:
    filesystem, path = open_address(address)
    found, _ = checkpoint.find(filesystem, path)
    for one in found:
        try:
            return one, record_of(filesystem, one.path)
        except CheckpointError:
            continue
    raise CheckpointError(f"no intact checkpoint in {address}: there is nothing to audit")


def record_of(filesystem: fs.FileSystem, path: str) -> RowLog:
    """Read which rows a checkpoint was trained on, once all its files are found intact.

    Raises:
        CheckpointError: one is not.
        DataError: the checkpoint is out of reach.
    """
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
