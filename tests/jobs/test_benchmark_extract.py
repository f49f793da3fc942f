"""The bare loop of `python -m jobs.bench extract`: it runs, with every model."""

from pathlib import Path

import pytest
from videos import write_video

from jobs.bench import extract


@pytest.mark.slow
def test_the_bare_loop_runs_every_model(tmp_path: Path) -> None:
    file = str(write_video(tmp_path / "a.mp4", seconds=2.0))
    assert extract.encode_bare(["pictures", "speech", "screen"], file) == pytest.approx(2, abs=0.2)
    loaders = (extract._picture_model, extract._listener, extract._reader, extract._sentence_model)
    assert all(loader.cache_info().currsize == 1 for loader in loaders)
    assert extract.decode_bare(file) == pytest.approx(2, abs=0.2)
