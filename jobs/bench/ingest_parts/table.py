"""The ingest benchmark as people read it: one table a set, and raymc beside the others."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.bench.ingest_parts.process import BY_HAND, CACHED, NO_PEERS, RAY_DATA, STREAMED
from raymc.tracking.notes import markdown_table


@dataclass
class Figure:
    """What one way took: seconds of first and later epochs, or the reason why there are none."""

    way: str
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    sum: int | None = None
    reason: str = ""

    def add_first(self, answer: Mapping[str, Any]) -> None:
        """Take the answer of a first epoch."""
        self._add(answer, self.first)

    def add_later(self, answer: Mapping[str, Any]) -> None:
        """Take the answer of a later epoch."""
        self._add(answer, self.later)

    def add_check(self, answer: Mapping[str, Any]) -> None:
        """Take the answer of an epoch that was summed up."""
        self.reason = self.reason or answer.get("reason", "")
        self.sum = answer.get("sum")

    def _add(self, answer: Mapping[str, Any], seconds: list[float]) -> None:
        self.reason = self.reason or answer.get("reason", "")
        if not self.reason:
            seconds.append(answer["seconds"])
            self.rows, self.bytes = answer["rows"], answer["bytes"]
            self.peak_bytes = max(self.peak_bytes, answer["peak_bytes"])


def section_of(title: str, figures: Sequence[Figure]) -> str:
    """Return a heading, the table of all ways, and raymc's ratios."""
    return f"\n### {title}\n\n{table_of(figures)}\n{ratios_of(figures)}"


def table_of(figures: Sequence[Figure]) -> str:
    """Return a line a way; ratios of speed beside the loop by hand."""
    by_hand = next((figure for figure in figures if figure.way == BY_HAND), None)
    columns = ["rows/s", "MB/s", "MB/s, slowest to fastest", "÷ by hand"]
    header = ["", *(f"{when}: {name}" for when in ("first", "later") for name in columns)]
    rows = [
        [
            figure.way,
            *_cells(figure, "first", by_hand),
            *_cells(figure, "later", by_hand),
            f"{figure.peak_bytes / 2**20:,.0f}",
        ]
        if not figure.reason
        else [figure.way, figure.reason, *[""] * (len(header) - 1)]
        for figure in figures
    ]
    return markdown_table([*header, "peak MiB"], rows)


def _cells(figure: Figure, epoch: str, by_hand: Figure | None) -> list[str]:
    seconds = getattr(figure, epoch)
    if not seconds:
        return [""] * 4
    median = statistics.median(seconds)
    slowest, fastest = figure.bytes / max(seconds) / 1e6, figure.bytes / min(seconds) / 1e6
    return [
        f"{figure.rows / median:,.0f}",
        f"{figure.bytes / median / 1e6:,.0f}",
        f"{slowest:,.0f} to {fastest:,.0f}",
        _ratio(figure, by_hand, epoch),
    ]


def ratios_of(figures: Sequence[Figure]) -> str:
    """Return raymc's speed beside the loop by hand, the fastest peer, and Ray Data."""
    able = {figure.way: figure for figure in figures if not figure.reason}
    peers = [figure for figure in able.values() if figure.way not in NO_PEERS]
    rows = []
    for mine in (able[way] for way in (CACHED, STREAMED) if way in able):
        for epoch in ("first", "later"):
            timed = [peer for peer in peers if getattr(peer, epoch)]
            best = min(timed, key=lambda f: statistics.median(getattr(f, epoch)), default=None)
            beside = (able.get(BY_HAND), best, able.get(RAY_DATA))
            ratios = [_ratio(mine, other, epoch) for other in beside]
            ratios[1] += f" ({best.way})" if best else ""
            rows.append([f"{mine.way}, {epoch} epoch", *ratios])
    return markdown_table(["speed of", "÷ by hand", "÷ fastest peer", f"÷ {RAY_DATA}"], rows)


def _ratio(figure: Figure, other: Figure | None, epoch: str) -> str:
    """Return how many times as fast as another a way is."""
    mine = getattr(figure, epoch)
    theirs = getattr(other, epoch, None)
    if not mine or not theirs:
        return ""
    return f"{statistics.median(theirs) / statistics.median(mine):.2f}"


def numbers_of(figure: Figure) -> dict[str, object]:
    """Return a figure as plain JSON values."""
    return asdict(figure)
