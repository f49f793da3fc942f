"""Sound to tokens by a speech model of torchaudio: wav2vec 2.0, HuBERT, WavLM.

Imports NumPy; the model stands in `bundles`. Its 50 frames a second are averaged to fewer tokens.

Axes: S samples, F frames of the model, T tokens, D dim.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int

from raymc.errors import ConfigError
from raymc.features.encoders.torchaudio_weights import SpeechModel, load_bundle


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechEncoder:
    """A speech model as an encoder of sound; a token is the mean of its last layer over its time.

    Attributes:
        rate_hz: Tokens a second, at most the model's frames a second.
        model: The loaded bundle.
        has_weights: Whether it loads weights: yes.

    Raises:
        ConfigError: A rate out of its range.
    """

    rate_hz: float
    model: SpeechModel = field(repr=False)
    has_weights: bool = True

    def __post_init__(self) -> None:
        frames_hz = self.sample_rate_hz / self.model.stride
        if not 0 < self.rate_hz <= frames_hz:
            raise ConfigError(
                f"{self.name} can't make {self.rate_hz:g} tokens a second; expected above 0, at "
                f"most {frames_hz:g}"
            )

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.model.name

    @property
    def dim(self) -> int:
        """Values a token."""
        return self.model.dim

    @property
    def license(self) -> str:
        """The licence of the weights."""
        return self.model.license

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the wave form it wants."""
        return self.model.sample_rate_hz

    def encode(self, waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "T D"]:
        """ceil(seconds · rate_hz) tokens; token t is of the seconds [t, t + 1) / rate_hz.

        A frame counts where its middle lies. A token in which none does, such as the last of a
        sound that ends within it, is the frame nearest to it.
        """
        per_token = self.sample_rate_hz / self.rate_hz
        tokens = math.ceil(len(waveform) / per_token - 1e-9)
        features = self.model.features(waveform)
        middles = (np.arange(len(features)) + 0.5) * self.model.stride
        return _mean_by_token(features, (middles / per_token).astype(np.int64), tokens)


def speech_encoder(
    name: str, *, rate_hz: float = 10.0, weights: str | None = None, device: str = "cpu"
) -> SpeechEncoder:
    """Load a bundle as an encoder; see `load_bundle`.

    Raises:
        ConfigError: A rate out of its range.
        DataError: A file that is torn, foreign, or of another model.
        ResourceError: A file or a device that is missing.
    """
    return SpeechEncoder(rate_hz=rate_hz, model=load_bundle(name, weights=weights, device=device))


def _mean_by_token(
    features: Float32[np.ndarray, "F D"], token_of: Int[np.ndarray, " F"], tokens: int
) -> Float32[np.ndarray, "T D"]:
    """The mean of each token's frames; `token_of` doesn't fall."""
    bounds = np.searchsorted(token_of, np.arange(tokens + 1))
    means = np.empty((tokens, features.shape[1]), np.float32)
    for token, (first, end) in enumerate(pairwise(bounds.tolist())):
        nearest = min(first, len(features) - 1)
        frames = features[first:end] if first < end else features[nearest : nearest + 1]
        means[token] = frames.mean(axis=0)
    return means
