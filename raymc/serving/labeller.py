"""What a video's labels are over time, for a service: files decoded apart, clips scored together.

Any file may come from anyone, so each is decoded in a child process, of which a few wait for work.
"""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from raymc.config import ServeConfig
from raymc.evaluation.media import plan_of
from raymc.evaluation.timeline import Timeline, score_windows
from raymc.features.clips import Failure, Source
from raymc.features.extraction import END, Decoder, EncodedClip, encode, make_encoders
from raymc.runtime.device import uses_gpu
from raymc.training.bundle import Bundle


class FullError(Exception):
    """No more videos may wait."""


class Refusal(NamedTuple):
    """Why a video has no labels; `is_too_long` if it is beyond the limit."""

    reason: str
    is_too_long: bool = False


Decoded = list[EncodedClip | Failure]
# Their length and stride in seconds, and what these follow from, as of `window_and_stride`.
Windows = tuple[float, float, str]


class Labeller:
    """Makes timelines with one bundle, several at a time.

    Args:
        bundle: The model.
        windows: Of its timelines.
        settings: The service's: how many files are decoded at a time, how long they may be, and
            the device.

    Raises:
        BundleError: The bundle doesn't say how its features were made.
        ResourceError: Weights, a package or a GPU are missing.
    """

    def __init__(self, bundle: Bundle, windows: Windows, settings: ServeConfig) -> None:
        self.bundle, self.minutes = bundle, settings.max_minutes
        self.window, self.stride, self.chosen = windows
        lengths = {"window_seconds": self.window, "stride_seconds": self.stride}
        self._plan = plan_of(bundle, device=settings.device, **lengths)
        place = "cuda" if uses_gpu(settings.device) else "cpu"
        bundle.model.to(place)
        self._encoders = make_encoders(self._plan.config, self._plan.heavy, device=place)
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for _ in range(settings.decoders):
            self._idle.put(Decoder(self._plan))

    def decode(self, path: str) -> Decoded | Refusal:
        """Return the clips of a video, as far as it can be read. Blocks; any thread may call it."""
        found: Decoded = []
        with self._decoder() as decoder:
            for item in decoder.clips(Source(path=path, id=Path(path).name)):
                if isinstance(item, EncodedClip):
                    if item.start_seconds >= 60 * self.minutes:
                        reason = f"the video is longer than {self.minutes:g} minutes"
                        return Refusal(reason, is_too_long=True)
                    item = encode(item, path, self._plan, self._encoders)
                found.append(item)
        return found

    def label(self, videos: Sequence[Decoded]) -> list[Timeline | Refusal]:
        """Return the timelines of decoded videos, whose clips are scored together."""
        kept = [_with_tokens(video) for video in videos]
        together = [clip for clips in kept for clip in clips]
        scored, _ = score_windows(self.bundle, [*together, END])
        results: list[Timeline | Refusal] = []
        place = 0
        for video, clips in zip(videos, kept):
            failures = _failures(video)
            if scored is None or not clips:
                results.append(Refusal("; ".join(failures) or "there is nothing to see or hear"))
                continue
            part = slice(place, place := place + len(clips))
            results.append(
                Timeline(
                    path="",
                    labels=self.bundle.vocabulary.names,
                    window_seconds=self.window,
                    stride_seconds=self.stride,
                    chosen=self.chosen,
                    starts=scored.starts[part],
                    ends=scored.ends[part],
                    scores=scored.scores[part],
                    embeddings=scored.embeddings[part],
                    alone={name: scores[part] for name, scores in scored.alone.items()},
                    calibration=self.bundle.calibration,
                    thresholds=self.bundle.thresholds,
                    failures=failures,
                )
            )
        return results

    def close(self) -> None:
        """End the decoders that have nothing to do."""
        while not self._idle.empty():
            self._idle.get().close()

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        decoder = self._idle.get()
        try:
            yield decoder
        finally:
            self._idle.put(decoder)


def _with_tokens(video: Decoded) -> list[EncodedClip]:
    return [x for x in video if isinstance(x, EncodedClip) and any(x.tokens.values())]


def _failures(video: Decoded) -> tuple[str, ...]:
    """Return what could not be read, each once."""
    found: list[str] = []
    for item in video:
        parts = [item] if isinstance(item, Failure) else item.failures
        found += [one.error for one in parts]
    return tuple(dict.fromkeys(found))
