"""Three small videos, and the dataset that `raymc extract` makes of them, without Ray."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from videos import write_video

from raymc.config import ExtractConfig
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Row, open_dataset, write_dataset
from raymc.features.extraction import EncodedClip, extract_files, make_encoders, plan_extraction
from raymc.features.recipe import MADE_BY
from raymc.features.sources import list_sources

EXTRACT = ExtractConfig(fps=2, window_seconds=1, visual="patches", audio="logmel")


def write_videos(folder: Path) -> Path:
    """Three videos of two clips each, the second of which is no video."""
    for place in (1, 3):
        write_video(folder / f"{place}.mp4", seed=place)
    (folder / "2.mp4").write_bytes(b"no video")
    return folder


def dataset_of(videos: Path, path: Path) -> Dataset:
    """The clips with the labels a and b in turn, in train and again in val."""
    plan, sources = plan_extraction(EXTRACT), list_sources(str(videos))
    rows = []
    encoders = make_encoders(plan.config, plan.light)
    for _, item in extract_files(list(enumerate(sources)), plan, encoders):
        if isinstance(item, EncodedClip):
            tokens = {
                one.name: np.frombuffer(item.tokens[one.name] or b"", one.dtype).reshape(
                    -1, one.dim
                )
                for one in plan.modalities
            }
            rows.append(Row(id=item.id, labels=["ab"[len(rows) % 2]], tokens=tokens))
    write_dataset(
        str(path),
        {"train": rows, "val": [replace(row, id=f"{row.id}-val") for row in rows]},
        vocabulary=Vocabulary(("a", "b")),
        modalities=plan.modalities,
        provenance={"made_by": MADE_BY, **asdict(EXTRACT)},
    )
    return open_dataset(str(path))
