"""A run in progress on disk: weights, the rest of the training state, progress, rows used.

No file runs code when it is read: weights are safetensors, progress is JSON, and the training
state is read with `weights_only=True`. A folder appears complete or not at all, and its digests
are checked when it is read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pyarrow import fs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymc.data.storage import reaching, read_bytes, whole_folder
from raymc.errors import CheckpointError, first_line

WEIGHTS, TRAINING, PROGRESS, ROWS, DIGESTS = (
    "model.safetensors",
    "training.pt",
    "progress.json",
    "rows.json",
    "digests.json",
)
# How Ray Train and Ray Tune name the folders of a run's checkpoints.
FOLDER_PREFIX = "checkpoint_"
_VERIFIED = (WEIGHTS, TRAINING, PROGRESS, ROWS)


@dataclass(frozen=True)
class Part:
    """What is done of an unfinished epoch.

    Attributes:
        steps: optimizer steps taken.
        loss: sum of the losses of these steps.
        rows: rows used.
        seconds: time they took, over all attempts that led here.
    """

    steps: int = 0
    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run has got.

    Attributes:
        epoch: the last finished epoch, from 1; 0 if there is none.
        best_epoch: the epoch with the best monitored metric so far; 0 if there is none.
        metrics: of `epoch`, by their MLflow names.
        best: the metrics of `best_epoch`.
        thresholds: per class, chosen on validation data at `epoch`; None if none reaches the
            target precision. Empty if an earlier epoch is better.
        calibration: fitted to the same scores, as plain values; None if there is none.
        is_over: whether training has ended.
        reason: why it has ended: `finished` or `early stop`.
        config: the whole configuration, as plain values.
        dataset: vocabulary, modalities and digest of the training dataset.
        part: what is done of the next epoch.
    """

    epoch: int
    best_epoch: int
    metrics: Mapping[str, float]
    best: Mapping[str, float]
    thresholds: list[float | None]
    calibration: Mapping[str, Any] | None = None
    is_over: bool = False
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    part: Part = field(default_factory=Part)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and verified.

    `weights` are those of the model to use; `training_state` is what resuming needs besides;
    `rows` is the record of the rows behind the weights (`RowLog.to_json`).
    """

    weights: dict[str, Tensor]
    training_state: dict[str, Any]
    progress: Progress
    rows: dict[str, Any]


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    training_state: Mapping[str, Any],
    progress: Progress,
    *,
    rows: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint to `folder`, which appears complete or not at all."""
    with whole_folder(folder, replace=True) as partial:
        save_file({name: x.contiguous() for name, x in weights.items()}, partial / WEIGHTS)
        torch.save(dict(training_state), partial / TRAINING)
        (partial / PROGRESS).write_text(json.dumps(asdict(progress), indent=1))
        (partial / ROWS).write_text(json.dumps(dict(rows or {})))
        digests = {name: _digest(partial / name) for name in _VERIFIED}
        (partial / DIGESTS).write_text(json.dumps(digests, indent=1))


def load(folder: Path, *, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint and verify it.

    Raises:
        CheckpointError: a file is missing, torn or altered.
    """
    verify(folder)
    try:
        return Checkpoint(
            weights=load_file(folder / WEIGHTS, device=device),
            training_state=torch.load(folder / TRAINING, map_location=device, weights_only=True),
            progress=load_progress(folder),
            rows=load_rows(folder),
        )
    except (OSError, EOFError, SafetensorError, RuntimeError, UnpicklingError) as error:
        line = first_line(error)
        raise CheckpointError(f"checkpoint {folder} can't be read: {line}") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read only the weights of a checkpoint.

    Raises:
        CheckpointError: they can't be read.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} can't be read: {error}") from error


def load_progress(folder: Path) -> Progress:
    """Read only the progress of a checkpoint.

    Raises:
        CheckpointError: there is no readable progress in `folder`.
    """
    try:
        return parse_progress((folder / PROGRESS).read_text())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is not a raymc checkpoint: {PROGRESS} can't be read ({error})"
        ) from error


def parse_progress(text: str) -> Progress:
    """Return the progress in the text of a `PROGRESS` file.

    Raises:
        ValueError, TypeError: the text is something else.
    """
    values = json.loads(text)
    return Progress(**{**values, "part": Part(**values.get("part", {}))})


def load_rows(folder: Path) -> dict[str, Any]:
    """Read the record of the rows a checkpoint was trained on, for `RowLog.from_json`.

    Raises:
        CheckpointError: there is no readable record in `folder`.
    """
    try:
        return dict(json.loads((folder / ROWS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder}: {ROWS} can't be read ({error})") from error


@dataclass(frozen=True)
class Found:
    """A checkpoint of a run: where it is, and its progress."""

    path: str
    progress: Progress

    @property
    def position(self) -> tuple[int, int]:
        """Finished epochs, and steps of the next one."""
        return self.progress.epoch, self.progress.part.steps


def find(filesystem: fs.FileSystem, folder: str) -> tuple[list[Found], list[str]]:
    """Find the checkpoints in a run's folder.

    Returns:
        Those whose progress can be read, the latest first, and the paths of the others.

    Raises:
        DataError: the folder can't be reached.
    """
    found, unreadable = [], []
    with reaching(folder):
        for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
            if info.type != fs.FileType.Directory or not info.base_name.startswith(FOLDER_PREFIX):
                continue
            try:
                text = read_bytes(filesystem, f"{info.path}/{PROGRESS}").decode()
                found.append(Found(info.path, parse_progress(text)))
            except (FileNotFoundError, ValueError, TypeError, AttributeError):
                unreadable.append(info.path)
    return sorted(found, key=lambda one: (one.position, one.path), reverse=True), unreadable


def best_of(found: Sequence[Found]) -> list[Found]:
    """Return those checkpoints from `find` that are of the best epoch so far."""
    best_epoch = found[0].progress.best_epoch if found else 0
    return [one for one in found if one.position == (best_epoch, 0)]


def verify(folder: Path) -> None:
    """Compare every file with its recorded digest.

    Raises:
        CheckpointError: names the first file that is missing or differs.
    """
    try:
        digests = dict(json.loads((folder / DIGESTS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {DIGESTS} can't be read ({error})"
        ) from error
    for name in _VERIFIED:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} is torn: {name} is missing")
        if _digest(path) != digests.get(name):
            raise CheckpointError(
                f"checkpoint {folder} is corrupt: {name} differs from what was written"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
