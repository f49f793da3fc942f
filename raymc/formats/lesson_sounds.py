"""Sounds of the lessons: sentences said by eSpeak NG, and music under them.

eSpeak NG comes in a package (`espeakng-loader`, of the extra `lessons`; GPL-3.0, called as a
library). One process has one synthesiser, whose settings are set again before each sentence.

Axes: S samples.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from raymc.errors import ResourceError

# of eSpeak's speak_lib.h
_SYNCHRONOUS, _UTF8, _PHONEMES = 2, 1, 0x100
_RATE, _PITCH, _RANGE = 1, 3, 4


@dataclass(frozen=True)
class Voice:
    """A voice of eSpeak NG: its name (a language and a variant), and how it speaks."""

    name: str
    words_a_minute: int = 150
    pitch: int = 50


@lru_cache(maxsize=4096)
def say(text: str, voice: Voice) -> Float32[np.ndarray, " S"]:
    """Return a sentence as a wave form in [-1, 1], at `RATE_HZ`; the same for the same arguments.

    Phonemes stand in double brackets: `B says [[b@]].`

    Raises:
        ResourceError: The package is not installed, or has no such voice.
    """
    library, chunks, _ = _synthesiser()
    chunks.clear()
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ResourceError(f"eSpeak NG has no voice {voice.name}; install espeakng-loader again")
    for parameter, value in ((_RATE, voice.words_a_minute), (_PITCH, voice.pitch), (_RANGE, 50)):
        library.espeak_SetParameter(parameter, value, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _PHONEMES, None, None)
    library.espeak_Synchronize()
    spoken = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return spoken.astype(np.float32) / np.float32(32768)


RATE_HZ = 22_050


@lru_cache(maxsize=1)
def _synthesiser() -> tuple[Any, list[np.ndarray], Any]:
    """Return the library, the list to which it adds what it says, and the function that does it."""
    try:
        import espeakng_loader
    except ModuleNotFoundError as error:
        raise ResourceError(
            "the lessons are spoken by espeakng-loader, which is not installed: "
            "pip install 'raymc[lessons]'"
        ) from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(
        _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0
    )
    if rate_hz != RATE_HZ:
        raise ResourceError(f"eSpeak NG speaks at {rate_hz} Hz; expected {RATE_HZ} Hz")
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples: Any, count: int, _: Any) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    return library, chunks, take  # which must live as long as the library calls it


def music(seconds: float, rng: np.random.Generator) -> Float32[np.ndarray, " S"]:
    """Return a slow arpeggio and some noise, at a mean power of about 1."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    scale = 220 * 2 ** (rng.choice([0, 2, 4, 7, 9, 12, 14], size=8) / 12)
    beat = rng.uniform(0.35, 0.7)
    place = (times / beat).astype(int)
    fade = np.exp(-3 * (times / beat - place))
    tone = np.sin(2 * np.pi * scale[place % len(scale)] * times) * fade
    noise = rng.normal(0, 0.3, len(times))
    return (2 * tone + noise).astype(np.float32)
