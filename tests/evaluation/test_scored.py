from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from score_tables import random_table

from raymc.data.labels import Vocabulary
from raymc.errors import DataError
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored


def some_scores() -> ScoredSplit:
    scores, labels, observed = random_table(0, 100)
    names = tuple(f"class {k}" for k in range(scores.shape[1]))
    return ScoredSplit(
        ids=tuple(f"clip-{row}" for row in range(len(scores))),
        scores=scores.astype(np.float32),
        labels=labels,
        observed=observed,
        vocabulary=Vocabulary(names, {"even": names[::2]}, names[1]),
        split="test",
        dataset_digest="abc",
    )


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    saved, path = some_scores(), tmp_path / "scores" / "test.parquet"
    save_scored(saved, path)
    loaded = load_scored(path)
    assert [p.name for p in path.parent.iterdir()] == ["test.parquet"]
    for name in ("scores", "labels", "observed"):
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype
        assert np.array_equal(getattr(loaded, name), getattr(saved, name))
    for name in ("ids", "vocabulary", "split", "dataset_digest"):
        assert getattr(loaded, name) == getattr(saved, name)


def test_a_split_without_rows_comes_back(tmp_path: Path) -> None:
    full = some_scores()
    nothing = {name: getattr(full, name)[:0] for name in ("ids", "scores", "labels", "observed")}
    save_scored(replace(full, **nothing), tmp_path / "test.parquet")
    assert load_scored(tmp_path / "test.parquet").scores.shape == (0, len(full.vocabulary))


def test_what_is_no_scores_is_named(tmp_path: Path) -> None:
    foreign, torn = tmp_path / "foreign.parquet", tmp_path / "torn.parquet"
    pq.write_table(pa.table({"id": ["a"]}), foreign)
    save_scored(some_scores(), torn)
    torn.write_bytes(torn.read_bytes()[:-100])
    for path in (foreign, torn, tmp_path / "missing.parquet"):
        with pytest.raises(DataError, match=rf"{path.name} does not hold scores of raymc"):
            load_scored(path)
