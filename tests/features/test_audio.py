import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from raymc.errors import DataError
from raymc.features.audio import LogMelConfig, log_mel_tokens, read_wav, resample


def slow_log_mel(samples: np.ndarray, config: LogMelConfig) -> np.ndarray:
    """The same tokens in float64, frame by frame and band by band."""
    hop, window = config.hop_samples, config.window_samples
    tokens = int(np.ceil(len(samples) / (hop * config.stack)))
    before = (window - hop) // 2
    padded = np.zeros(before + tokens * config.stack * hop + window)
    padded[before : before + len(samples)] = samples
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frequencies = np.arange(window // 2 + 1) * config.sample_rate_hz / window
    top_mel = 2595 * np.log10(1 + config.sample_rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top_mel, config.mels + 2) / 2595) - 1)
    frames = np.empty((tokens * config.stack, config.mels))
    for f in range(len(frames)):
        spectrum = np.fft.rfft(padded[f * hop : f * hop + window] * hann)
        power = np.abs(spectrum) ** 2 / np.sum(hann**2)
        for band in range(config.mels):
            low, middle, high = edges[band : band + 3]
            rising, falling = (
                (frequencies - low) / (middle - low),
                (high - frequencies) / (high - middle),
            )
            triangle = np.clip(np.minimum(rising, falling), 0, None)
            decibels = 10 * np.log10(max(triangle @ power, 10 ** (config.floor_db / 10)))
            frames[f, band] = (decibels - config.mean_db) / config.scale_db
    return frames.reshape(tokens, config.stack * config.mels)


@pytest.mark.parametrize(
    ("config", "samples"),
    [
        (LogMelConfig(sample_rate_hz=8000), 8000),
        (LogMelConfig(sample_rate_hz=8000, mean_db=-20, scale_db=6), 8001),
        (LogMelConfig(sample_rate_hz=8000), 1),
        (LogMelConfig(mels=24, hop_seconds=0.01, window_seconds=0.025, stack=1), 3210),
        (LogMelConfig(mels=20, hop_seconds=0.02, window_seconds=0.02, stack=5), 7000),
        (LogMelConfig(mels=20, hop_seconds=0.02, window_seconds=0.0331, stack=2), 5000),
    ],
)
def test_tokens_equal_a_slow_reference(config: LogMelConfig, samples: int) -> None:
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, samples).astype(np.float32)
    tokens = log_mel_tokens(torch.from_numpy(waveform), config.sample_rate_hz, config)
    assert tokens.shape == (-(-samples // config.token_samples), config.dim)
    np.testing.assert_allclose(tokens, slow_log_mel(waveform, config), atol=2e-3)


def test_no_samples_give_no_tokens() -> None:
    config = LogMelConfig()
    assert log_mel_tokens(torch.zeros(0), 16_000, config).shape == (0, config.dim)


def test_silence_is_the_floor() -> None:
    config = LogMelConfig(floor_db=-50, mean_db=-20, scale_db=10)
    tokens = log_mel_tokens(torch.zeros(16_000), 16_000, config)
    torch.testing.assert_close(tokens, torch.full((10, 160), -3.0))


def test_a_sound_is_in_the_tokens_of_its_time() -> None:
    config = LogMelConfig(sample_rate_hz=8000)
    waveform = torch.zeros(8000)
    waveform[4100:4700] = torch.sin(2 * torch.pi * 1000 * torch.arange(600) / 8000)
    loudest = log_mel_tokens(waveform, 8000, config).amax(dim=1)
    assert loudest.argmax() == 5
    assert loudest[5] > 0
    assert loudest[[0, 1, 2, 3, 7, 8, 9]].max() == -80


@pytest.mark.parametrize("from_hz", [8000, 22_050, 44_100])
def test_another_sample_rate_gives_the_same_tokens(from_hz: int) -> None:
    config = LogMelConfig(sample_rate_hz=16_000)

    def tokens(rate_hz: int) -> torch.Tensor:
        seconds = torch.arange(rate_hz, dtype=torch.float64) / rate_hz
        tones = sum(torch.sin(2 * torch.pi * f * seconds) for f in (300, 1100, 2500))
        return log_mel_tokens(torch.as_tensor(tones).float(), rate_hz, config)

    expected, found = tokens(16_000), tokens(from_hz)
    assert found.shape == expected.shape
    audible = expected[1:-1] > -20
    difference = (found - expected)[1:-1][audible].abs().max()
    assert difference < 0.5


def test_resample_removes_what_the_new_rate_cannot_hold() -> None:
    seconds = torch.arange(16_000) / 16_000
    low, high = torch.sin(2 * torch.pi * 500 * seconds), torch.sin(2 * torch.pi * 6500 * seconds)
    kept = resample(low + high, 16_000, 8000)
    expected = torch.sin(2 * torch.pi * 500 * torch.arange(8000) / 8000)
    torch.testing.assert_close(kept[100:-100], expected[100:-100], atol=0.02, rtol=0)


def write_wav(path: Path, values: np.ndarray, *, channels: int = 1, rate_hz: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, values.dtype.itemsize, rate_hz, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    return path


def test_read_wav_returns_the_samples(tmp_path: Path) -> None:
    values = np.array([0, 16384, -32768, 32767], dtype="<i2")
    samples, rate_hz = read_wav(write_wav(tmp_path / "a.wav", values, rate_hz=11_025))
    assert rate_hz == 11_025
    np.testing.assert_array_equal(samples, values / np.float32(32768))
    assert samples.dtype == np.float32


def test_read_wav_averages_channels(tmp_path: Path) -> None:
    values = np.array([[100, 300], [-200, 0]], dtype="<i2")
    samples, _ = read_wav(write_wav(tmp_path / "a.wav", values, channels=2))
    np.testing.assert_array_equal(samples * 32768, [200, -100])


def float_wav() -> bytes:
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 44, b"WAVE", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32
    )
    return header + struct.pack("<4sI", b"data", 8) + struct.pack("<2f", 0.5, -0.5)


def pcm_wav(tmp_path: Path, values: np.ndarray) -> bytes:
    return write_wav(tmp_path / "whole.wav", values).read_bytes()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no such file"),
        ("text", "not a PCM wave file .*expected 16-bit PCM"),
        ("empty", "not a PCM wave file .it ends too early"),
        ("float", "not a PCM wave file .unknown format: 3"),
        ("8 bit", "8-bit samples; expected 16-bit PCM"),
        ("32 bit", "32-bit samples; expected 16-bit PCM"),
        ("no samples", "0 bytes of sound where the header announces 0 samples"),
        ("cut short", "150 bytes of sound where the header announces 100 samples of 2 bytes"),
    ],
)
def test_read_wav_names_what_is_wrong(tmp_path: Path, case: str, message: str) -> None:
    contents = {
        "text": b"digit,speaker\n" * 10,
        "empty": b"",
        "float": float_wav(),
        "8 bit": pcm_wav(tmp_path, np.zeros(10, "u1")),
        "32 bit": pcm_wav(tmp_path, np.zeros(10, "<i4")),
        "no samples": pcm_wav(tmp_path, np.zeros(0, "<i2")),
        "cut short": pcm_wav(tmp_path, np.ones(100, "<i2"))[:-50],
    }
    file = tmp_path / "case.wav"
    if case in contents:
        file.write_bytes(contents[case])
    with pytest.raises(DataError, match=message) as raised:
        read_wav(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)
