"""Audio-visual speech with noise in its sound: the condition under which a second modality pays.

Makes, from GRID's features in one .npz and the waveforms beside it, an .npz of the same form whose
sound is mixed with noise at a stated SNR.

Axes: N clips, S samples, T tokens, D dim.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from raymc.data.storage import whole_file
from raymc.errors import DataError
from raymc.features.audio import LogMelConfig, log_mel_tokens
from raymc.features.clips import ClipRequest, Failure
from raymc.features.media import read_clips
from raymc.features.sources import Source

Noise = Literal["babble", "white"]
FEATURES = LogMelConfig(mels=40, hop_seconds=0.02, window_seconds=0.04, stack=4)  # 12.5 Hz
FRAMES = 2  # of video in a token of 12.5 Hz, stacked as the sound's frames are
VOICES = 6  # of a babble, each another clip of the same split


def make_noisy(
    features: Path, sounds: Path, out: Path, *, snr_db: float, noise: Noise = "babble"
) -> None:
    """Write `out`, an .npz like `features` with `audio` computed from noisy waveforms.

    Both modalities get tokens of 80 ms, half as many as in `features`. Noise is drawn by clip,
    so that every SNR mixes the same voices; a babble's voices come from the clip's own split.
    Tokens are normalised with the training clips' mean and deviation.

    Args:
        features: .npz with `names`, `split`, `audio` and other arrays; all but `audio` are kept.
        sounds: Folder of `NAME.flac`.
        out: The file to write.
        snr_db: Power of the speech over that of the noise, over the whole clip; inf adds none.
        noise: Other clips' voices at once, or white noise.

    Raises:
        DataError: a file is missing or damaged.
    """
    arrays = _read_arrays(features)
    names, splits = [str(name) for name in arrays["names"]], arrays["split"]
    waves = [read_waveform(sounds / f"{name}.flac") for name in names]
    noises = (_noise_for(clip, waves, splits, noise) for clip in range(len(names)))
    tokens = [_tokens(mix(wave, other, snr_db)) for wave, other in zip(waves, noises)]
    arrays["video"] = _stack(arrays["video"])
    length = arrays["video"].shape[1]
    audio = np.stack([_of_length(one, length) for one in tokens])
    heard = audio[splits == 0].reshape(-1, FEATURES.dim)
    deviation = np.maximum(heard.std(axis=0), 1e-3)  # a band may be silent throughout
    arrays["audio"] = ((audio - heard.mean(axis=0)) / deviation).astype(np.float16)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def mix(
    speech: Float32[np.ndarray, " S"], noise: Float[np.ndarray, " S"], snr_db: float
) -> Float32[np.ndarray, " S"]:
    """Add noise so that speech has `snr_db` more power than it, in dB."""
    power = np.mean(np.square(speech, dtype=np.float64))
    loudness = np.mean(np.square(noise, dtype=np.float64))
    gain = np.sqrt(power / max(loudness, 1e-20) / 10 ** (snr_db / 10))
    return (speech + gain * noise).astype(np.float32)


def babble(
    voices: Sequence[Float32[np.ndarray, " S"]], length: int, generator: np.random.Generator
) -> Float[np.ndarray, " S"]:
    """Sum voices of equal power, each rotated by a random time."""
    total = np.zeros(length)
    for voice in voices:
        rotated = np.roll(np.resize(voice, length), int(generator.integers(length)))
        total += rotated / max(float(np.std(rotated)), 1e-9)
    return total


def read_waveform(path: Path) -> Float32[np.ndarray, " S"]:
    """Return a file's sound, mono, at the rate of `FEATURES`.

    Raises:
        DataError: the file is missing or damaged.
    """
    request = ClipRequest(picture=None, sample_rate_hz=FEATURES.sample_rate_hz)
    for clip in read_clips(Source(path=str(path), id=path.stem), request):
        if isinstance(clip, Failure):
            raise DataError(f"{path}: its sound can't be read: {clip.error}")
        if clip.waveform is not None:
            return clip.waveform
    raise DataError(f"{path}: there is no sound in it; expected speech")


def _noise_for(
    clip: int, waves: Sequence[np.ndarray], splits: np.ndarray, noise: Noise
) -> Float[np.ndarray, " S"]:
    generator, length = np.random.default_rng([clip, 7]), len(waves[clip])
    if noise == "white":
        return generator.normal(size=length)
    others = np.flatnonzero((splits == splits[clip]) & (np.arange(len(waves)) != clip))
    chosen = generator.choice(others, size=min(VOICES, len(others)), replace=False)
    return babble([waves[other] for other in chosen], length, generator)


def _tokens(waveform: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "T D"]:
    return log_mel_tokens(torch.from_numpy(waveform), FEATURES.sample_rate_hz, FEATURES).numpy()


def _of_length(tokens: Float32[np.ndarray, "_ D"], length: int) -> Float32[np.ndarray, "T D"]:
    """Cut or repeat the last token, since a codec may give a few samples more or fewer."""
    short = length - len(tokens)
    return np.pad(tokens, ((0, short), (0, 0)), mode="edge") if short > 0 else tokens[:length]


def _stack(frames: np.ndarray) -> np.ndarray:
    """Put neighbouring frames into one token; [N, T, D] to [N, T // FRAMES, FRAMES * D]."""
    clips, length, dim = frames.shape
    tokens = length // FRAMES
    return frames[:, : tokens * FRAMES].reshape(clips, tokens, FRAMES * dim)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read as .npz ({error}); expected GRID's features"
        ) from None
