"""Which checkpoints of a run are kept, how they reach storage, and which one a run resumes from.

A run resumes from the newest intact checkpoint in its storage, whoever wrote it: a worker of Ray
Train, or a process that trained alone.
"""

from collections.abc import Callable
from pathlib import Path

import tenacity
from pyarrow import fs
from safetensors import SafetensorError

from raymc.data.storage import open_address, patience, reaching
from raymc.errors import CheckpointError, first_line
from raymc.events import Event, Warned
from raymc.training import checkpoint

KEPT = 3  # checkpoints of a run: those with the highest `keep_score`
# Ray Train's list of a run's checkpoints, beside them.
SNAPSHOT = "checkpoint_manager_snapshot.json"
# How long a checkpoint is retried while storage can't be written to. Training waits for it once
# the next checkpoint is due: giving up at once would lose the steps since the last one.
PATIENCE_SECONDS = 120.0
# Errors of a full or unreachable storage; torch raises RuntimeError if it can't write a file.
NOT_STORED = (OSError, RuntimeError, SafetensorError)


def keep_score(epoch: int, step: int, best_epoch: int) -> float:
    """Return a score whose three highest are the best epoch and the last two checkpoints.

    The best epoch scores its own number b. Checkpoints after it score between b - 1 and b, later
    ones higher, and so above every epoch that was best before.

    Args:
        epoch: Epochs that have ended.
        step: Steps of the next epoch.
        best_epoch: Number of the best epoch so far; 0: none has ended.
    """
    since_best = epoch - best_epoch + step / (1 + step)
    return float(best_epoch) if not since_best else best_epoch - 1 / (1 + since_best)


def patient_storing(tell: Callable[[Event], None]) -> tenacity.Retrying:
    """Return a tenacity object that retries to store a checkpoint; `tell` gets one warning."""

    def warn(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None and state.attempt_number == 1:
            retries = f"retrying for up to {PATIENCE_SECONDS:g} s"
            tell(Warned(f"a checkpoint can't be stored ({first_line(error)}): {retries}"))

    return patience(*NOT_STORED, seconds=PATIENCE_SECONDS, before_sleep=warn)


def newest_intact(
    filesystem: fs.FileSystem,
    folder: str,
    *,
    fetch: Callable[[str], Path],
    tell: Callable[[Event], None],
) -> tuple[str | None, set[str]]:
    """Find the checkpoint to resume from.

    Args:
        filesystem: Of the run's storage.
        folder: The run's folder there.
        fetch: Returns a checkpoint's folder as a local one.
        tell: Gets a warning for each checkpoint that is skipped.

    Returns:
        Its path, and the paths of those that are no longer needed; None if there is none at all.

    Raises:
        CheckpointError: There are checkpoints, but none is intact.
    """
    found, unreadable = checkpoint.find(filesystem, folder)
    for path in unreadable:
        tell(Warned(f"skipping checkpoint {path}: it is incomplete"))
    for at, one in enumerate(found):
        local = fetch(one.path)
        try:
            checkpoint.verify(local)
        except CheckpointError as error:
            reason = str(error).replace(str(local), one.path)
            tell(Warned(f"{reason}; using the one before"))
        else:
            needed = {one.path, *(best.path for best in checkpoint.best_of(found[at:]))}
            return one.path, {*unreadable, *(each.path for each in found)} - needed
    if found:
        raise CheckpointError(
            f"no checkpoint in {folder} is intact: choose another --name to start a new run"
        )
    return None, set()


def best_checkpoint(address: str, folder: Path) -> Path:
    """Return the checkpoint of a finished run's best epoch, as a local folder.

    Args:
        address: The run's folder in storage.
        folder: Where to copy the checkpoint if storage is not local.

    Raises:
        CheckpointError: It is incomplete or missing.
    """
    filesystem, path = open_address(address)
    found, _ = checkpoint.find(filesystem, path)
    problem = f"{address} has none"
    for one in checkpoint.best_of(found):
        local = Path(one.path)
        try:
            if not isinstance(filesystem, fs.LocalFileSystem):
                local = folder / "checkpoint"
                local.mkdir(parents=True, exist_ok=True)
                with reaching(address):
                    fs.copy_files(one.path, str(local), source_filesystem=filesystem)
            checkpoint.verify(local)
        except CheckpointError as error:
            problem = str(error)
        else:
            return local
    raise CheckpointError(f"the best epoch's checkpoint can't be used: {problem}")


def check_writable(address: str) -> None:
    """Check that checkpoints can be written to an address, before workers start.

    Raises:
        DataError: It is full, read-only, unreachable or not an address.
    """
    filesystem, path = open_address(address)
    with reaching(address):
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(f"{path}/.written"):
            pass
        filesystem.delete_file(f"{path}/.written")
