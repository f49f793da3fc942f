import wave
from pathlib import Path

import numpy as np
import pytest

from raymc.config import DigitsConfig
from raymc.errors import DataError
from raymc.formats.digit_sounds import (
    KEYPAD_HZ,
    SAMPLE_RATE_HZ,
    SPLITS,
    coloured_noise,
    draw_tones,
    load_recordings,
)
from raymc.formats.digits import digits, draw_timeline


@pytest.fixture
def speech_folder(tmp_path: Path) -> Path:
    """Six speakers, two recordings of each digit; a speaker is a pitch, a digit a rhythm."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for number, speaker in enumerate(["ann", "bob", "cy", "dee", "eve_2", "fay"]):
        for digit in range(10):
            for take in range(2):
                write_voice(folder / f"{digit}_{speaker}_{take}.wav", 200 + 60 * number, digit)
    return folder


def write_voice(file: Path, pitch_hz: int, digit: int, *, rate_hz: int = 8000) -> None:
    seconds = np.arange(round(0.3 * rate_hz)) / rate_hz
    voice = np.sin(2 * np.pi * pitch_hz * seconds) * np.sin(np.pi * (digit + 1) * seconds / 0.3)
    with wave.open(str(file), "wb") as stream:
        stream.setparams((1, 2, rate_hz, 0, "NONE", ""))
        stream.writeframes((voice * 8000).astype("<i2").tobytes())


def test_lines_differ_and_depend_on_the_seed() -> None:
    tones = draw_tones(0)
    assert [len(tones.speakers[split]) for split in SPLITS] == [16, 4, 4]
    assert len({*tones.lines.values(), *draw_tones(1).lines.values()}) == 48
    assert draw_tones(0) == tones


def test_tones_are_the_pairs_of_q23() -> None:
    tones = draw_tones(0)
    rng = np.random.default_rng(0)
    for digit, pair in KEYPAD_HZ.items():
        for speaker, line in tones.lines.items():
            samples = tones.sound(speaker, digit, rng)
            assert 0.2 <= len(samples) / SAMPLE_RATE_HZ <= 0.4
            spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 16))
            frequencies = np.fft.rfftfreq(1 << 16, 1 / SAMPLE_RATE_HZ)
            low_band, high_band = frequencies < 1060, frequencies > 1060
            low = frequencies[low_band][spectrum[low_band].argmax()]
            high = frequencies[high_band][spectrum[high_band].argmax()]
            assert abs(low / pair[0] - 1) < 0.0155
            assert abs(high / pair[1] - 1) < 0.0155
            twist_db = 20 * np.log10(spectrum[high_band].max() / spectrum[low_band].max())
            assert twist_db == pytest.approx(line.twist_db, abs=0.3)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_noise_has_its_colour(slope: float) -> None:
    noise = coloured_noise(1 << 16, slope, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    bands = [2**k for k in range(6, 15)]
    mean_power = [power[low : 2 * low].mean() for low in bands]
    found, _ = np.polyfit(np.log(bands), np.log(mean_power), 1)
    assert found == pytest.approx(-slope, abs=0.05)
    assert np.mean(noise**2) == pytest.approx(1, abs=1e-3)


def test_speech_parts_speakers_and_places_their_recordings(speech_folder: Path) -> None:
    (speech_folder / "notes.wav").write_bytes(b"of another name")
    config = DigitsConfig(train_clips=40, val_clips=10, test_clips=10, speech=str(speech_folder))
    recipe = digits(config)
    speakers = {
        split: {row.extra["speaker"] for row in rows} for split, rows in recipe.splits.items()
    }
    assert speakers == {"train": {"ann", "bob", "cy", "dee"}, "val": {"eve_2"}, "test": {"fay"}}
    assert recipe.provenance["recordings"] == 120
    assert recipe.provenance["wave_files_ignored"] == 1
    assert str(speech_folder) not in repr(recipe.provenance)
    assert "CC BY-SA 4.0" in recipe.license
    sounds = load_recordings(str(speech_folder))
    seconds = np.arange(2400) / 8000
    for seed in range(10):
        timeline = draw_timeline(config, "val", sounds, np.random.default_rng(seed))
        for event in timeline.heard:
            rhythm = np.sin(np.pi * (event.digit + 1) * seconds / 0.3)
            expected = np.sin(2 * np.pi * (200 + 60 * 4) * seconds) * rhythm
            assert np.corrcoef(event.content, expected)[0, 1] > 0.98


def test_speech_of_other_rates_is_resampled(speech_folder: Path) -> None:
    before = load_recordings(str(speech_folder))
    write_voice(speech_folder / "3_ann_0.wav", 200, 3, rate_hz=16_000)
    after = load_recordings(str(speech_folder))
    found, expected = after.samples["ann", 3][0], before.samples["ann", 3][0]
    assert len(found) == len(expected)
    assert np.corrcoef(found, expected)[0, 1] > 0.999
    assert after.digest != before.digest


def test_long_recordings_are_cut(speech_folder: Path) -> None:
    with wave.open(str(speech_folder / "0_ann_2.wav"), "wb") as stream:
        stream.setparams((1, 2, 8000, 0, "NONE", ""))
        stream.writeframes(np.full(3 * 8000, 1000, "<i2").tobytes())
    assert len(load_recordings(str(speech_folder)).samples["ann", 0][2]) == 0.8 * 8000


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "speech: no folder .*files named {digit}_{speaker}_{n}.wav"),
        ("empty", "of 0 speakers .none.; expected at least 3"),
        ("other names", "of 0 speakers .none.; expected at least 3"),
        ("two speakers", "of 2 speakers .ann, bob.; expected at least 3"),
        ("no 4 and 7", "no recording of 4, 7 by 'cy'; add them, or move"),
        ("8 bit", "5_cy_0.wav: 8-bit samples; expected 16-bit PCM"),
        ("text", "5_cy_0.wav: not a PCM wave file"),
        ("silent", "5_cy_0.wav: its first 0.8 s are silent"),
    ],
)
def test_a_speech_folder_that_cannot_be_used(speech_folder: Path, case: str, message: str) -> None:
    file = speech_folder / "5_cy_0.wav"
    doomed = {"empty": "*", "other names": "*", "two speakers": "*_[c-f]*"}.get(case)
    for path in speech_folder.glob(doomed) if doomed else []:
        path.unlink()
    if case == "missing":
        speech_folder = speech_folder / "nowhere"
    elif case == "other names":
        (speech_folder / "five.wav").write_bytes(b"")
    elif case == "no 4 and 7":
        for path in speech_folder.glob("[47]_cy_*"):
            path.unlink()
    elif case == "text":
        file.write_text("not a sound")
    elif case in ("8 bit", "silent"):
        with wave.open(str(file), "wb") as stream:
            stream.setparams((1, 1 if case == "8 bit" else 2, 8000, 0, "NONE", ""))
            stream.writeframes(bytes(2000))
    with pytest.raises(DataError, match=message) as raised:
        digits(DigitsConfig(speech=str(speech_folder)))
    assert str(speech_folder) in str(raised.value)
    assert "\n" not in str(raised.value)
