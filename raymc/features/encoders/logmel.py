"""Sound to tokens without weights: the log-mel frames of `audio.py`, scaled for speech.

Axes: S samples, T tokens, D dim.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from raymc.errors import ConfigError
from raymc.features.audio import LogMelConfig, log_mel_tokens

SAMPLE_RATE_HZ = 16_000
FRAMES_HZ = 40
MELS = 40
# Over recorded sentences, pauses included, bands are at −45 ± 20 dB of full scale (measured on
# two corpora of speech: −43 ± 18 and −47 ± 23).
_MEAN_DB = -45.0
_SCALE_DB = 20.0


@dataclass(frozen=True, kw_only=True)
class LogMelEncoder:
    """40 log-mel bands every 25 ms; neighbouring frames are joined into one token.

    `rate_hz` must divide 40; other values raise `ConfigError`.
    """

    rate_hz: float = 10.0
    name: str = "logmel"
    license: str = "no weights"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    has_weights: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate_hz <= FRAMES_HZ or FRAMES_HZ % self.rate_hz != 0:
            raise ConfigError(
                f"logmel can't make {self.rate_hz:g} tokens a second; expected {FRAMES_HZ} or a "
                f"whole part of it, such as 20, 10, 5, 2 or 1"
            )

    @property
    def dim(self) -> int:
        """Values a token: 160 at 10 tokens a second."""
        return self._config.dim

    def encode(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "T D"]:
        """Tokens of a wave form in [-1, 1]; none of none."""
        samples = torch.from_numpy(np.ascontiguousarray(waveform))
        return log_mel_tokens(samples, self.sample_rate_hz, self._config).numpy()

    @property
    def _config(self) -> LogMelConfig:
        return LogMelConfig(
            sample_rate_hz=self.sample_rate_hz,
            mels=MELS,
            hop_seconds=1 / FRAMES_HZ,
            stack=round(FRAMES_HZ / self.rate_hz),
            mean_db=_MEAN_DB,
            scale_db=_SCALE_DB,
        )
