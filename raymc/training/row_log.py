"""Which rows trained a model: a record that every checkpoint carries, and the proof it gives.

What the steps' batches really held is noted on all workers and becomes part of the checkpoint
that holds the steps' weights. So the record can't know less or more than the weights do,
whatever crashed on the way: steps after the last checkpoint leave nothing in either, and are
done again. Pure: no Ray, no MLflow.

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

_MOST = 255  # rows are counted in bytes, which stop here


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of an epoch, from one checkpoint to the next.

    Attributes:
        epoch: which, from 1.
        first_step: steps of the epoch that were done before.
        steps: steps that end the segment, `first_step` included.
        attempt: how many times the run had been started, from 1.
        workers: that shared the batches.
        rows: rows in the batches.
    """

    epoch: int
    first_step: int
    steps: int
    attempt: int
    workers: int
    rows: int


@dataclass
class RowLog:
    """How often each row was used, by epoch, and by whom.

    Attributes:
        rows: N, of the training split.
        attempt: of this process; every start from a checkpoint is one more.
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
        """Note what steps `first_step` to `steps` of an epoch used, `rows` with repeats if any."""
        before = self.counts.get(epoch, np.zeros(self.rows, dtype=np.uint8))
        more = np.bincount(rows, minlength=self.rows)
        self.counts[epoch] = np.minimum(before + more, _MOST).astype(np.uint8)
        self._packed.pop(epoch, None)
        segment = Segment(epoch, first_step, steps, self.attempt, workers, len(rows))
        self.segments.append(segment)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an epoch that used every row once takes N / 1000 bytes."""
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
        """Return what `to_json` was called on.

        Raises:
            CheckpointError: it wasn't.
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
    """What became of an epoch's rows.

    Attributes:
        epoch: which, from 1.
        steps: that the record has.
        once: rows used exactly once.
        lost: rows not used; 0 while the epoch goes on.
        repeated: rows used more than once.
        workers: numbers of workers, in order.
        attempts: starts of the run that took part.
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
    """Compare what was used with what there is.

    Args:
        log: the record of a checkpoint.
        rows: N, as the dataset's manifest says.
        epochs: that have ended.
        is_part: whether a further one is under way.
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
