from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import asr_bundle, write_weights

from raymc.features.encoders import transcriber
from raymc.features.encoders.speech import greedy_words

LABELS = ("-", "|", "A", "B")


def slow_words(best: list[int]) -> list[tuple[float, float, str]]:
    """Greedy decoding frame by frame: a character counts where it differs from the frame before."""
    spelt: list[tuple[str, int, int]] = []
    for frame, number in enumerate(best):
        if number == 0:
            continue
        if frame and best[frame - 1] == number:
            letter, start, _ = spelt[-1]
            spelt[-1] = (letter, start, frame + 1)
        else:
            spelt.append((LABELS[number], frame, frame + 1))
    words: list[tuple[float, float, str]] = []
    letters: list[tuple[str, int, int]] = []
    for entry in [*spelt, ("|", 0, 0)]:
        if entry[0] != "|":
            letters.append(entry)
        elif letters:
            text = "".join(letter for letter, _, _ in letters).lower()
            words.append((letters[0][1] * 0.5, letters[-1][2] * 0.5, text))
            letters = []
    return words


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6])
def test_greedy_decoding_equals_a_slow_one(length: int) -> None:
    for best in product(range(4), repeat=length):
        found = greedy_words(np.array(best, np.int64), LABELS, 0.5)
        cues = [(cue.start_seconds, cue.end_seconds, cue.text) for cue in found]
        assert cues == slow_words(list(best)), best


def test_repeats_collapse_but_not_over_a_blank() -> None:
    best = [2, 2, 0, 2, 1, 1, 3, 0, 0, 3, 3, 0]
    found = [cue.text for cue in greedy_words(np.array(best), LABELS, 0.02)]
    assert found == ["aa", "bb"]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torchaudio.pipelines

    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_ASR_BASE_960H", asr_bundle())
    write_weights(tmp_path, asr_bundle(), extra_rows=3)
    return tmp_path


def test_words_are_those_of_the_librarys_logits(weights: Path) -> None:
    writer = transcriber("WAV2VEC2_ASR_BASE_960H", weights=str(weights))
    waveform = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    model: Any = asr_bundle().get_model(dl_kwargs={"model_dir": str(weights)})
    with torch.inference_mode():
        logits = model(torch.from_numpy(waveform)[None])[0][0]
    np.testing.assert_allclose(writer.model.logits(waveform), logits, atol=1e-5)
    expected = greedy_words(logits.argmax(1).numpy(), asr_bundle().get_labels(), 0.02)
    cues = writer.transcribe(waveform)
    assert cues == expected
    assert len(cues) > 1
    assert all(0 <= cue.start_seconds < cue.end_seconds <= 2.5 for cue in cues)


def test_what_it_says_of_itself(weights: Path) -> None:
    writer = transcriber("WAV2VEC2_ASR_BASE_960H", weights=str(weights))
    assert (writer.name, writer.sample_rate_hz) == ("WAV2VEC2_ASR_BASE_960H", 16_000)
    assert (writer.license, writer.has_weights) == ("MIT", True)
    assert writer.transcribe(np.zeros(0, np.float32)) == []
