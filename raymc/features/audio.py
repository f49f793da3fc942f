"""Sound to tokens: wave files to samples, samples to stacked log-mel frames.

The embedded dataset, extraction and a served model share it, so that their features are the same.

Axes: S samples, T tokens, D dim.
"""

import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from raymc.errors import DataError
from raymc.features.torchaudio_compat import load_torchaudio
from raymc.runtime.threads import computing_threads


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LogMelConfig:
    """How sound becomes tokens: `stack` neighbouring log-mel frames make one token."""

    sample_rate_hz: int = Field(
        default=16_000, ge=1000, description="Rate to which sound is resampled first."
    )
    mels: int = Field(default=40, ge=1, description="Mel bands a frame.")
    hop_seconds: float = Field(default=0.025, gt=0, description="Time between two frames.")
    window_seconds: float = Field(default=0.05, gt=0, description="Length of a frame's window.")
    stack: int = Field(default=4, ge=1, description="Frames put together into one token.")
    floor_db: float = Field(default=-80.0, description="Band power below this counts as this.")
    mean_db: float = Field(default=0.0, description="Subtracted from the power in dB.")
    scale_db: float = Field(default=1.0, gt=0, description="Divides the power in dB, after that.")

    @property
    def hop_samples(self) -> int:
        """Samples between two frames."""
        return max(round(self.hop_seconds * self.sample_rate_hz), 1)

    @property
    def window_samples(self) -> int:
        """Samples in a frame's window, at least one hop."""
        return max(round(self.window_seconds * self.sample_rate_hz), self.hop_samples)

    @property
    def token_samples(self) -> int:
        """Samples that one token stands for."""
        return self.hop_samples * self.stack

    @property
    def rate_hz(self) -> float:
        """Tokens a second."""
        return self.sample_rate_hz / self.token_samples

    @property
    def dim(self) -> int:
        """Values a token: `stack` frames of `mels` bands, one frame after the other."""
        return self.mels * self.stack


def log_mel_tokens(
    waveform: Float[Tensor, " S"], sample_rate_hz: int, config: LogMelConfig
) -> Float[Tensor, "T D"]:
    """Tokens of a wave form in [-1, 1]; token t stands for the seconds [t, t + 1) / rate_hz.

    The power of Hann-windowed frames in triangular bands on the HTK mel scale, as decibels
    relative to full scale, minus `mean_db`, over `scale_db`. Each frame is centred in its hop,
    beyond the ends lies silence, and the last token is completed with silence.

    Returns:
        ceil(seconds · rate_hz) tokens of `config.dim` values, float32.
    """
    # Threads that wait for each other on a busy machine made clips of 5 s 10 times slower.
    with computing_threads(1):
        if sample_rate_hz != config.sample_rate_hz:
            waveform = resample(waveform, sample_rate_hz, config.sample_rate_hz)
        return _tokens(waveform.float(), config)


def resample(
    waveform: Float[Tensor, " S"], from_hz: int, to_hz: int
) -> Float[Tensor, " S_resampled"]:
    """The wave form at another rate, band-limited (windowed sinc interpolation)."""
    load_torchaudio()
    from torchaudio.functional import resample as sinc_resample

    return sinc_resample(waveform.float(), from_hz, to_hz)


def read_wav(path: str | Path) -> tuple[Float32[np.ndarray, " S"], int]:
    """Samples in [-1, 1] and sample rate of a 16-bit PCM wave file, its channels averaged.

    Raises:
        DataError: No such file, not a wave file, not 16-bit PCM, cut short, or without samples.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate_hz, samples = file.getparams()[:4]
            data = file.readframes(samples)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give the path of a wave file.") from error
    except (wave.Error, EOFError) as error:
        reason = str(error) or "it ends too early"
        raise DataError(
            f"{path}: not a PCM wave file ({reason}); expected 16-bit PCM, as "
            "`ffmpeg -i IN -c:a pcm_s16le OUT.wav` writes it."
        ) from error
    if width != 2:
        raise DataError(
            f"{path}: {8 * width}-bit samples; expected 16-bit PCM, as "
            "`ffmpeg -i IN -c:a pcm_s16le OUT.wav` writes it."
        )
    if samples == 0 or len(data) != samples * channels * width:
        raise DataError(
            f"{path}: {len(data)} bytes of sound where the header announces {samples} samples of "
            f"{channels * width} bytes; expected at least one, and a whole file: fetch it again."
        )
    values = np.frombuffer(data, "<i2").reshape(samples, channels)
    return values.mean(axis=1, dtype=np.float32) / np.float32(32768), rate_hz


def _tokens(waveform: Float[Tensor, " S"], config: LogMelConfig) -> Float[Tensor, "T D"]:
    tokens = -(-len(waveform) // config.token_samples)
    if tokens == 0:
        return torch.zeros(0, config.dim)
    margin = config.window_samples - config.hop_samples
    after = tokens * config.token_samples - len(waveform) + margin - margin // 2
    padded = torch.nn.functional.pad(waveform, (margin // 2, after))
    power = _mel_transform(config)(padded)
    decibels = 10 * torch.log10(power.clamp(min=10 ** (config.floor_db / 10)))
    frames = (decibels.T - config.mean_db) / config.scale_db
    return frames.reshape(tokens, config.dim)


@lru_cache(maxsize=8)
def _mel_transform(config: LogMelConfig) -> torch.nn.Module:
    load_torchaudio()
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        sample_rate=config.sample_rate_hz,
        n_fft=config.window_samples,
        hop_length=config.hop_samples,
        n_mels=config.mels,
        center=False,
        power=2.0,
        normalized=True,
    )
