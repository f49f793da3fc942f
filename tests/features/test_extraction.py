"""One file to rows: what encoders see, what is missing, and what is said about it."""

import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymc.config import ExtractConfig
from raymc.errors import ConfigError
from raymc.features.clips import ClipRequest, Failure
from raymc.features.encoders import audio_encoder, text_encoder, visual_encoder
from raymc.features.extraction import (
    EncodedClip,
    Encoders,
    encode,
    extract_source,
    make_encoders,
    plan_extraction,
)
from raymc.features.media import read_clips
from raymc.features.sources import Source
from raymc.features.transcripts import parse_timed, texts_by_interval

VTT = """WEBVTT

00:00.000 --> 00:01.000
one two

00:02.500 --> 00:03.500
three four
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Four seconds of a tone, and text beside it."""
    path = tmp_path_factory.mktemp("media") / "talk.wav"
    samples = np.sin(np.arange(4 * 8000) / 8) * 9000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())
    path.with_suffix(".vtt").write_text(VTT)
    return Source(path=str(path), id="talk")


def config(**changes: Any) -> ExtractConfig:
    return replace(ExtractConfig(visual="none", text="words", text_interval_seconds=1), **changes)


def extracted(source: Source, settings: ExtractConfig) -> list[EncodedClip | Failure]:
    plan = plan_extraction(settings)
    return list(extract_source(source, plan, make_encoders(settings, plan.light)))


def stored(tokens: np.ndarray) -> bytes:
    return tokens.astype("<f2").tobytes()


def test_encoders_see_what_was_decoded(sound: Source) -> None:
    (found,) = extracted(sound, config())
    assert isinstance(found, EncodedClip)
    assert (found.id, found.start_seconds, found.end_seconds) == ("talk", 0.0, 4.0)
    assert not found.failures
    assert not found.waiting
    request = ClipRequest(picture=None, sample_rate_hz=16_000)
    (clip,) = read_clips(sound, request)
    assert not isinstance(clip, Failure)
    assert clip.waveform is not None
    cues, _ = parse_timed(VTT)
    texts = texts_by_interval(cues, 0.0, 4.0, 1.0)
    assert texts == ["one two", "", "three", "four"]
    assert found.tokens == {
        "audio": stored(audio_encoder("logmel").encode(clip.waveform)),
        "text": stored(text_encoder("words", rate_hz=1.0).encode(texts)),
    }


def test_modalities_say_what_the_bytes_mean() -> None:
    plan = plan_extraction(config(visual="patches", fps=2.0, dtype="float32"))
    described = {m.name: (m.dim, m.rate_hz, m.dtype, m.encoder) for m in plan.modalities}
    assert described == {
        "visual": (640, 2.0, "float32", "patches (no weights)"),
        "audio": (160, 10.0, "float32", "logmel (no weights)"),
        "text": (512, 1.0, "float32", "words (no weights)"),
    }
    assert plan.light == {"visual", "audio", "text"}


def test_frames_that_show_nothing_new_repeat_a_token() -> None:
    settings = config(visual="patches", audio="none", text="none", frames="changed", fps=2.0)
    frames = np.random.default_rng(0).integers(0, 240, (1, 24, 24, 3), np.uint8).repeat(5, axis=0)
    frames[1:] += 8  # noise of a codec
    frames[2:] += 8  # which adds up
    frames[4, :6, :6] = 255
    waiting = EncodedClip(
        id="a", start_seconds=0.0, end_seconds=2.5, tokens={}, waiting={"visual": frames}
    )
    found = encode(waiting, "a.mp4", plan_extraction(settings), make_encoders(settings))
    encoder = visual_encoder("patches", fps=2.0)
    assert found.tokens["visual"] == stored(encoder.encode(frames[[0, 0, 2, 2, 4]]))


def test_sound_has_as_many_tokens_as_asked_for(sound: Source) -> None:
    settings = config(text="none", audio_rate_hz=2.5)
    assert [m.rate_hz for m in plan_extraction(settings).modalities] == [2.5]
    (found,) = extracted(sound, settings)
    assert isinstance(found, EncodedClip)
    (clip,) = read_clips(sound, ClipRequest(picture=None, sample_rate_hz=16_000))
    assert not isinstance(clip, Failure)
    assert clip.waveform is not None
    expected = audio_encoder("logmel", rate_hz=2.5).encode(clip.waveform)
    assert expected.shape == (10, 640)
    assert found.tokens == {"audio": stored(expected)}


def test_windows_have_their_own_words(sound: Source) -> None:
    found = extracted(sound, config(audio="none", window_seconds=2.0))
    assert [item.id for item in found] == ["talk@0-2", "talk@2-4"]
    encoder = text_encoder("words", rate_hz=1.0)
    for item, texts in zip(found, (["one two", ""], ["three", "four"])):
        assert isinstance(item, EncodedClip)
        assert item.tokens == {"text": stored(encoder.encode(texts))}


def test_what_the_encoder_wants_is_not_there(sound: Source, tmp_path: Path) -> None:
    silent = replace(sound, path=str(tmp_path / "copy.wav"))
    Path(silent.path).write_bytes(Path(sound.path).read_bytes())
    (found,) = extracted(silent, config(visual="patches"))
    assert isinstance(found, EncodedClip)
    assert found.tokens["visual"] is None
    assert found.tokens["text"] is None  # nobody wrote any: nothing failed
    assert found.tokens["audio"] is not None
    assert [failure.stage for failure in found.failures] == ["video"]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("copy.txt", "some words", "has no times to cut it by; give a .vtt or .srt"),
        ("copy.srt", VTT + "\n00:09 --> 00:08\nfive\n", "1 cues have a timing that can't be"),
        ("copy.vtt", "RIFF\0\0", "not a text; expected WebVTT"),
    ],
)
def test_trouble_with_the_text_is_told_once(
    sound: Source, tmp_path: Path, name: str, text: str, error: str
) -> None:
    copied = replace(sound, path=str(tmp_path / "copy.wav"))
    Path(copied.path).write_bytes(Path(sound.path).read_bytes())
    (tmp_path / name).write_text(text)
    items = extracted(copied, config(window_seconds=2.0))
    failures = [f for item in items if isinstance(item, EncodedClip) for f in item.failures]
    assert len(items) == 2
    assert [failure.stage for failure in failures] == ["text"]
    assert error in failures[0].error


def test_a_file_that_is_no_video_is_a_failure_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    (found,) = extracted(Source(path=str(path), id="notes"), config())
    assert isinstance(found, Failure)
    assert (found.path, found.id, found.stage) == (str(path), "notes", "open")


class Breaking:
    """An encoder that can't encode."""

    def __init__(self, error: Callable[[], Exception | np.ndarray]) -> None:
        self.error = error

    def encode(self, seen: Any) -> np.ndarray:
        found = self.error()
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (lambda: RuntimeError("kernel size\n can't be greater"), "kernel size can't be greater"),
        (lambda: np.full((3, 160), np.nan, np.float32), "NaN or Inf among the tokens"),
        (lambda: np.zeros((3, 7), np.float32), "expected [tokens, 160]"),
    ],
)
def test_what_an_encoder_refuses_is_missing(outcome: Any, error: str) -> None:
    plan = plan_extraction(config(text="none"))
    waiting = {"audio": np.zeros(16, np.float32)}
    extract = EncodedClip(id="a", start_seconds=0.0, end_seconds=1.0, tokens={}, waiting=waiting)
    found = encode(extract, "a.mp4", plan, Encoders({"audio": Breaking(outcome)}))
    assert found.tokens == {"audio": None}
    (failure,) = found.failures
    assert (failure.path, failure.id, failure.stage) == ("a.mp4", "a", "encode audio")
    assert error in failure.error


def test_a_gpu_that_is_full_is_no_fault_of_the_file() -> None:
    plan = plan_extraction(config(text="none"))
    waiting = {"audio": np.zeros(16, np.float32)}
    extract = EncodedClip(id="a", start_seconds=0.0, end_seconds=1.0, tokens={}, waiting=waiting)
    full = Encoders({"audio": Breaking(lambda: torch.OutOfMemoryError("full"))})
    with pytest.raises(torch.OutOfMemoryError):
        encode(extract, "a.mp4", plan, full)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": "none", "text": "none"}, "are all none; name an encoder"),
        ({"audio": "logmell"}, "did you mean logmel"),
        ({"visual": "patch"}, "did you mean patches"),
        ({"transcript": "WAV2VEC2"}, "unknown transcriber 'WAV2VEC2'"),
    ],
)
def test_settings_that_name_nothing_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_extraction(config(**changes))


def test_pictures_are_those_of_the_encoder() -> None:
    plan = plan_extraction(config(visual="patches"))
    assert plan.request.picture == visual_encoder("patches").picture
    assert plan_extraction(config(audio="none")).request.picture is None
