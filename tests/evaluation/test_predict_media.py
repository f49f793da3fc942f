"""Videos are labelled as a dataset of their features would be, also after an interruption."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_dataset import contents
from tiny import bundle_here
from videos import write_video

from raymc.config import Config, ExtractConfig, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Row, open_dataset, write_dataset
from raymc.errors import BundleError
from raymc.evaluation import media
from raymc.evaluation.predict import predict_media, predict_split
from raymc.events import ExtractProgress
from raymc.features.extraction import (
    EncodedClip,
    extract_files,
    make_encoders,
    plan_extraction,
)
from raymc.features.recipe import MADE_BY
from raymc.features.sources import list_sources
from raymc.training.bundle import Bundle, load_bundle

EXTRACT = ExtractConfig(fps=2, window_seconds=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of two clips each, the second of which is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for place in (1, 3):
        write_video(folder / f"{place}.mp4", seed=place)
    (folder / "2.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def dataset(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """What `raymc extract` makes of the videos, without Ray."""
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
    path = str(tmp_path_factory.mktemp("data") / "dataset")
    write_dataset(
        path,
        {"train": rows, "val": [replace(row, id=f"{row.id}-val") for row in rows]},
        vocabulary=Vocabulary(("a", "b")),
        modalities=plan.modalities,
        provenance={"made_by": MADE_BY, **asdict(EXTRACT)},
    )
    return open_dataset(path)


@pytest.fixture(scope="module")
def bundle(
    dataset: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A model of the videos' features."""
    config = override(tiny_config, {"train.epochs": 1, "data.path": dataset.path})
    return load_bundle(bundle_here(dataset, config, tmp_path_factory.mktemp("trained")))


def test_videos_are_labelled_as_their_features(
    bundle: Bundle, dataset: Dataset, videos: Path, tmp_path: Path
) -> None:
    heard: list[ExtractProgress] = []
    found = predict_media(bundle, str(videos), tmp_path / "out", listener=heard.append)
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == ["1@0-1", "1@1-2", "2", "3@0-1", "3@1-2"]
    assert found.clips == 4
    (failure,) = found.failures
    assert failure.startswith(f"{videos / '2.mp4'}: ")
    assert table["labels"].is_null().to_pylist() == [False, False, True, False, False]
    assert [one.done_files for one in heard] == [1, 2, 3]
    predict_split(bundle, dataset, "train", tmp_path / "same")
    of_dataset = pq.read_table(tmp_path / "same")
    of_media = table.filter(table["error"].is_null())
    assert of_media["id"].equals(of_dataset["id"])
    assert of_media["labels"].equals(of_dataset["labels"])
    for name in ("score.a", "score.b", "probability.a"):
        np.testing.assert_allclose(of_media[name], of_dataset[name], rtol=0, atol=1e-6)


def test_an_interrupted_prediction_goes_on(
    bundle: Bundle, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "ROWS_AT_A_TIME", 1)  # a part for each file
    predict_media(bundle, str(videos), tmp_path / "whole")

    def interrupt(progress: ExtractProgress) -> None:
        if progress.done_files == 2:
            raise KeyboardInterrupt

    out, decoded = tmp_path / "out", list[str]()
    with pytest.raises(KeyboardInterrupt):
        predict_media(bundle, str(videos), out, listener=interrupt)
    assert not out.exists()
    monkeypatch.setattr(media, "extract_here", noting(media.extract_here, decoded))
    predict_media(bundle, str(videos), out)
    assert decoded == ["2.mp4", "3.mp4"]
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def noting(extract: Callable[..., Any], decoded: list[str]) -> Callable[..., Any]:
    def noted(sources: Any, plan: Any) -> Any:
        decoded.extend(Path(source.path).name for _, source in sources)
        return extract(sources, plan)

    return noted


def test_features_of_another_recipe(bundle: Bundle, dataset: Dataset, tmp_path: Path) -> None:
    manifest = dataset.manifest
    other = replace(manifest, provenance={**manifest.provenance, "audio": "none", "fps": 4.0})
    message = r"another way than the dataset's \(fps: 2\.0 → 4\.0; audio: logmel → none\): use a "
    with pytest.raises(BundleError, match=message):
        predict_split(bundle, replace(dataset, manifest=other), "train", tmp_path / "out")
    bundle.check_dataset(replace(manifest, provenance={**manifest.provenance, "split": "train"}))


def test_a_bundle_that_does_not_say_how(tiny_bundle: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"doesn't say how its features were made, .*not videos"):
        predict_media(load_bundle(tiny_bundle), str(videos), tmp_path / "out.csv")
    assert not any(tmp_path.iterdir())
