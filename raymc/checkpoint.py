"""A run as it stands after an epoch, on disk: weights, what training needs besides, progress.

Nothing on disk is a pickle that runs code: weights are safetensors, progress is JSON, and the
state of training is read with `weights_only=True`. A folder appears whole or not at all, and
its digests are checked when it is read. Pure: no Ray, no MLflow.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymc.errors import CheckpointError, first_line

WEIGHTS, TRAINING, PROGRESS, DIGESTS = (
    "model.safetensors",
    "training.pt",
    "progress.json",
    "digests.json",
)


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: the last finished epoch, from 1.
        best_epoch: the epoch whose monitored metric was best so far.
        metrics: of `epoch`, by their MLflow names.
        best: of `best_epoch`.
        thresholds: per class, chosen on validation data at `epoch`; None where none reaches the
            target precision. Empty where an earlier epoch is better, as no one uses this one.
        calibration: of the same data and epochs, as plain values; None if there is none.
        is_over: whether no further epoch is due.
        config: the whole configuration, as plain values.
        dataset: vocabulary, modalities and digest of the dataset trained on.
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


@dataclass(frozen=True)
class Checkpoint:
    """What `save` wrote, read back and verified.

    `weights` are the model's, as it is used; `training_state` is what going on needs besides.
    """

    weights: dict[str, Tensor]
    training_state: dict[str, Any]
    progress: Progress


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    training_state: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write a checkpoint to `folder`, which appears complete or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: x.contiguous() for name, x in weights.items()}, partial / WEIGHTS)
    torch.save(dict(training_state), partial / TRAINING)
    (partial / PROGRESS).write_text(json.dumps(asdict(progress), indent=1))
    digests = {name: _digest(partial / name) for name in (WEIGHTS, TRAINING, PROGRESS)}
    (partial / DIGESTS).write_text(json.dumps(digests, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load(folder: Path, *, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint and verify it.

    Raises:
        CheckpointError: a file is missing, torn or not what was written.
    """
    verify(folder)
    try:
        return Checkpoint(
            weights=load_file(folder / WEIGHTS, device=device),
            training_state=torch.load(folder / TRAINING, map_location=device, weights_only=True),
            progress=load_progress(folder),
        )
    except (OSError, EOFError, SafetensorError, RuntimeError, UnpicklingError) as error:
        line = first_line(error)
        raise CheckpointError(f"checkpoint {folder} can't be read: {line}") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights, and nothing else of it.

    Raises:
        CheckpointError: they can't be read.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} can't be read: {error}") from error


def load_progress(folder: Path) -> Progress:
    """Read how far a checkpoint has come, and nothing else of it.

    Raises:
        CheckpointError: there is no readable progress in `folder`.
    """
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is no checkpoint of raymc: {PROGRESS} can't be read ({error})"
        ) from error


def verify(folder: Path) -> None:
    """Compare every file with the digest that was written beside it.

    Raises:
        CheckpointError: naming the first file that is missing or differs.
    """
    try:
        digests = dict(json.loads((folder / DIGESTS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is no complete checkpoint: {DIGESTS} can't be read ({error})"
        ) from error
    for name in (WEIGHTS, TRAINING, PROGRESS):
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
