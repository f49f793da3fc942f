"""The embedded dataset: clips in which digits are shown, heard, or named while on screen.

It combines scikit-learn's handwritten digits with keypad tones or recorded speech. It needs no
download and is made in seconds, yet `named_k` needs picture and sound together in time.

Axes: T tokens, D dim, S samples.
"""

from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32

from raymc.config import DigitsConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row
from raymc.features.audio import LogMelConfig, log_mel_tokens
from raymc.formats.digit_sounds import (
    SAMPLE_RATE_HZ,
    SPLITS,
    Recordings,
    Sounds,
    coloured_noise,
    draw_tones,
    load_recordings,
)
from raymc.formats.recipe import DatasetRecipe, LazyRows

VISUAL_RATE_HZ = 5.0
SLOT_SECONDS = 1.0
GROUPS = ("shown", "heard", "named")
_LEVEL_DB = -20.0
_IMAGE_SHARES = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}
_BLANK_SHARE = 0.05
_SHOWN_SHARE = 0.75
_HEARD_SHARE = 0.75
_IMAGE_NOISE = 0.1
_LICENSE = (
    "Pictures: CC BY 4.0, E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten "
    "Digits, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, the 1797 that "
    "scikit-learn carries. Sound: "
)


@plain_dataclass(frozen=True)
class Event:
    """A digit on screen or in the sound, from `start_seconds` to `end_seconds` of its clip.

    `content` is the picture [64] in [0, 1], or the wave form [S] at a mean power of 1.
    """

    digit: int
    start_seconds: float
    end_seconds: float
    content: Float32[np.ndarray, " values"]


@plain_dataclass(frozen=True)
class Timeline:
    """What happens in a clip, and when."""

    seconds: float
    speaker: str
    shown: tuple[Event, ...]
    heard: tuple[Event, ...]

    def labels(self) -> tuple[str, ...]:
        """`shown_k`, `heard_k`, and `named_k` where k is heard while the same k is on screen."""
        digits = {
            "shown": {event.digit for event in self.shown},
            "heard": {event.digit for event in self.heard},
            "named": {
                shown.digit
                for shown in self.shown
                for heard in self.heard
                if shown.digit == heard.digit
                and shown.start_seconds < heard.end_seconds
                and heard.start_seconds < shown.end_seconds
            },
        }
        return tuple(f"{group}_{k}" for group in GROUPS for k in sorted(digits[group]))


def digits(config: DigitsConfig) -> DatasetRecipe:
    """Return the recipe of the embedded dataset.

    Each row is computed from (seed, split, its number) alone. No picture and no speaker is in two
    splits.

    Raises:
        DataError: `speech` names a folder that `load_recordings` can't use.
    """
    sounds = load_recordings(config.speech) if config.speech else draw_tones(config.seed)
    counts = {"train": config.train_clips, "val": config.val_clips, "test": config.test_clips}
    names = {group: tuple(f"{group}_{k}" for k in range(10)) for group in GROUPS}
    audio = audio_config(config)
    return DatasetRecipe(
        vocabulary=Vocabulary(sum(names.values(), ()), groups=names),
        modalities=(
            Modality(
                "visual",
                dim=64,
                rate_hz=VISUAL_RATE_HZ,
                encoder="8 × 8 pixels in [0, 1]",
            ),
            Modality(
                "audio",
                dim=audio.dim,
                rate_hz=audio.rate_hz,
                encoder=f"{audio.stack} frames of {audio.mels} log-mel bands, "
                f"(dB − {audio.mean_db:g}) / {audio.scale_db:g}",
            ),
        ),
        splits={
            split: LazyRows(counts[split], partial(draw_row, config, split, sounds))
            for split in SPLITS
        },
        provenance=_provenance(config, sounds),
        license=_LICENSE
        + (
            "as licensed with the recordings (Free Spoken Digit Dataset: CC BY-SA 4.0)."
            if config.speech
            else "synthetic."
        ),
    )


def audio_config(config: DigitsConfig) -> LogMelConfig:
    """Tokens of 160 values at 10 Hz, brought to about zero mean and unit variance.

    The two constants were measured once on training clips of the default configuration.
    """
    mean_db, scale_db = (-26.3, 6.1) if config.speech else (-24.4, 6.2)
    return LogMelConfig(sample_rate_hz=SAMPLE_RATE_HZ, mean_db=mean_db, scale_db=scale_db)


def draw_row(config: DigitsConfig, split: str, sounds: Sounds, i: int) -> Row:
    """Clip i of a split, from nothing but the seed, the split and i."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), i])
    timeline = draw_timeline(config, split, sounds, rng)
    frames = draw_frames(timeline, rng)
    waveform = torch.from_numpy(mix(timeline, sounds, config.snr_db, rng))
    audio = log_mel_tokens(waveform, SAMPLE_RATE_HZ, audio_config(config))
    return Row(
        id=f"{split}-{i:06d}",
        labels=timeline.labels(),
        tokens={"visual": frames, "audio": audio.numpy().astype(np.float16)},
        extra={"speaker": timeline.speaker},
    )


def draw_timeline(
    config: DigitsConfig, split: str, sounds: Sounds, rng: np.random.Generator
) -> Timeline:
    """Decide what is shown and heard in a clip, slot by slot of a second.

    All digits come from a pool of two to four, so that the same digit is often both shown and
    heard at different times. A sound's centre lies in the middle half of its slot, while a
    picture covers at least that half: in the same slot they overlap, in different ones never.
    """
    steps = round(config.clip_seconds * rng.uniform(0.8, 1.2) * VISUAL_RATE_HZ)
    seconds = steps / VISUAL_RATE_HZ
    speaker = str(rng.choice(sounds.speakers[split]))
    slots = 0 if rng.random() < _BLANK_SHARE else int(seconds // SLOT_SECONDS)
    first = rng.uniform(0, seconds - slots * SLOT_SECONDS)
    pool = rng.choice(10, size=rng.integers(2, 5), replace=False)
    shown, heard = [], []
    for slot in range(slots):
        start = first + slot * SLOT_SECONDS
        on_screen, in_sound = _draw_digits(config.agreement, pool, rng)
        if on_screen is not None:
            shown.append(_show(on_screen, start, split, rng))
        if in_sound is not None:
            heard.append(_sound(in_sound, start, sounds.sound(speaker, in_sound, rng), rng))
    return Timeline(seconds, speaker, tuple(shown), tuple(heard))


def draw_frames(timeline: Timeline, rng: np.random.Generator) -> Float16[np.ndarray, "T 64"]:
    """One flattened 8 × 8 picture a fifth of a second, each with its own noise and brightness."""
    times = (np.arange(round(timeline.seconds * VISUAL_RATE_HZ)) + 0.5) / VISUAL_RATE_HZ
    frames = np.zeros((len(times), 64))
    for event in timeline.shown:
        frames[(event.start_seconds <= times) & (times < event.end_seconds)] = event.content
    brightness = rng.uniform(0.7, 1.0, (len(times), 1))
    noise = rng.normal(0, _IMAGE_NOISE, frames.shape)
    return np.clip(frames * brightness + noise, 0, 1).astype(np.float16)


def mix(
    timeline: Timeline, sounds: Sounds, snr_db: float, rng: np.random.Generator
) -> Float32[np.ndarray, " S"]:
    """The clip's sound: its digits in noise, at the level of its speaker ± 3 dB."""
    level_db = _LEVEL_DB + sounds.level_db(timeline.speaker) + rng.uniform(-3, 3)
    samples = round(timeline.seconds * SAMPLE_RATE_HZ)
    mixed = coloured_noise(samples, sounds.noise_slope(timeline.speaker), rng)
    mixed *= np.float32(10 ** (-snr_db / 20))
    for event in timeline.heard:
        start = round(event.start_seconds * SAMPLE_RATE_HZ)
        mixed[start : start + len(event.content)] += event.content
    return mixed * np.float32(10 ** (level_db / 20))


def _draw_digits(
    agreement: float, pool: np.ndarray, rng: np.random.Generator
) -> tuple[int | None, int | None]:
    on_screen = int(rng.choice(pool)) if rng.random() < _SHOWN_SHARE else None
    if rng.random() >= _HEARD_SHARE:
        return on_screen, None
    if on_screen is None:
        return None, int(rng.choice(pool))
    if rng.random() < agreement:
        return on_screen, on_screen
    return on_screen, int(rng.choice(pool[pool != on_screen]))


def _show(digit: int, slot_start: float, split: str, rng: np.random.Generator) -> Event:
    start, end = rng.uniform(0, 0.25), rng.uniform(0.75, 1)
    images = images_of(split)[digit]
    image = images[rng.integers(len(images))]
    return Event(digit, slot_start + start * SLOT_SECONDS, slot_start + end * SLOT_SECONDS, image)


def _sound(
    digit: int, slot_start: float, samples: Float32[np.ndarray, " S"], rng: np.random.Generator
) -> Event:
    seconds = len(samples) / SAMPLE_RATE_HZ
    earliest = max(SLOT_SECONDS / 4, seconds / 2)
    centre = slot_start + rng.uniform(earliest, SLOT_SECONDS - earliest)
    return Event(digit, centre - seconds / 2, centre + seconds / 2, samples)


@lru_cache(maxsize=3)
def images_of(split: str) -> tuple[Float32[np.ndarray, "_ 64"], ...]:
    """A split's pictures of each digit: a stretch of scikit-learn's file, in its order."""
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    low, high = _IMAGE_SHARES[split]
    by_digit = [scans.data[scans.target == k].astype(np.float32) / 16 for k in range(10)]
    return tuple(of_k[round(low * len(of_k)) : round(high * len(of_k))] for of_k in by_digit)


def _provenance(config: DigitsConfig, sounds: Sounds) -> dict[str, object]:
    settings = {key: value for key, value in asdict(config).items() if key != "speech"}
    source: dict[str, object] = {"sound": "keypad tones (ITU-T Q.23) on synthetic lines"}
    if isinstance(sounds, Recordings):
        recordings = sum(len(takes) for takes in sounds.samples.values())
        source = {
            "sound": "recorded speech",
            "recordings": recordings,
            "recordings_sha256": sounds.digest,
            "wave_files_ignored": sounds.ignored,
        }
    speakers = {split: list(names) for split, names in sounds.speakers.items()}
    pictures = "sklearn.datasets.load_digits"
    made = {"recipe": "raymc digits 1", "config": settings, "pictures": pictures}
    return {**made, **source, "speakers": speakers}
