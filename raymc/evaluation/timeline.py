"""Where in a video its labels show: a bundle's scores of windows over it, and segments of them.

A video is decoded in a child process and scored in this one, without Ray. `timeline_files.py`
writes a timeline, `report/timeline.py` shows it.

Axes: W windows, P pieces of time, C classes, E embedding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32

from raymc.data.shards import Ragged
from raymc.data.survey import clip_seconds
from raymc.errors import ConfigError, DataError, RaymcError, counted
from raymc.evaluation.media import plan_of, token_table
from raymc.evaluation.outcomes import without_threshold
from raymc.evaluation.scoring import check_threshold
from raymc.evaluation.segments import Pieces, find_spans, pieces_of
from raymc.events import unheard
from raymc.features.clips import Failure
from raymc.features.extraction import END, EncodedClip, Item, extract_here
from raymc.features.sources import Source, check_present, list_sources
from raymc.metrics.calibration import Calibration
from raymc.runtime.device import device_here
from raymc.training.bundle import ROWS_AT_A_TIME, Bundle
from raymc.training.runs import own_dataset

LEAVE_SHARE = 0.75  # `python -m jobs.bench timeline` compares it with others


class Segment(NamedTuple):
    """A stretch of a video in which a label shows.

    `value` is its highest probability, or score if the model gives no probabilities; `peak` is the
    moment of it. All times are seconds of the file.
    """

    label: str
    start: float
    end: float
    value: float
    peak: float


@dataclass(frozen=True, repr=False, kw_only=True)
class Timeline:
    """Scores of windows over a video, and the segments in which labels show.

    Attributes:
        path: The video.
        labels: The classes, in the order of the scores.
        window_seconds: Length of a window.
        stride_seconds: From the start of a window to the next.
        chosen: What these two follow from.
        starts: [W], in seconds of the file.
        ends: [W].
        scores: [W, C], similarities or logits.
        embeddings: [W, E], before normalisation.
        alone: By modality, [W, C]: the scores if the windows had nothing else; NaN where they don't
            have it. Empty if the model reads one modality only.
        calibration: Turns scores into probabilities; None if the bundle has none.
        thresholds: [C], the score from which a label shows; infinite: it never does.
        threshold: The probability that takes their place; None: they decide.
        leave_share: A segment ends where the probability falls below this share of the one at which
            it begins; 1 for a plain threshold.
        least_seconds: Shorter segments are left out.
        failures: What of the video could not be read.
    """

    path: str
    labels: tuple[str, ...]
    window_seconds: float
    stride_seconds: float
    chosen: str
    starts: Float[np.ndarray, " W"]
    ends: Float[np.ndarray, " W"]
    scores: Float32[np.ndarray, "W C"]
    embeddings: Float32[np.ndarray, "W E"]
    alone: Mapping[str, Float32[np.ndarray, "W C"]]
    calibration: Calibration | None
    thresholds: Float32[np.ndarray, " C"]
    threshold: float | None = None
    leave_share: float = LEAVE_SHARE
    least_seconds: float = 0.0
    failures: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return what it is of, and how much."""
        windows = counted(len(self.starts), "window")
        return f"Timeline({self.path!r}: {windows}, {counted(len(self.all_segments), 'segment')})"

    @property
    def seconds(self) -> float:
        """Where the last window ends."""
        return float(self.ends.max())

    @property
    def kind(self) -> str:
        """What `values` are: `probability`, or `score` for a model without probabilities."""
        return "score" if self.calibration is None else "probability"

    def values(self, scores: Float32[np.ndarray, "N C"]) -> Float32[np.ndarray, "N C"]:
        """Return the probabilities of scores, or the scores if there are none."""
        if self.calibration is None:
            return scores
        return self.calibration.probabilities(scores).astype(np.float32)

    @cached_property
    def pieces(self) -> Pieces:
        """Stretches of time that the same windows cover, with the mean of their scores."""
        return pieces_of(self.starts, self.ends, self.scores)

    @cached_property
    def enter(self) -> Float[np.ndarray, " C"]:
        """[C], the value (`kind`) at which a segment of a label begins; NaN: there is none."""
        if self.threshold is not None:
            return np.full(len(self.labels), self.threshold)
        finite = np.isfinite(self.thresholds)
        known = np.where(finite, self.thresholds, 0).astype(np.float32)
        return np.where(finite, self.values(known[None])[0], np.nan)

    @cached_property
    def all_segments(self) -> tuple[Segment, ...]:
        """The segments of all labels, by their start."""
        starts, ends, scores = self.pieces
        values = self.values(scores)
        strong, weak = self._levels(scores, values)
        found = [
            self._segment(c, low, high, values)
            for c in range(len(self.labels))
            for low, high in find_spans(
                starts, ends, strong[:, c], weak[:, c], least_seconds=self.least_seconds
            )
        ]
        return tuple(sorted(found, key=lambda one: (one.start, one.end)))

    def _levels(
        self, scores: Float32[np.ndarray, "P C"], values: Float32[np.ndarray, "P C"]
    ) -> tuple[Bool[np.ndarray, "P C"], Bool[np.ndarray, "P C"]]:
        """Return where segments may begin, and where they may go on."""
        strong = scores >= self.thresholds if self.threshold is None else values >= self.threshold
        if self.calibration is None:
            return strong, strong
        return strong, values >= self.leave_share * np.nan_to_num(self.enter, nan=np.inf)

    def _segment(self, c: int, low: int, high: int, values: Float32[np.ndarray, "P C"]) -> Segment:
        starts, ends, _ = self.pieces
        best = low + int(values[low:high, c].argmax())
        peak = float(starts[best] + ends[best]) / 2
        name, value = self.labels[c], float(values[best, c])
        return Segment(name, float(starts[low]), float(ends[high - 1]), value, peak)

    @property
    def segments(self) -> pd.DataFrame:
        """A row for each segment: `start`, `end`, `label`, and its highest `probability`."""
        columns = ["start", "end", "label", self.kind]
        rows = [(one.start, one.end, one.label, one.value) for one in self.all_segments]
        return pd.DataFrame(rows, columns=columns).astype({"start": float, "end": float})

    @property
    def windows(self) -> pd.DataFrame:
        """A row for each window: `start`, `end`, and `probability.LABEL` for each label."""
        names = [f"{self.kind}.{name}" for name in self.labels]
        frame = pd.DataFrame({"start": self.starts, "end": self.ends})
        values = pd.DataFrame(self.values(self.scores), columns=names)
        return pd.concat([frame, values], axis=1)


def clock(seconds: float) -> str:
    """Return a moment of a video as players show it, to a tenth of a second: `1:02`, `0:12.5`."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    rest = f"{tenths // 10:02}" + (f".{tenths % 10}" if tenths % 10 else "")
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


def timeline_lines(timeline: Timeline) -> list[str]:
    """Return what a timeline is made of, what it found, and which labels it can't find."""
    count, found = len(timeline.starts), timeline.all_segments
    every = f", one every {timeline.stride_seconds:g} s" if count > 1 else ""
    windows = f"{counted(count, 'window')} of {timeline.window_seconds:g} s{every}"
    lines = [f"{windows} ({timeline.chosen})"]
    named = dict.fromkeys(one.label for one in found)
    segments = counted(len(found), "segment")
    lines.append(f"{segments} of {len(named):,} of {len(timeline.labels):,} labels")
    if missing := int(np.isnan(timeline.enter).sum()):
        lines.append(f"{without_threshold(missing)}, so they have no segments")
    return lines


Listener = Callable[[float], None]


def make_timeline(
    bundle: Bundle,
    video: str,
    *,
    window: float | None = None,
    stride: float | None = None,
    threshold: float | None = None,
    least: float = 0.0,
    device: str = "auto",
    listener: Listener = unheard,
) -> Timeline:
    """Score windows over a video, with features that are made as the bundle's were.

    Args:
        bundle: The model.
        video: A local path, or an address.
        window: Length of a window in seconds; None: as in the bundle's recipe, or the median
            length of the clips that it was trained on.
        stride: Seconds from the start of a window to the next; None: as in the recipe, or half a
            window.
        threshold: The probability from which a label shows; None: the bundle's thresholds.
        least: Segments of fewer seconds are left out.
        device: `auto`, `cpu` or `gpu`.
        listener: Called with the seconds of the video that are done.

    Raises:
        BundleError: The bundle doesn't say how its features were made, or they can't be made here.
        ConfigError: A length is out of range or not known, or a probability is asked of a model
            without any.
        DataError: There is no such video, or nothing of it can be read.
        ResourceError: Weights, a package or a GPU are missing.
    """
    check_threshold(bundle, threshold)
    source = _one_video(video)
    window, stride, chosen = window_and_stride(bundle, window, stride)
    plan = plan_of(bundle, device=device, window_seconds=window, stride_seconds=stride)
    bundle.model.to(device_here(device))
    items = (item for _, item in extract_here([(0, source)], plan))
    scored, failures = score_windows(bundle, items, listener=listener)
    if scored is None:
        raise DataError(f"{video} can't be read: {'; '.join(failures) or 'it is empty'}")
    return Timeline(
        path=source.path,
        labels=bundle.vocabulary.names,
        window_seconds=window,
        stride_seconds=stride,
        chosen=chosen,
        **scored._asdict(),
        calibration=bundle.calibration,
        thresholds=bundle.thresholds,
        threshold=threshold,
        least_seconds=least,
        failures=failures,
    )


class Scored(NamedTuple):
    """What a bundle makes of windows; the fields are those of `Timeline`."""

    starts: Float[np.ndarray, " W"]
    ends: Float[np.ndarray, " W"]
    scores: Float32[np.ndarray, "W C"]
    embeddings: Float32[np.ndarray, "W E"]
    alone: Mapping[str, Float32[np.ndarray, "W C"]]


def score_windows(
    bundle: Bundle, items: Iterable[Item], *, listener: Listener = unheard
) -> tuple[Scored | None, tuple[str, ...]]:
    """Score the windows of a file as they come; also returns what could not be read of it.

    Returns:
        None if nothing could be read.
    """
    parts, waiting, failures = list[Scored](), list[EncodedClip](), list[str]()
    for item in items:
        if isinstance(item, EncodedClip):
            failures += [one.error for one in item.failures]
            waiting += [item] if any(item.tokens.values()) else []
            listener(item.end_seconds)
        elif isinstance(item, Failure):
            failures.append(item.error)
        if waiting and (item is END or len(waiting) >= ROWS_AT_A_TIME):
            parts.append(_scored(bundle, waiting))
            waiting = []
    told = tuple(dict.fromkeys(failures))
    if not parts:
        return None, told
    *joined, alone = zip(*parts)
    names = parts[0].alone
    return (
        Scored(
            *map(np.concatenate, joined),
            alone={name: np.concatenate([each[name] for each in alone]) for name in names},
        ),
        told,
    )


def _scored(bundle: Bundle, clips: Sequence[EncodedClip]) -> Scored:
    tokens = bundle.tokens_of(token_table(bundle, clips))
    embeddings, scores = bundle.embed_tokens(tokens)
    starts = np.array([clip.start_seconds for clip in clips], dtype=np.float64)
    ends = np.array([clip.end_seconds for clip in clips], dtype=np.float64)
    return Scored(starts, ends, scores, embeddings, scores_alone(bundle, tokens))


def scores_alone(
    bundle: Bundle, tokens: Mapping[str, Ragged]
) -> dict[str, Float32[np.ndarray, "N C"]]:
    """Return, by modality, the scores of rows of which only that modality is kept.

    NaN where a row lacks it. Empty if the bundle reads one modality only.
    """
    if len(tokens) < 2:
        return {}
    found = {}
    for name, kept in tokens.items():
        only = {other: kept if other == name else _emptied(x) for other, x in tokens.items()}
        scores = bundle.score_tokens(only)
        found[name] = np.where(kept.lengths[:, None] > 0, scores, np.float32(np.nan))
    return found


def _emptied(tokens: Ragged) -> Ragged:
    return Ragged(tokens.values[:0], np.zeros_like(tokens.offsets))


def _one_video(address: str) -> Source:
    if Path(address).is_dir():
        raise ConfigError(f"{address} is a folder: name one video")
    sources = list_sources(address)
    if len(sources) != 1:
        raise ConfigError(f"{address} names {len(sources):,} videos: name one")
    check_present(sources)
    return sources[0]


def window_and_stride(
    bundle: Bundle, window: float | None = None, stride: float | None = None
) -> tuple[float, float, str]:
    """Return the window and stride for a bundle's timelines, and what they follow from.

    Raises:
        ConfigError: Nothing says how long a window should be, or a length is not above 0.
    """
    for name, seconds in (("window", window), ("stride", stride)):
        if seconds is not None and not 0.01 <= seconds < np.inf:
            raise ConfigError(f"--{name} is {seconds:g}; expected 0.01 seconds or more")
    recipe: Mapping[str, Any] = bundle.recipe or {}
    if window is not None:
        return window, stride or window / 2, "as asked"
    if found := recipe.get("window_seconds"):
        return found, stride or recipe.get("stride_seconds") or found / 2, "as in training"
    found = bundle.clip_seconds
    if found is None:
        try:
            found = clip_seconds(own_dataset(bundle), bundle.config.data.train)
        except RaymcError as error:
            raise ConfigError(
                f"how long were the clips of training? Neither the bundle nor a dataset says so "
                f"({error}): give --window SECONDS"
            ) from None
    if found is None:
        raise ConfigError("the training data don't say how long clips are: give --window SECONDS")
    return found, stride or found / 2, "the median length of the clips of training"
