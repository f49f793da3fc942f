from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import (
    asr_bundle,
    base_bundle,
    large_bundle,
    wavlm_bundle,
    write_weights,
)

from raymc.errors import ConfigError, DataError, ResourceError
from raymc.features.encoders import audio_encoder
from raymc.features.encoders import speech as bundles

NAMES = {
    "WAV2VEC2_BASE": base_bundle(),
    "WAV2VEC2_LARGE_LV60K": large_bundle(),
    "WAVLM_BASE": wavlm_bundle(),
    "WAV2VEC2_ASR_BASE_960H": asr_bundle(),
}


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the weights of four small bundles, which take the places of large ones."""
    import torchaudio.pipelines

    for name, bundle in NAMES.items():
        monkeypatch.setattr(torchaudio.pipelines, name, bundle)
        write_weights(tmp_path, bundle, extra_rows=3 if name.startswith("WAV2VEC2_ASR") else 0)
    return tmp_path


def library_frames(name: str, waveform: np.ndarray, weights: Path) -> np.ndarray:
    """The last layer as torchaudio's own loading and calling gives it."""
    model: Any = NAMES[name].get_model(dl_kwargs={"model_dir": str(weights)})
    samples = torch.from_numpy(waveform)[None]
    with torch.inference_mode():
        if name == "WAV2VEC2_LARGE_LV60K":  # its last norm is not among `extract_features`
            return model(samples)[0][0].numpy()
        return model.extract_features(samples)[0][-1][0].numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("samples", "rate_hz"), [(48_000, 10.0), (20_000, 7.5), (16_080, 50.0)])
def test_tokens_are_means_of_what_the_library_computes(
    weights: Path, name: str, samples: int, rate_hz: float
) -> None:
    encoder = audio_encoder(name, rate_hz=rate_hz, weights=str(weights))
    waveform = sound(samples)
    tokens = encoder.encode(waveform)
    frames = library_frames(name, waveform, weights)
    expected = []
    for token in range(int(np.ceil(samples / 16_000 * rate_hz))):
        inside = [x for f, x in enumerate(frames) if int((f + 0.5) / 50 * rate_hz) == token]
        expected.append(np.mean(inside, axis=0) if inside else frames[-1])
    assert tokens.dtype == np.float32
    assert tokens.shape == (len(expected), encoder.dim)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    assert frames.std(axis=0).mean() > 0.01


@pytest.mark.parametrize(("samples", "tokens"), [(0, 0), (1, 1), (399, 1), (1600, 1), (1601, 2)])
def test_short_sounds(weights: Path, samples: int, tokens: int) -> None:
    encoder = audio_encoder("WAV2VEC2_BASE", weights=str(weights))
    found = encoder.encode(sound(samples))
    assert found.shape == (tokens, 16)
    assert np.isfinite(found).all()


def test_the_same_sound_gives_the_same_tokens(weights: Path) -> None:
    encoder = audio_encoder("WAV2VEC2_BASE", weights=str(weights))
    first = encoder.encode(sound(30_000))
    encoder.encode(sound(50_000, seed=1))
    np.testing.assert_array_equal(encoder.encode(sound(30_000)), first)


def test_a_long_sound_is_cut_on_the_grid_of_frames(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundles.load_bundle("WAV2VEC2_BASE", weights=str(weights))
    waveform = sound(320 * 107 + 95)
    whole = model.features(waveform)
    monkeypatch.setattr(bundles, "_PIECE_FRAMES", 40)
    monkeypatch.setattr(bundles, "_CONTEXT_FRAMES", 10)
    pieces = model.features(waveform)
    assert pieces.shape == whole.shape == (107, 16)
    monkeypatch.setattr(bundles, "_PIECE_FRAMES", 1000)  # pieces by hand
    expected = [
        model.features(waveform[: 49 * 320 + 400])[:40],
        model.features(waveform[30 * 320 : 89 * 320 + 400])[10:50],
        model.features(waveform[70 * 320 : 106 * 320 + 400])[10:],
    ]
    np.testing.assert_allclose(pieces, np.concatenate(expected), atol=1e-6)


def test_what_it_says_of_itself(weights: Path) -> None:
    encoder = audio_encoder("WAV2VEC2_BASE", weights=str(weights))
    assert (encoder.name, encoder.rate_hz, encoder.dim) == ("WAV2VEC2_BASE", 10.0, 16)
    assert (encoder.sample_rate_hz, encoder.has_weights) == (16_000, True)
    known = encoder.digest()
    state = torch.load(weights / "small_base.pth", weights_only=True)
    torch.save({key: value + 1e-3 for key, value in state.items()}, weights / "small_base.pth")
    assert audio_encoder("WAV2VEC2_BASE", weights=str(weights)).digest() != known


def test_licences_are_those_that_torchaudio_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_find_file", lambda *_: tmp_path)
    monkeypatch.setattr(bundles, "_model", lambda _: torch.nn.Identity())
    monkeypatch.setattr(bundles, "_state", lambda *_: {})
    licenses = {name: bundles.load_bundle(name).license for name in bundles.bundle_names()}
    assert {name for name, license in licenses.items() if license != "MIT"} == {
        f"VOXPOPULI_ASR_BASE_10K_{language}" for language in ("DE", "EN", "ES", "FR", "IT")
    }
    assert licenses["VOXPOPULI_ASR_BASE_10K_EN"] == "CC BY-NC 4.0"


def test_safetensors_serve_as_well(weights: Path) -> None:
    from safetensors.torch import save_file

    expected = audio_encoder("WAV2VEC2_BASE", weights=str(weights)).encode(sound(9000))
    state = torch.load(weights / "small_base.pth", weights_only=True)
    save_file(state, weights / "small_base.safetensors")
    (weights / "small_base.pth").unlink()
    tokens = audio_encoder("WAV2VEC2_BASE", weights=str(weights)).encode(sound(9000))
    np.testing.assert_array_equal(tokens, expected)


def test_weights_in_the_cache_of_torch_are_taken(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = audio_encoder("WAV2VEC2_BASE", weights=str(weights)).encode(sound(9000))
    (weights / "checkpoints").mkdir()
    (weights / "small_base.pth").rename(weights / "checkpoints/small_base.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights))
    np.testing.assert_array_equal(audio_encoder("WAV2VEC2_BASE").encode(sound(9000)), expected)


def test_weights_are_fetched_to_the_cache_of_torch(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = audio_encoder("WAV2VEC2_BASE", weights=str(weights)).encode(sound(9000))
    monkeypatch.setattr(bundles, "_HOST", weights.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    np.testing.assert_array_equal(audio_encoder("WAV2VEC2_BASE").encode(sound(9000)), expected)
    assert (tmp_path / "cache/checkpoints/small_base.pth").is_file()


def test_without_a_network_it_says_what_to_put_where(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_HOST", "http://127.0.0.1:9/models/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights / "cache"))
    message = (
        r"http://127.0.0.1:9/models/small_base.pth can't be reached \(.*\); without the network, "
        r"put small_base.pth into a folder and set weights to it, or into .*cache/checkpoints"
    )
    with pytest.raises(ResourceError, match=message):
        audio_encoder("WAV2VEC2_BASE")


def test_a_refused_download_is_one_line(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_HOST", (weights / "nowhere").as_uri() + "/")
    monkeypatch.setattr(bundles, "check_reachable", lambda *_, **__: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights / "cache"))
    with pytest.raises(
        ResourceError, match=r"small_base.pth could not be fetched .*; try again, or"
    ):
        audio_encoder("WAV2VEC2_BASE")


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        state = torch.load(file, weights_only=True)
        torch.save(change(state), file)

    return spoil


class Foreign:
    """What a pickle may hide."""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:9000]), "damaged, or not only weights"),
        (lambda file: file.write_bytes(b""), "damaged, or not only weights"),
        (lambda file: file.write_text("<html>not found</html>"), "damaged, or not only weights"),
        (rewritten(lambda state: Foreign()), "damaged, or not only weights"),
        (rewritten(lambda state: [1, 2]), "not a table of weights"),
        (rewritten(lambda state: {"model": state}), "not a table of weights"),
        (rewritten(lambda state: {}), "weights of another model than WAV2VEC2_BASE"),
        (
            rewritten(lambda state: {**state, "extra": torch.zeros(1)}),
            "weights of another model than WAV2VEC2_BASE",
        ),
        (
            lambda file: write_weights(file.parent, large_bundle()).replace(file),
            "weights of another model than WAV2VEC2_BASE",
        ),
    ],
)
def test_a_file_that_is_torn_or_foreign(
    weights: Path, spoil: Callable[[Path], object], message: str
) -> None:
    file = weights / "small_base.pth"
    spoil(file)
    with pytest.raises(DataError, match=message) as raised:
        audio_encoder("WAV2VEC2_BASE", weights=str(weights))
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(weights: Path) -> None:
    (weights / "small_base.pth").unlink()
    message = (
        "no small_base.pth, the weights of WAV2VEC2_BASE; download https://download.pytorch.org/"
    )
    with pytest.raises(ResourceError, match=message):
        audio_encoder("WAV2VEC2_BASE", weights=str(weights))


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, 51.0, float("nan")])
def test_a_rate_beyond_the_frames_is_refused(weights: Path, rate_hz: float) -> None:
    with pytest.raises(
        ConfigError, match=r"WAV2VEC2_BASE can't make .*; expected above 0, at most 50"
    ):
        audio_encoder("WAV2VEC2_BASE", rate_hz=rate_hz, weights=str(weights))
