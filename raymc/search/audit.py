"""The audit of a sweep: compares the rows each trial was trained on with the dataset's."""

from collections.abc import Sequence

from rich.table import Table

from raymc.data.storage import open_address
from raymc.search.study import read_study, trials_in
from raymc.terminal import plain
from raymc.training.audit import RunAudit, record_of
from raymc.training.row_log import audit
from raymc.training.runs import Run, dataset_of


def audit_trials(sweep: Run) -> list[RunAudit]:
    """Read which rows each trial was trained on until its best epoch.

    A trial that has ended keeps only its best checkpoint, so later epochs are left out, and so are
    trials without an epoch.

    Raises:
        CheckpointError: A checkpoint is damaged or missing.
        ConfigError: The dataset was replaced.
        DataError: The dataset or a checkpoint can't be reached.
    """
    rows = dataset_of(sweep).manifest.rows(sweep.config.data.train)
    trials = trials_in(read_study(sweep), sweep)
    found = []
    for number, address in ((t.number, t.checkpoint) for t in trials if t.checkpoint):
        log = record_of(*open_address(address))
        epochs = audit(log, rows=rows, epochs=max(log.counts, default=0), is_part=False)
        found.append(RunAudit(str(number), address, rows=rows, epochs=epochs, restarts=[]))
    return found


def trials_table(sweep: str, found: Sequence[RunAudit]) -> Table:
    """Return a table with a row for each trial, its epochs added up."""
    title = plain(f"sweep {sweep}: epochs to each trial's best")
    table = Table(title=title, title_justify="left")
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
