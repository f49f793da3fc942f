"""Speech to timed text by Moonshine's tiny English model, whose weights come in a package.

Jeffries et al. 2024, Moonshine: Speech Recognition for Live Transcription and Voice Commands
(arXiv 2410.15608). On sentences of lessons said by a synthesiser it understood most words, where
pocketsphinx, which is packaged too, understood few.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from raymc.features.encoders.packaged import MOONSHINE, weights_folder
from raymc.features.encoders.weights import digest_of_files
from raymc.features.transcripts import Cue


@dataclass(frozen=True, kw_only=True, eq=False)
class MoonshineTranscriber:
    """Writes down what is said in English, a cue for each stretch of speech."""

    folder: Path = field(repr=False)
    model: Any = field(repr=False)
    name: str = MOONSHINE
    license: str = "MIT"
    sample_rate_hz: int = 16_000
    has_weights: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the model's files, in hex."""
        return digest_of_files(self.folder.iterdir())

    def transcribe(self, waveform: Float32[np.ndarray, " S"]) -> list[Cue]:
        """The stretches of speech in a wave form; times are from its start."""
        if len(waveform) == 0:
            return []
        found = self.model.transcribe_without_streaming(waveform.tolist(), self.sample_rate_hz)
        return [
            Cue(line.start_time, line.start_time + line.duration, line.text.strip())
            for line in found.lines
            if line.text.strip()
        ]


def moonshine() -> MoonshineTranscriber:
    """Load the transcriber, which runs on the CPU.

    Raises:
        ResourceError: Its package is not installed, or is of a version without weights.
    """
    folder = weights_folder(MOONSHINE, "assets/tiny-en")
    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber

    return MoonshineTranscriber(folder=folder, model=Transcriber(str(folder), ModelArch.TINY))
