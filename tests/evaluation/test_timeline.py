"""Timelines of real videos: what they hold is what predictions hold, in every kind of file."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO, StringIO
from os.path import relpath
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from finished_runs import finished_run
from openpyxl import load_workbook
from pages import Seen
from pympi import Eaf
from rich.console import Console
from tiny import bundle_here
from videos import write_video

import raymc
from raymc.cli.timeline import run_timeline
from raymc.config import Config, ExtractConfig, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Ragged, Row, open_dataset, write_dataset
from raymc.errors import ConfigError, DataError
from raymc.evaluation.predict import predict_media
from raymc.evaluation.timeline import (
    Timeline,
    make_timeline,
    scores_alone,
    window_and_stride,
)
from raymc.evaluation.timeline_files import timeline_writer
from raymc.features.extraction import plan_extraction
from raymc.features.recipe import MADE_BY
from raymc.metrics.calibration import Calibration
from raymc.training.bundle import Bundle, load_bundle

pytestmark = pytest.mark.usefixtures("children_are_threads")
EXTRACT = ExtractConfig(fps=2, visual="patches", audio="logmel", window_seconds=1)
LABELS = ('a "b" & <c>', "math [easy] --> x")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "my lesson.mp4", seconds=4.0)


@pytest.fixture(scope="module")
def trained(
    tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[ExtractConfig], Bundle]:
    """Train a model of noise in the form of a recipe's features."""

    def train(extract: ExtractConfig) -> Bundle:
        plan, rng = plan_extraction(extract), np.random.default_rng(0)
        rows = [
            Row(
                id=f"{split}-{i}",
                labels=[LABELS[i % 2]],
                tokens={one.name: rng.normal(size=(3, one.dim)) for one in plan.modalities},
                extra={"start_seconds": 0.0, "end_seconds": (2.0, 3.0, 9.0)[i % 3]},
            )
            for split in ("train", "val")
            for i in range(12)
        ]
        path = str(tmp_path_factory.mktemp("data") / "dataset")
        write_dataset(
            path,
            {"train": rows[:12], "val": rows[12:]},
            vocabulary=Vocabulary(LABELS),
            modalities=plan.modalities,
            provenance={"made_by": MADE_BY, **asdict(extract)},
        )
        config = override(tiny_config, {"train.epochs": 1, "data.path": path})
        return load_bundle(bundle_here(open_dataset(path), config, tmp_path_factory.mktemp("run")))

    return train


@pytest.fixture(scope="module")
def bundle(trained: Callable[[ExtractConfig], Bundle]) -> Bundle:
    return trained(EXTRACT)


@pytest.mark.slow
def test_windows_are_those_of_predictions(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    heard: list[float] = []
    timeline = make_timeline(bundle, str(video), stride=1.0, listener=heard.append)
    assert heard == [1.0, 2.0, 3.0, 4.0]
    assert (timeline.window_seconds, timeline.chosen) == (1.0, "as in training")
    predict_media(bundle, str(video), tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    windows = timeline.windows
    for row, window in zip(rows, windows.to_dict("records"), strict=True):
        for name in ("start", "end", *(f"probability.{label}" for label in LABELS)):
            assert float(row[name]) == pytest.approx(window[name], abs=1e-4)
    half = raymc.timeline(bundle, video)
    assert "my lesson.mp4': 7 windows, " in repr(half)
    np.testing.assert_allclose(half.starts, np.arange(0, 3.5, 0.5))
    np.testing.assert_allclose(half.scores[::2], timeline.scores, atol=1e-6)


def test_segments_begin_at_the_threshold_and_end_at_a_lower_one(bundle: Bundle) -> None:
    likely = np.array([0.1, 0.3, 0.6, 0.5, 0.25, 0.24, 0.6, 0.1])
    made = timeline_of(bundle, likely, np.full(8, 0.45), thresholds=[0.5, np.inf])
    timeline = replace(made, leave_share=0.5)
    found = [(one.label, one.start, one.end) for one in timeline.all_segments]
    assert found == [(LABELS[0], 1.0, 5.0), (LABELS[0], 6.0, 7.0)]
    assert timeline.all_segments[0].value == pytest.approx(0.6)
    assert timeline.all_segments[0].peak == 2.5
    np.testing.assert_allclose(timeline.enter, [0.5, np.nan], rtol=1e-6)
    long = replace(timeline, least_seconds=2.0)
    assert [one.end for one in long.all_segments] == [5.0]
    everywhere = replace(timeline, threshold=0.4)
    assert [(one.label, one.start, one.end) for one in everywhere.all_segments] == [
        (LABELS[1], 0.0, 8.0),
        (LABELS[0], 1.0, 7.0),
    ]
    plain = replace(timeline, calibration=None)
    assert [(one.start, one.end) for one in plain.all_segments] == [(2.0, 4.0), (6.0, 7.0)]
    assert list(plain.segments.columns) == ["start", "end", "label", "score"]


def timeline_of(bundle: Bundle, *likely: np.ndarray, thresholds: list[float]) -> Timeline:
    """A timeline of windows of a second with these probabilities and thresholds."""
    calibration = Calibration(1.0, (0.0, 0.0))

    def scores(probabilities: np.ndarray) -> np.ndarray:
        return np.log(probabilities / (1 - probabilities)).astype(np.float32)

    count = len(likely[0])
    return Timeline(
        path="my lesson.mp4",
        labels=LABELS,
        window_seconds=1.0,
        stride_seconds=1.0,
        chosen="as asked",
        starts=np.arange(count, dtype=float),
        ends=np.arange(count, dtype=float) + 1,
        scores=scores(np.stack(likely, axis=1)),
        embeddings=np.zeros((count, 2), np.float32),
        alone={},
        calibration=calibration,
        thresholds=np.array(
            [np.inf if x == np.inf else scores(np.array(x)) for x in thresholds], np.float32
        ),
    )


def test_every_kind_of_file_has_the_same_segments(bundle: Bundle, tmp_path: Path) -> None:
    likely = np.array([0.1, 0.6, 0.6, 0.1, 0.9, 0.1])
    timeline = timeline_of(bundle, likely, likely[::-1], thresholds=[0.5, 0.5])
    expected = {
        (LABELS[0], 1.0, 3.0), (LABELS[0], 4.0, 5.0), (LABELS[1], 1.0, 2.0), (LABELS[1], 3.0, 5.0),
    }  # fmt: skip
    files = {}
    for suffix in (".csv", ".json", ".xlsx", ".vtt", ".eaf"):
        files[suffix] = tmp_path / f"lesson{suffix}"
        write = timeline_writer(files[suffix])
        assert write is not None
        write(timeline, files[suffix])
    rows = list(csv.DictReader(files[".csv"].open(encoding="utf-8")))
    assert {(x["label"], float(x["start"]), float(x["end"])) for x in rows} == expected
    told = json.loads(files[".json"].read_text(encoding="utf-8"))
    assert {(x["label"], x["start"], x["end"]) for x in told["segments"]} == expected
    assert [x["values"][0] for x in told["windows"]] == pytest.approx(likely.tolist(), abs=1e-4)
    book = load_workbook(BytesIO(files[".xlsx"].read_bytes()))
    assert book.sheetnames == ["segments", "windows"]
    assert {(x[3], x[1], x[2]) for x in list(book["segments"].values)[1:]} == expected
    eaf = Eaf(str(files[".eaf"]))
    assert expected == {
        (tier, start / 1000, end / 1000)
        for tier in LABELS
        for start, end, *_ in eaf.get_annotation_data_for_tier(tier)
    }
    (media,) = eaf.media_descriptors
    assert unquote(media["RELATIVE_MEDIA_URL"]) == f"./{relpath('my lesson.mp4', tmp_path)}"
    cues = files[".vtt"].read_text(encoding="utf-8").split("\n\n")
    assert cues[0] == "WEBVTT"
    assert cues[1].split("\n") == ["00:00:01.000 --> 00:00:02.000", "math [easy] --&gt; x"]
    assert len([cue for cue in cues if cue.strip()]) == 5
    with pytest.raises(ConfigError, match=r"lesson\.txt: timelines are written as \.html, \.vtt"):
        timeline_writer(tmp_path / "lesson.txt")


def test_each_modality_alone_is_the_score_of_clips_without_the_others(
    tiny_bundle: Path, tiny: Dataset
) -> None:
    bundle, rng = load_bundle(tiny_bundle), np.random.default_rng(0)
    kinds = {modality.name: modality for modality in bundle.modalities}
    tokens = {
        "visual": Ragged(rng.normal(size=(5, 6)).astype(np.float16), np.array([0, 2, 5])),
        "audio": Ragged(rng.normal(size=(4, 4)).astype(np.float32), np.array([0, 4, 4])),
    }
    alone = scores_alone(bundle, tokens)
    assert list(alone) == list(kinds) == ["visual", "audio"]
    for row in range(2):  # one at a time, in which the other was never there
        own = {
            name: Ragged(x.row(row) if name == "visual" else x.values[:0],
                         np.array([0, len(x.row(row)) if name == "visual" else 0]))
            for name, x in tokens.items()
        }  # fmt: skip
        np.testing.assert_allclose(alone["visual"][row], bundle.score_tokens(own)[0], atol=1e-5)
    assert np.isfinite(alone["audio"][0]).all()
    assert np.isnan(alone["audio"][1]).all()


def test_a_window_is_as_long_as_the_clips_of_training(
    bundle: Bundle,
) -> None:
    assert window_and_stride(bundle) == (1.0, 0.5, "as in training")
    assert window_and_stride(bundle, 3.0) == (3.0, 1.5, "as asked")
    assert window_and_stride(bundle, stride=2.0) == (1.0, 2.0, "as in training")
    recipe = dict(bundle.recipe or {})
    assert window_and_stride(replace(bundle, recipe={**recipe, "stride_seconds": 0.25}))[1] == 0.25
    whole = replace(bundle, recipe={**recipe, "window_seconds": None})
    moved = replace(whole, config=override(whole.config, {"data.path": "gone"}))
    with pytest.raises(ConfigError, match=r"how long were the clips .*: give --window SECONDS$"):
        window_and_stride(moved)
    told = replace(whole, clip_seconds=2.5)  # as bundles say that were trained since
    assert window_and_stride(told)[:2] == (2.5, 1.25)
    assert window_and_stride(whole) == (3.0, 1.5, "the median length of the clips of training")
    with pytest.raises(ConfigError, match=r"--stride is 0; expected 0\.01 seconds"):
        window_and_stride(bundle, 1.0, 0.0)


def test_what_is_no_video_is_refused(bundle: Bundle, video: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder: name one video"):
        make_timeline(bundle, str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        make_timeline(bundle, str(tmp_path / "lesson.mp4"))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4 can't be read: "):
        make_timeline(bundle, str(tmp_path / "broken.mp4"))
    with pytest.raises(ConfigError, match="gives no probabilities"):
        make_timeline(replace(bundle, calibration=None), str(video), threshold=0.5)


@pytest.mark.slow
def test_the_command_writes_a_page_and_says_what_it_found(
    bundle: Bundle, video: Path, tmp_path: Path
) -> None:
    run, printed = finished_run(tmp_path, "mine", bundle.folder), StringIO()
    console, out = Console(file=printed, width=300), tmp_path / "pages" / "lesson.html"
    made = run_timeline(str(run), str(video), out, console, threshold=0.01)
    shown = Seen(out.read_text(encoding="utf-8"))
    assert [one[:22] for one in shown.loaded] == ["data:video/mp4;base64,"]
    assert (
        "Browsers don't play the file itself, so the page has a copy in H.264."
        in printed.getvalue()
    )
    assert "7 windows of 1 s, one every 0.5 s (as in training)\n" in printed.getvalue()
    assert len(made.all_segments) == 2
    assert "train-" in "".join(shown.text["script"])
    assert len(list((run / "neighbours").iterdir())) == 1
    with pytest.raises(DataError, match=r"lesson\.html already exists: choose another --out"):
        run_timeline(str(run), str(video), out, console)
    run_timeline(str(bundle.folder), str(video), tmp_path / "lesson.csv", console)
    assert (tmp_path / "lesson.csv").read_text().startswith("path,start,end,label,probability\n")
