"""A finished or interrupted extraction is used again only for the same media, settings and code."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.config import ExtractConfig
from raymc.data.shards import FAILURES_FILE, Row, ShardStream
from raymc.errors import DataError
from raymc.features import on_ray
from raymc.features.extraction import plan_extraction
from raymc.features.on_ray import extract
from raymc.features.sources import extra_fields, list_media


def begun(folder: Path, *, finish: bool) -> tuple[ExtractConfig, Path]:
    """An extraction of two files and one that is missing, as `extract` leaves it."""
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(name.encode() * 9)
    table = folder / "videos.csv"
    table.write_text("path,labels\na.mp4,one\nb.mp4,two\nc.mp4,one\n")
    config = ExtractConfig(source=str(table), audio="none", shard_rows=2, split="none")
    plan, sources = plan_extraction(config), on_ray._by_split(list_media(config).sources)
    stream = ShardStream(
        str(folder / "out"),
        on_ray._manifest(plan, sources),
        extra_fields=extra_fields(sources),
    )
    on_ray._check_media(str(folder / "out"), stream, sources)
    tokens = {"visual": np.zeros((1, plan.modalities[0].dim), np.float16)}
    for source in sources[:2]:
        stream.add(Row(source.id, source.labels, tokens, extra={"path": source.path}))
    stream.flush("train", {"file": 2, "clips": 0, "failures": []})
    if finish:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([], on_ray._FAILURE_SCHEMA), sink)
        stream.write_beside(FAILURES_FILE, sink.getvalue())
        stream.finish()
    return config, folder / "out"


def again(config: ExtractConfig, out: Path) -> int:
    return extract(config, str(out), listener=lambda _: None).manifest.rows("train")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (
        lambda folder: (folder / "a.mp4").write_bytes(b"other"),
        r"^a media file has changed since .*/out was begun, such as .*/a.mp4: choose another",
    ),
    "two files": (
        lambda folder: [(folder / f"{name}.mp4").write_bytes(b"other") for name in "ab"],
        r"^2 media files have changed since .*/out was begun, such as .*/a.mp4: choose another",
    ),
    "a file that was missing": (
        lambda folder: (folder / "c.mp4").write_bytes(b"there"),
        r"^a media file has changed since .*/out was begun, such as .*/c.mp4: choose another",
    ),
    "labels": (
        lambda folder: (folder / "videos.csv").write_text(
            "path,labels\na.mp4,two\nb.mp4,one\nc.mp4,one\n"
        ),
        r"out holds another dataset: different provenance; choose another folder$",
    ),
}


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_media_are_refused(tmp_path: Path, name: str, finish: bool) -> None:
    config, out = begun(tmp_path, finish=finish)
    change, message = CHANGES[name]
    change(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        again(config, out)
    assert "\n" not in str(caught.value)


def test_other_settings_and_another_raymc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = begun(tmp_path, finish=True)
    assert again(replace(config, device="cpu", max_failures=0.05), out) == 2
    assert again(config, shutil.copytree(out, tmp_path / "copy")) == 2  # somebody else's copy
    (tmp_path / "a.mp4").unlink()  # media may be moved away once they are read
    assert again(config, out) == 2
    with pytest.raises(DataError, match=r"holds another dataset: different .*provenance"):
        again(replace(config, fps=2.0), out)
    monkeypatch.setattr(on_ray, "FEATURES", 2)
    with pytest.raises(DataError, match=r"/out was begun by a raymc that makes other features: ch"):
        again(config, out)
