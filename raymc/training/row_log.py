"""Which rows trained a model: a record in every checkpoint, and what it proves.

All workers note the rows of their batches, and the record is saved in the same checkpoint as the
weights. So both always agree, whatever crashed: steps after the last checkpoint are in neither,
and are repeated.

Axes: N rows of the training split.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from raymc.errors import CheckpointError

_MOST = 255  # counts are stored in one byte


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of an epoch, from one checkpoint to the next.

    Attributes:
        epoch: its number, from 1.
        first_step: steps of the epoch done before the segment.
        steps: steps of the epoch done after it.
        attempt: the start of the run that it belongs to, from 1.
        workers: number of workers that shared the batches.
        rows: number of rows in the batches.
    """

    epoch: int
    first_step: int
    steps: int
    attempt: int
    workers: int
    rows: int


@dataclass
class RowLog:
    """How often each row was used in each epoch, and in which attempt by how many workers.

    Attributes:
        rows: number N of rows of the training split.
        attempt: number of this start of the run; 1 more than that of the checkpoint.
        segments: in order.
        counts: per epoch [N] uint8, how often each row was used.
    """

    rows: int
    attempt: int = 1
    segments: list[Segment] = field(default_factory=list)
    counts: dict[int, np.ndarray] = field(default_factory=dict)
    _packed: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def add(
        self, epoch: int, rows: np.ndarray, *, first_step: int, steps: int, workers: int
    ) -> None:
        """Add the rows, repeats included, of the steps from `first_step` to `steps` of an epoch."""
        before = self.counts.get(epoch, np.zeros(self.rows, dtype=np.uint8))
        more = np.bincount(rows, minlength=self.rows)
        self.counts[epoch] = np.minimum(before + more, _MOST).astype(np.uint8)
        self._packed.pop(epoch, None)
        segment = Segment(epoch, first_step, steps, self.attempt, workers, len(rows))
        self.segments.append(segment)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a complete epoch takes about N / 1000 bytes."""
        for epoch in self.counts.keys() - self._packed.keys():
            packed = zlib.compress(self.counts[epoch].tobytes(), 6)
            self._packed[epoch] = base64.b64encode(packed).decode()
        counts = {str(epoch): self._packed[epoch] for epoch in self.counts}
        segments = [list(asdict(segment).values()) for segment in self.segments]
        return {
            "rows": self.rows,
            "attempt": self.attempt,
            "segments": segments,
            "counts": counts,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RowLog":
        """Return the record that `to_json` was called on.

        Raises:
            CheckpointError: the values are something else.
        """
        try:
            return cls(
                rows=int(values["rows"]),
                attempt=int(values["attempt"]),
                segments=[Segment(*segment) for segment in values["segments"]],
                counts={
                    int(epoch): np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
                    for epoch, text in values["counts"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            raise CheckpointError(f"the record of rows can't be read: {error!r}") from error


@dataclass(frozen=True)
class EpochAudit:
    """How the rows of an epoch were used.

    Attributes:
        epoch: its number, from 1.
        steps: number of recorded steps.
        once: rows used exactly once.
        lost: rows not used; 0 until the epoch has ended.
        repeated: rows used more than once.
        workers: numbers of workers, in order.
        attempts: number of starts of the run that took part.
        is_over: whether the epoch has ended.
    """

    epoch: int
    steps: int
    once: int
    lost: int
    repeated: int
    workers: tuple[int, ...]
    attempts: int
    is_over: bool

    @property
    def is_right(self) -> bool:
        """Whether no row was lost or used twice."""
        return not self.lost and not self.repeated


def audit(log: RowLog, *, rows: int, epochs: int, is_part: bool) -> list[EpochAudit]:
    """Compare the rows used with the rows of the dataset.

    Args:
        log: the record of a checkpoint.
        rows: number N of rows in the dataset's manifest.
        epochs: number of finished epochs.
        is_part: whether another epoch has begun.
    """
    return [
        _audit_epoch(log, epoch, rows, is_over=epoch <= epochs)
        for epoch in range(1, epochs + is_part + 1)
    ]


def _audit_epoch(log: RowLog, epoch: int, rows: int, *, is_over: bool) -> EpochAudit:
    counts = log.counts.get(epoch, np.zeros(0, dtype=np.uint8))
    segments = [segment for segment in log.segments if segment.epoch == epoch]
    foreign = int((counts[rows:] > 0).sum())
    counts = np.pad(counts[:rows], (0, max(0, rows - len(counts))))
    return EpochAudit(
        epoch=epoch,
        steps=sum(segment.steps - segment.first_step for segment in segments),
        once=int((counts == 1).sum()),
        lost=int((counts == 0).sum()) if is_over else 0,
        repeated=int((counts > 1).sum()) + foreign,
        workers=tuple(_without_repeats([segment.workers for segment in segments])),
        attempts=len({segment.attempt for segment in segments}),
        is_over=is_over,
    )


def _without_repeats(values: Sequence[int]) -> list[int]:
    return [value for value, _ in groupby(values)]
