"""Videos are labelled as a dataset of their features would be, also after an interruption."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_dataset import contents
from video_dataset import EXTRACT

from raymc.data.shards import Dataset
from raymc.errors import BundleError
from raymc.evaluation import media
from raymc.evaluation.predict import predict_media, predict_split
from raymc.events import ExtractProgress
from raymc.features.extraction import plan_extraction
from raymc.features.recipe import ENCODER_WEIGHTS, recipe_differences
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.loop import describe_dataset

pytestmark = pytest.mark.usefixtures("children_are_threads")


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
    assert [one.done_files for one in heard] == [0, 1, 2, 3]
    predict_split(bundle, media_dataset, "train", tmp_path / "same")
    of_dataset = pq.read_table(tmp_path / "same")
    of_media = table.filter(table["error"].is_null())
    assert of_media["id"].equals(of_dataset["id"])
    assert of_media["labels"].equals(of_dataset["labels"])
    for name in ("score.a", "score.b", "probability.a"):
        np.testing.assert_allclose(of_media[name], of_dataset[name], rtol=0, atol=1e-6)


@pytest.mark.slow
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

    # what another bundle, another raymc or another file gave is no part of it
    copy = shutil.copytree(videos, tmp_path / "videos")
    pad(copy / "1.mp4", copy / "3.mp4")
    changes: dict[str, Callable[[], object]] = {
        "video": lambda: swap(copy / "1.mp4", copy / "3.mp4"),
        "raymc": lambda: monkeypatch.setattr("raymc.evaluation.predict.FEATURES", 2),
        "bundle": lambda: None,
    }
    for name, change in changes.items():
        with pytest.raises(KeyboardInterrupt):
            predict_media(bundle, str(copy), tmp_path / name, listener=interrupt)
        change()
        decoded.clear()
        resumed_with = replace(bundle, digest="other") if name == "bundle" else bundle
        predict_media(resumed_with, str(copy), tmp_path / name)
        assert decoded == ["1.mp4", "2.mp4", "3.mp4"], name
    before, after = (pq.read_table(tmp_path / name)["score.a"] for name in ("whole", "video"))
    assert before.to_pylist() == [after[row].as_py() for row in (3, 4, 2, 0, 1)]


def pad(*files: Path) -> None:
    """Give MP4 files one size, by an empty box at their end, and one time."""
    size = 8 + max(file.stat().st_size for file in files)
    for file in files:
        missing = size - file.stat().st_size
        with file.open("ab") as end:
            end.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - 8))
        os.utime(file, (1, 1))


def swap(one: Path, other: Path) -> None:
    """Exchange two files, as `mv` does."""
    kept = one.rename(one.with_suffix(".kept"))
    other.rename(one)
    kept.rename(other)


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


def test_other_weights_of_an_encoder(
    bundle: Bundle,
    media_dataset: Dataset,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle keeps the digests of its encoders' weights; nothing that other weights made is read.

    Where one of both doesn't tell its weights, as older versions did not, they may be used.
    """

    def with_weights(digest: str) -> Dataset:
        told = {**media_dataset.manifest.provenance, ENCODER_WEIGHTS: {"visual": digest}}
        return replace(media_dataset, manifest=replace(media_dataset.manifest, provenance=told))

    recipe = describe_dataset(with_weights(64 * "a").manifest)["recipe"]
    assert recipe[ENCODER_WEIGHTS] == {"visual": 64 * "a"}
    keen = replace(bundle, recipe=recipe)
    keen.check_dataset(with_weights(64 * "a").manifest)
    keen.check_dataset(media_dataset.manifest)
    bundle.check_dataset(with_weights(64 * "b").manifest)
    message = r"\(weights of \w+: a{12} → b{12}\)"
    with pytest.raises(BundleError, match=message):
        predict_split(keen, with_weights(64 * "b"), "train", tmp_path / "out")
    plan = plan_extraction(EXTRACT)
    for digest in ("a", "b"):
        told = replace(plan, weights={"visual": 64 * digest})
        monkeypatch.setattr(media, "plan_extraction", lambda _, told=told: told)
        if digest == "a":
            assert predict_media(keen, str(videos / "1.mp4"), tmp_path / "a.csv").clips == 2
            continue
        with pytest.raises(BundleError, match=f"made with other weights .*{message}: make the"):
            predict_media(keen, str(videos / "1.mp4"), tmp_path / "b.csv")


def test_features_of_another_raymc(
    bundle: Bundle, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "FEATURES", 2)
    message = r"made by a raymc that makes others \(1, here 2\): give a dataset made by that raymc"
    with pytest.raises(BundleError, match=message):
        predict_media(bundle, str(videos), tmp_path / "out.csv")
    newer = replace(bundle, recipe={**(bundle.recipe or {}), "features": 2})
    assert predict_media(newer, str(videos / "1.mp4"), tmp_path / "out.csv").clips == 2
    assert recipe_differences(bundle.recipe or {}, newer.recipe or {}) == ["features: 1 → 2"]


def test_a_bundle_that_does_not_say_how(tiny_bundle: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"doesn't say how its features were made, .*not videos"):
        predict_media(load_bundle(tiny_bundle), str(videos), tmp_path / "out.csv")
    assert not any(tmp_path.iterdir())
