"""Sound to timed words: a speech recognition model of torchaudio with greedy CTC decoding.

Imports NumPy; the model stands in `bundles`. Without a language model: words are spelt as they
are heard, which is good enough to tell what a clip is about.

Axes: S samples, F frames of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from jaxtyping import Float32, Int

from raymc.features.encoders.torchaudio_weights import SpeechModel, load_bundle
from raymc.features.transcripts import Cue

SPACE = "|"


@dataclass(frozen=True, kw_only=True, eq=False)
class Transcriber:
    """Writes down what is said, word by word.

    Attributes:
        model: The loaded bundle.
        has_weights: Whether it loads weights: yes.
    """

    model: SpeechModel = field(repr=False)
    has_weights: bool = True

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.model.name

    @property
    def license(self) -> str:
        """The licence of the weights."""
        return self.model.license

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the wave form it wants."""
        return self.model.sample_rate_hz

    def transcribe(self, waveform: Float32[np.ndarray, " S"]) -> list[Cue]:
        """The words of a wave form, one cue each, in lower case; times are from its start."""
        best = self.model.logits(waveform).argmax(axis=1)
        frame_seconds = self.model.stride / self.sample_rate_hz
        return greedy_words(best, self.model.labels, frame_seconds)


def transcriber_of(name: str, *, weights: str | None = None, device: str = "cpu") -> Transcriber:
    """Load a bundle as a transcriber; see `load_bundle`.

    Raises:
        DataError: A file that is torn, foreign, or of another model.
        ResourceError: A file or a device that is missing.
    """
    return Transcriber(model=load_bundle(name, weights=weights, device=device))


def greedy_words(
    best: Int[np.ndarray, " F"], labels: Sequence[str], frame_seconds: float
) -> list[Cue]:
    """Decode the best character of each frame: repeats collapse, blanks go, `|` ends a word.

    Graves et al. 2006, Connectionist Temporal Classification, section 3.2 (best path decoding).

    Args:
        best: Numbers of characters.
        labels: The characters; number 0 is the blank.
        frame_seconds: From one frame to the next.

    Returns:
        The words; each lasts from its first character's first frame to its last one's end.
    """
    words: list[Cue] = []
    letters, start, end, at = "", 0, 0, 0
    for number, run in groupby(int(each) for each in best):
        first, at = at, at + len(list(run))
        if number == 0:
            continue
        if labels[number] != SPACE:
            start = start if letters else first
            letters += labels[number]
            end = at
        elif letters:
            words.append(Cue(start * frame_seconds, end * frame_seconds, letters.lower()))
            letters = ""
    if letters:
        words.append(Cue(start * frame_seconds, end * frame_seconds, letters.lower()))
    return words
