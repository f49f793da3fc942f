"""The long tail of made-up clips: how often labels occur, and what a clip is made of."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.bench.__main__ import bench
from jobs.bench.long_tail import (
    OFFSET,
    SCALE,
    TOKENS,
    LongTail,
    draw_centres,
    frequencies,
    long_tail,
)
from raymc.data.shards import open_dataset


@pytest.mark.slow
def test_labels_are_as_frequent_as_youtube_8m_s() -> None:
    shares = frequencies(3862)
    assert shares[0] == 0.2
    assert 1e-5 < shares[-1] < 1e-4
    assert 2.5 < shares[:300].sum() < shares.sum() < 3.5
    rows = long_tail(LongTail(clips=2000)).splits["train"]
    labels = [rows[i].labels for i in range(len(rows))]
    counts = np.bincount([int(name[-4:]) for one in labels for name in one], minlength=300)
    # Drawing without replacement takes a little from the most frequent.
    assert counts[:3] / 2000 == pytest.approx(shares[:3], rel=0.2)
    assert counts[200:].sum() / 2000 == pytest.approx(shares[200:300].sum(), rel=0.2)
    assert min(map(len, labels)) == 1


def test_a_clip_is_the_sum_of_what_shows() -> None:
    """Tokens of a clip are explained by the centres of its labels alone, up to noise."""
    config = LongTail(classes=20)
    rows, centres = long_tail(config).splits["train"], draw_centres(config)
    right = total = 0
    for i in range(40):
        row = rows[i]
        stored = np.asarray(row.tokens["visual"])
        assert stored.dtype == np.uint8
        assert TOKENS[0] <= len(stored) <= TOKENS[1]
        values = stored * SCALE + OFFSET
        # where a label shows, tokens differ from the clip's other tokens by its centre
        most = ((values - np.median(values, axis=0)) @ centres.T).max(axis=0)
        best = np.argsort(-most)[: len(row.labels)]
        right += len(set(best) & {int(name[-4:]) for name in row.labels})
        total += len(row.labels)
    assert right / total > 0.5  # 0.15 by chance


def test_the_command_writes_the_same_dataset_again(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        options = ["long-tail", str(tmp_path / name), "--classes", "12", "--clips", "8"]
        assert CliRunner().invoke(bench, options).exit_code == 0
        manifest = open_dataset(str(tmp_path / name)).manifest
        digests.append(manifest.digest())
    assert digests[0] == digests[1]
    assert [sum(s.rows for s in manifest.splits[split]) for split in ("train", "val", "test")] == [
        8,
        4,
        8,
    ]
