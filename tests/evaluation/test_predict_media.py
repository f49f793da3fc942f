"""Videos are labelled as a dataset of their features would be, also after an interruption."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_dataset import contents

from raymc.data.shards import Dataset
from raymc.errors import BundleError
from raymc.evaluation import media
from raymc.evaluation.predict import predict_media, predict_split
from raymc.events import ExtractProgress
from raymc.training.bundle import Bundle, load_bundle


@pytest.fixture
def bundle(media_bundle: Path) -> Bundle:
    """A model of the videos' features."""
    return load_bundle(media_bundle)


def test_videos_are_labelled_as_their_features(
    bundle: Bundle, media_dataset: Dataset, videos: Path, tmp_path: Path
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
    predict_split(bundle, media_dataset, "train", tmp_path / "same")
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


def test_features_of_another_recipe(bundle: Bundle, media_dataset: Dataset, tmp_path: Path) -> None:
    manifest = media_dataset.manifest
    other = replace(manifest, provenance={**manifest.provenance, "audio": "none", "fps": 4.0})
    message = r"another way than the dataset's \(fps: 2\.0 → 4\.0; audio: logmel → none\): use a "
    with pytest.raises(BundleError, match=message):
        predict_split(bundle, replace(media_dataset, manifest=other), "train", tmp_path / "out")
    bundle.check_dataset(replace(manifest, provenance={**manifest.provenance, "split": "train"}))


def test_a_bundle_that_does_not_say_how(tiny_bundle: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"doesn't say how its features were made, .*not videos"):
        predict_media(load_bundle(tiny_bundle), str(videos), tmp_path / "out.csv")
    assert not any(tmp_path.iterdir())
