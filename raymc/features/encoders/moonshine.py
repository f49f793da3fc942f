"""Speech to tokens or to timed text by Moonshine's tiny English model, whose weights are packaged.

Jeffries et al. 2024, Moonshine: Speech Recognition for Live Transcription and Voice Commands
(arXiv 2410.15608). On sentences of lessons said by a synthesiser it understood most words, where
pocketsphinx, which is packaged too, understood few. As an encoder of sound it hears what is no
word, such as the sound of a letter.

Axes: S samples, F frames of the model, D dim.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from raymc.features.encoders.packaged import MOONSHINE, weights_folder
from raymc.features.encoders.speech import SpeechEncoder, in_pieces
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


@dataclass(frozen=True, kw_only=True, eq=False)
class MoonshineModel:
    """The model's encoder, as `SpeechEncoder` wants it: 288 values a frame, about 42 a second."""

    folder: Path = field(repr=False)
    session: Any = field(repr=False)
    dim: int = 288
    stride: int = 384  # samples: the strides of its three convolutions, 64 · 3 · 2
    reach: int = 895  # samples that the first frame sees

    @property
    def files(self) -> tuple[Path, ...]:
        """The encoder's weights."""
        return (self.folder / _ENCODER,)

    def features(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "F D"]:
        """The last layer's output; of a long sound in pieces with a second of context."""

        def run(samples: Float32[np.ndarray, " _"]) -> Float32[np.ndarray, "_ D"]:
            given = {
                "input_values": samples[None],
                "attention_mask": np.ones((1, len(samples)), np.int64),
            }
            return self.session.run(None, given)[0][0]

        return in_pieces(waveform, run, dim=self.dim, stride=self.stride, reach=self.reach)


_ENCODER = "encoder_model.ort"


def moonshine_encoder(*, rate_hz: float = 10.0) -> SpeechEncoder:
    """Load the encoder of sound, which runs on the CPU.

    Raises:
        ConfigError: It makes fewer tokens a second.
        ResourceError: A package is not installed, or is of a version without weights.
    """
    folder = weights_folder(MOONSHINE, "assets/tiny-en")
    import onnxruntime

    runtime: Any = onnxruntime  # its types know no options
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = MoonshineModel(
        folder=folder, session=runtime.InferenceSession(str(folder / _ENCODER), options)
    )
    return SpeechEncoder(
        name=MOONSHINE,
        dim=model.dim,
        rate_hz=rate_hz,
        license="MIT",
        sample_rate_hz=16_000,
        model=model,
    )


def moonshine() -> MoonshineTranscriber:
    """Load the transcriber, which runs on the CPU.

    Raises:
        ResourceError: Its package is not installed, or is of a version without weights.
    """
    folder = weights_folder(MOONSHINE, "assets/tiny-en")
    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber

    return MoonshineTranscriber(folder=folder, model=Transcriber(str(folder), ModelArch.TINY))
