"""Mean tokens are those of all tokens, or of a bounded sample, the same for all readers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counted_files import counted
from tiny import VOCABULARY

from raymc.data.shards import Dataset, Modality, Row, open_dataset, token_means, write_dataset
from raymc.data.shards import means as module

MODALITIES = (
    Modality("visual", 3, "float16"),
    Modality("text", 2, "uint8", scale=0.25, offset=-8.0),
    Modality("audio", 2, "float32"),
)


def make(folder: Path, *, rows: int, shard_rows: int) -> tuple[Dataset, dict[str, np.ndarray]]:
    """A dataset without any sound, and what all its tokens stand for, by modality."""
    generator = np.random.default_rng(0)
    made, seen = [], {"visual": [], "text": []}
    for i in range(rows):
        visual = generator.normal([5.0, 0.0, -100.0], size=(i % 4, 3)).astype(np.float16)
        text = generator.integers(0, 256, (2, 2), dtype=np.uint8)
        tokens = {"visual": visual if len(visual) else None, "text": text, "audio": None}
        made.append(Row(id=str(i), labels=["add"], tokens=tokens))
        seen["visual"].append(visual.astype(np.float64))
        seen["text"].append(text * 0.25 - 8.0)
    write_dataset(
        str(folder),
        {"train": made},
        vocabulary=VOCABULARY,
        modalities=MODALITIES,
        shard_rows=shard_rows,
    )
    return open_dataset(str(folder)), {name: np.concatenate(x) for name, x in seen.items()}


def test_all_tokens_of_few(tmp_path: Path) -> None:
    dataset, values = make(tmp_path, rows=41, shard_rows=10)
    found = token_means(dataset, "train")
    for name, expected in values.items():
        np.testing.assert_allclose(found[name], expected.mean(axis=0), rtol=1e-12)
    assert found["audio"] == [0.0, 0.0]
    without = replace(dataset, manifest=replace(dataset.manifest, modalities=MODALITIES[:1]))
    assert token_means(without, "train") == {"visual": found["visual"]}


def test_of_many_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS", 8 * 60)
    whole, values = make(tmp_path, rows=2000, shard_rows=100)
    dataset, read = counted(whole)
    found = token_means(dataset, "train")
    assert len(read) == module.SHARDS == 8
    numbers = sorted(int(Path(path).stem) for path in read)
    assert (numbers[0], numbers[-1]) == (0, 19)
    assert max(np.diff(numbers)) <= 3
    assert found == token_means(whole, "train")
    for name, expected in values.items():
        error = np.abs(found[name] - expected.mean(axis=0))
        assert (error < 5 * expected.std(axis=0) / np.sqrt(480)).all()
        assert error.all()  # not of all tokens
