"""The sounds of the embedded dataset: keypad tones on synthetic lines, or recorded speech.

Tones need no file, so the default dataset can be made anywhere; a folder of recordings turns the
same task into one of real speech.

Axes: S samples.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from raymc.errors import DataError
from raymc.features.audio import read_wav, resample

SAMPLE_RATE_HZ = 8000
SPLITS = ("train", "val", "test")
LONGEST_SECONDS = 0.8
KEYPAD_HZ = {
    0: (941, 1336),
    1: (697, 1209),
    2: (697, 1336),
    3: (697, 1477),
    4: (770, 1209),
    5: (770, 1336),
    6: (770, 1477),
    7: (852, 1209),
    8: (852, 1336),
    9: (852, 1477),
}
"""Low and high frequency of each digit's key (ITU-T Q.23, 1988)."""
_LINES = {"train": 16, "val": 4, "test": 4}
_RAMP_SECONDS = 0.01
_RECORDING_NAME = re.compile(r"([0-9])_(.+)_([0-9]+)\.wav")


@dataclass(frozen=True)
class Line:
    """A synthetic telephone line: how it alters the tones that are sent over it.

    Attributes:
        low_deviation: Relative error of the low frequency, within ±0.015.
        high_deviation: The same of the high frequency.
        twist_db: Level of the high tone over that of the low one.
        level_db: Level of the line relative to the others.
        noise_slope: Power of its noise falls as 1 / frequency to this; 0 is white, 1 is pink.
    """

    low_deviation: float
    high_deviation: float
    twist_db: float
    level_db: float
    noise_slope: float


@dataclass(frozen=True)
class Tones:
    """Keypad tones; a speaker is a line, and no line is in two splits."""

    speakers: Mapping[str, tuple[str, ...]]
    lines: Mapping[str, Line]

    def sound(
        self, speaker: str, digit: int, rng: np.random.Generator
    ) -> Float32[np.ndarray, " S"]:
        """The digit's two tones for 0.2 to 0.4 s, at a mean power of 1."""
        line = self.lines[speaker]
        seconds = np.arange(rng.integers(1600, 3201)) / SAMPLE_RATE_HZ
        phases = rng.uniform(0, 2 * np.pi, 2)
        low_hz, high_hz = KEYPAD_HZ[digit]
        low = np.sin(2 * np.pi * low_hz * (1 + line.low_deviation) * seconds + phases[0])
        high = np.sin(2 * np.pi * high_hz * (1 + line.high_deviation) * seconds + phases[1])
        return _unit_power(_faded(low + 10 ** (line.twist_db / 20) * high))

    def level_db(self, speaker: str) -> float:
        """How much louder than the others this line is."""
        return self.lines[speaker].level_db

    def noise_slope(self, speaker: str) -> float:
        """The colour of this line's noise."""
        return self.lines[speaker].noise_slope


@dataclass(frozen=True)
class Recordings:
    """Recorded digits by speaker and digit, at `SAMPLE_RATE_HZ`, at a mean power of 1.

    `digest` is the SHA-256 of all recordings and their names; `ignored` counts the wave files of
    the folder with other names. No speaker is in two splits.
    """

    speakers: Mapping[str, tuple[str, ...]]
    samples: Mapping[tuple[str, int], list[Float32[np.ndarray, " _"]]]
    digest: str
    ignored: int

    def sound(
        self, speaker: str, digit: int, rng: np.random.Generator
    ) -> Float32[np.ndarray, " S"]:
        """One of the speaker's recordings of the digit."""
        takes = self.samples[speaker, digit]
        return takes[rng.integers(len(takes))]

    def level_db(self, speaker: str) -> float:
        """0: recordings of all speakers are brought to the same power."""
        return 0.0

    def noise_slope(self, speaker: str) -> float:
        """1: pink, as the noise of a room is about."""
        return 1.0


Sounds = Tones | Recordings


def draw_tones(seed: int) -> Tones:
    """Lines for each split; every line differs from every other.

    Frequencies deviate by ±1.5 % at most, which receivers after ITU-T Q.24 (1988) still accept;
    twist lies between −4 and 4 dB, levels within ±6 dB.
    """
    names = {split: tuple(f"line-{split}-{j}" for j in range(_LINES[split])) for split in SPLITS}
    lines: dict[str, Line] = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        for name in names[split]:
            low, high = rng.uniform(-0.015, 0.015, 2)
            twist_db, level_db = rng.uniform(-4, 4), rng.uniform(-6, 6)
            lines[name] = Line(low, high, twist_db, level_db, noise_slope=rng.uniform(0, 1))
    return Tones(names, lines)


def load_recordings(folder: str) -> Recordings:
    """Read every `{digit}_{speaker}_{n}.wav` of a folder and part its speakers among the splits.

    In the order of their names the last sixth of the speakers (at least one) are for test, the
    sixth before for val. Recordings are cut to 0.8 s, so that they fit into a slot.

    Raises:
        DataError: No such folder, no file of such a name, a file that isn't 16-bit PCM, a
            silent one, fewer than three speakers, or a speaker without one of the digits.
    """
    if not Path(folder).is_dir():
        raise DataError(
            f"speech: no folder '{folder}'; give one with files named {{digit}}_{{speaker}}_{{n}}"
            ".wav, or leave `speech` empty for synthetic tones."
        )
    files = sorted(Path(folder).glob("*.wav"))
    matches = [match for file in files if (match := _RECORDING_NAME.fullmatch(file.name))]
    speakers = _part_speakers(folder, sorted({match[2] for match in matches}))
    samples: dict[tuple[str, int], list[Float32[np.ndarray, " _"]]] = {}
    digest = hashlib.sha256()
    for match in matches:
        recording = _read_recording(Path(folder) / match[0])
        samples.setdefault((match[2], int(match[1])), []).append(recording)
        digest.update(match[0].encode() + b"\0" + recording.tobytes())
    _check_digits(folder, sorted({match[2] for match in matches}), samples)
    return Recordings(speakers, samples, digest.hexdigest(), len(files) - len(matches))


def coloured_noise(
    samples: int, slope: float, rng: np.random.Generator
) -> Float32[np.ndarray, " samples"]:
    """Gaussian noise whose power falls as 1 / frequency^slope, at a mean power of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples, dtype=np.float32))
    steps = np.arange(len(spectrum), dtype=np.float32)
    spectrum[1:] *= steps[1:] ** np.float32(-slope / 2)
    spectrum[0] = 0
    return _unit_power(np.fft.irfft(spectrum, samples))


def _part_speakers(folder: str, names: list[str]) -> dict[str, tuple[str, ...]]:
    if len(names) < 3:
        raise DataError(
            f"speech: '{folder}' has files {{digit}}_{{speaker}}_{{n}}.wav of {len(names)} "
            f"speakers ({', '.join(names) or 'none'}); expected at least 3, one for each of "
            "train, val and test."
        )
    held_out = max(1, len(names) // 6)
    first_val, first_test = len(names) - 2 * held_out, len(names) - held_out
    return {
        "train": tuple(names[:first_val]),
        "val": tuple(names[first_val:first_test]),
        "test": tuple(names[first_test:]),
    }


def _read_recording(file: Path) -> Float32[np.ndarray, " S"]:
    samples, rate_hz = read_wav(file)
    if rate_hz != SAMPLE_RATE_HZ:
        samples = resample(torch.from_numpy(samples), rate_hz, SAMPLE_RATE_HZ).numpy()
    samples = samples[: round(LONGEST_SECONDS * SAMPLE_RATE_HZ)]
    if not np.any(samples):
        raise DataError(f"{file}: its first {LONGEST_SECONDS} s are silent; record it again.")
    return _unit_power(_faded(samples))


def _check_digits(
    folder: str,
    names: list[str],
    samples: Mapping[tuple[str, int], list[Float32[np.ndarray, " _"]]],
) -> None:
    for name in names:
        missing = [str(digit) for digit in range(10) if (name, digit) not in samples]
        if missing:
            raise DataError(
                f"speech: '{folder}' has no recording of {', '.join(missing)} by '{name}'; "
                "add them, or move that speaker's files elsewhere."
            )


def _faded(samples: np.ndarray) -> np.ndarray:
    """Fade in and out, so that neither end clicks."""
    length = min(round(_RAMP_SECONDS * SAMPLE_RATE_HZ), len(samples) // 2)
    faded = samples.copy()
    ramp = np.arange(length) / max(length, 1)
    faded[:length] *= ramp
    faded[len(faded) - length :] *= ramp[::-1]
    return faded


def _unit_power(samples: np.ndarray) -> Float32[np.ndarray, " S"]:
    return (samples / np.sqrt(np.mean(np.square(samples)))).astype(np.float32)
