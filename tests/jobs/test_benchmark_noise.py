"""Noise in the sound of a benchmark: as loud as was asked, drawn by clip, from its own split."""

from pathlib import Path

import av
import numpy as np
import pytest

from jobs.bench.noise import FEATURES, babble, make_noisy, mix, read_waveform
from raymc.errors import DataError

RATE = FEATURES.sample_rate_hz
SPLITS = np.array([0] * 8 + [1] * 3)


def write_flac(path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven clips of a second; a clip's sound is a tone of its own."""
    folder = tmp_path_factory.mktemp("grid")
    generator = np.random.default_rng(0)
    names = [f"clip{number}" for number in range(len(SPLITS))]
    times = np.arange(RATE) / RATE
    for number, name in enumerate(names):
        tone = np.sin(2 * np.pi * (200 + 100 * number) * times)
        hiss = generator.normal(scale=0.01, size=RATE)  # no band shall be silent throughout
        write_flac(folder / f"{name}.flac", (8000 * (tone + hiss)).astype(np.int16))
    np.savez(
        folder / "grid.npz",
        audio=np.zeros((len(names), 25, 80), np.float16),
        video=generator.normal(size=(len(names), 25, 3)).astype(np.float16),
        y=np.eye(len(names), 4, dtype=np.uint8),
        split=SPLITS,
        names=np.array(names),
    )
    return folder


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 12.5])
def test_noise_is_as_loud_as_was_asked(snr_db: float) -> None:
    generator = np.random.default_rng(0)
    speech = generator.normal(scale=0.1, size=5000).astype(np.float32)
    noise = generator.normal(scale=3.0, size=5000)
    added = mix(speech, noise, snr_db) - speech
    found = 10 * np.log10(np.mean(speech.astype(float) ** 2) / np.mean(added.astype(float) ** 2))
    assert found == pytest.approx(snr_db, abs=1e-3)
    assert np.corrcoef(added, noise)[0, 1] == pytest.approx(1.0)


def test_no_noise_is_the_speech_itself() -> None:
    speech = np.linspace(-1, 1, 100, dtype=np.float32)
    assert np.array_equal(mix(speech, np.ones(100), np.inf), speech)


def test_all_voices_of_a_babble_are_alike_loud() -> None:
    times = np.arange(RATE) / RATE
    voices = [
        (gain * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
        for gain, hertz in ((1.0, 300), (0.01, 500))
    ]
    spectrum = np.abs(np.fft.rfft(babble(voices, RATE, np.random.default_rng(0))))
    assert spectrum[300] == pytest.approx(spectrum[500], rel=1e-3)
    assert np.sort(spectrum)[-3] < 0.01 * spectrum[300]


def test_the_file_keeps_all_but_its_sound_and_halves_the_rate(grid: Path, tmp_path: Path) -> None:
    make_noisy(grid / "grid.npz", grid, tmp_path / "noisy.npz", snr_db=0.0)
    before, after = np.load(grid / "grid.npz"), np.load(tmp_path / "noisy.npz")
    assert sorted(before.files) == sorted(after.files)
    for name in ("y", "split", "names"):
        assert np.array_equal(before[name], after[name])
    assert np.array_equal(after["video"][3, 5], before["video"][3, 10:12].ravel())
    audio = after["audio"].astype(np.float64)
    assert audio.shape == (len(SPLITS), 12, FEATURES.dim)
    heard = audio[SPLITS == 0].reshape(-1, FEATURES.dim)
    np.testing.assert_allclose(heard.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(heard.std(axis=0), 1, atol=0.01)
    make_noisy(grid / "grid.npz", grid, tmp_path / "again.npz", snr_db=0.0)
    assert np.array_equal(np.load(tmp_path / "again.npz")["audio"], after["audio"])


def test_a_clip_is_drowned_in_voices_of_its_own_split(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed: list[np.ndarray] = []

    def keep(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
        mixed.append(noise)
        return mix(speech, noise, snr_db)

    monkeypatch.setattr("jobs.bench.noise.mix", keep)
    make_noisy(grid / "grid.npz", grid, tmp_path / "noisy.npz", snr_db=0.0)
    for clip, noise in enumerate(mixed):
        spectrum = np.abs(np.fft.rfft(noise))
        heard = {k for k in range(len(SPLITS)) if spectrum[200 + 100 * k] > 0.1 * spectrum.max()}
        allowed = set(np.flatnonzero(SPLITS[clip] == SPLITS)) - {clip}
        assert heard <= allowed
        assert len(heard) == min(6, len(allowed))


def test_what_is_missing_is_named(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.flac: its sound can't be read"):
        read_waveform(grid / "missing.flac")
    with pytest.raises(DataError, match=r"none\.npz can.t be read as \.npz"):
        make_noisy(tmp_path / "none.npz", grid, tmp_path / "x.npz", snr_db=0.0)
    assert not (tmp_path / "x.npz").exists()
