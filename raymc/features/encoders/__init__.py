"""Encoders: frames, sound and texts to tokens, each found by its name.

An encoder is a plain object with `name`, `dim` (values a token), `rate_hz` (tokens a second),
`license` (of its weights) and `has_weights`, with `picture` (the frames it wants) or
`sample_rate_hz` (of the sound it wants), and with `encode`; those with weights also with `digest`
(of their files). `patches.py` is the shortest.
torch, transformers and torchaudio are imported only with the first encoder that needs them.

The functions here take `weights`, a folder that holds the model's files, instead of the hub
or the network, and `device`, where a model computes: cpu, cuda, cuda:0. They raise `ConfigError`
if no encoder has the name, or it can't work at that rate; `DataError` if files of weights are torn
or don't fit; `ResourceError` if weights, a package or a device are missing, with what to put where.

To add an encoder:
1. A file here with its class, whose `encode` returns float32 tokens [T, D] and depends on its
   input alone, so that the same file always gives the same features. Encoders with weights
   check the device and files with `weights.py`, or load a model of the hub with `hub.py`.
2. Below, a line in `visual_encoder`, `audio_encoder` or `text_encoder` that returns it by name.
3. `tests/features/encoders/test_FILE.py`: tokens against a slow computation, and each error.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from raymc.errors import ConfigError
from raymc.features.encoders import packaged
from raymc.features.encoders.patches import PatchEncoder
from raymc.features.encoders.words import HashedWords

if TYPE_CHECKING:
    from raymc.features.encoders import logmel, moonshine, screen, speech, text, vision

__all__ = ["audio_encoder", "reader_of_screen", "text_encoder", "transcriber", "visual_encoder"]


def visual_encoder(
    name: str, *, fps: float = 1.0, weights: str | None = None, device: str = "cpu"
) -> "PatchEncoder | vision.VisionTower":
    """Return the encoder of frames with this name, which will be given `fps` frames a second.

    `name` is `patches`, `efficientnet_lite0_grid`, `efficientnet_lite0`, or a vision model of
    Hugging Face's hub: openai/clip-vit-base-patch32.
    """
    _check_rate("fps", fps)
    if name == "patches":
        return PatchEncoder(rate_hz=fps)
    from raymc.features.encoders.efficientnet import efficientnet
    from raymc.features.encoders.hub import is_model_name
    from raymc.features.encoders.vision import vision_tower

    packed = (packaged.EFFICIENTNET_GRID, packaged.EFFICIENTNET)
    if name in packed:
        return efficientnet(name, fps=fps, device=device)
    if is_model_name(name, weights):
        return vision_tower(name, fps=fps, weights=weights, device=device)
    known = ["patches", *packed]
    raise _unknown("visual encoder", name, known, "openai/clip-vit-base-patch32")


def audio_encoder(
    name: str, *, rate_hz: float = 10.0, weights: str | None = None, device: str = "cpu"
) -> "logmel.LogMelEncoder | speech.SpeechEncoder":
    """Return the encoder of sound with this name, which makes `rate_hz` tokens a second.

    `name` is `logmel`, `moonshine`, or a speech model of torchaudio.pipelines, as in WAV2VEC2_BASE.
    """
    if name == "logmel":
        from raymc.features.encoders.logmel import LogMelEncoder

        return LogMelEncoder(rate_hz=rate_hz)
    if name == packaged.MOONSHINE:
        from raymc.features.encoders.moonshine import moonshine_encoder

        return moonshine_encoder(rate_hz=rate_hz)
    from raymc.features.encoders.speech import bundle_names, speech_encoder

    names = bundle_names()
    if name in names:
        return speech_encoder(name, rate_hz=rate_hz, weights=weights, device=device)
    raise _unknown("audio encoder", name, ["logmel", packaged.MOONSHINE, *names])


def text_encoder(
    name: str, *, rate_hz: float = 1.0, weights: str | None = None, device: str = "cpu"
) -> "HashedWords | text.TextTower":
    """Return the encoder of texts with this name, which will be given `rate_hz` texts a second.

    `name` is `words`, `minilm`, or a text model of Hugging Face's hub:
    google-bert/bert-base-uncased.
    """
    _check_rate("rate_hz", rate_hz)
    if name == "words":
        return HashedWords(rate_hz=rate_hz)
    from raymc.features.encoders.hub import is_model_name
    from raymc.features.encoders.text import text_tower

    if name == packaged.MINILM:
        folder = packaged.weights_folder(name, "model")
        return text_tower(name, rate_hz=rate_hz, device=device, folder=folder)
    if is_model_name(name, weights):
        return text_tower(name, rate_hz=rate_hz, weights=weights, device=device)
    known = ["words", packaged.MINILM]
    raise _unknown("text encoder", name, known, "sentence-transformers/all-MiniLM-L6-v2")


def transcriber(
    name: str, *, weights: str | None = None, device: str = "cpu"
) -> "speech.Transcriber | moonshine.MoonshineTranscriber":
    """Return the transcriber with this name.

    `name` is `moonshine`, or an ASR model of torchaudio.pipelines, as in WAV2VEC2_ASR_BASE_960H.
    """
    if name == packaged.MOONSHINE:
        from raymc.features.encoders.moonshine import moonshine

        return moonshine()
    from raymc.features.encoders.speech import bundle_names, transcriber_of

    names = bundle_names(recognises=True)
    if name in names:
        return transcriber_of(name, weights=weights, device=device)
    raise _unknown("transcriber", name, [packaged.MOONSHINE, *names])


def reader_of_screen(name: str, *, fps: float = 1.0) -> "screen.ScreenReader":
    """Return the reader of words on the screen with this name, given `fps` frames a second.

    `name` is `rapidocr`.
    """
    _check_rate("fps", fps)
    if name == packaged.RAPIDOCR:
        from raymc.features.encoders.screen import screen_reader

        return screen_reader(fps=fps)
    raise _unknown("reader of the screen", name, [packaged.RAPIDOCR])


def _check_rate(key: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{key} is {value}; expected a number above 0")


def _unknown(kind: str, name: str, known: Iterable[str], example: str = "") -> ConfigError:
    # ignore case: torchaudio's names are in capitals, others are not
    names = {each.casefold(): each for each in known}
    nearest = get_close_matches(name.casefold(), names, n=1, cutoff=0.6)
    if nearest:
        return ConfigError(f"unknown {kind} '{name}'; did you mean {names[nearest[0]]}?")
    models = f", and models of Hugging Face's hub, as in {example}" if example else ""
    return ConfigError(f"unknown {kind} '{name}'; known are {', '.join(names.values())}{models}")
