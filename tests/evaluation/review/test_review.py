"""A review finds what was planted: wrong labels, copies, clips worth a label, curves."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from finished_runs import finished_run
from sklearn.metrics import average_precision_score
from tiny import bundle_here, feeds_of

import raymc
from raymc.cli.main import main
from raymc.config import Config, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, Row, open_dataset, write_dataset
from raymc.errors import BundleError, ConfigError, DataError, ResourceError
from raymc.evaluation.review import out_of_fold, review
from raymc.evaluation.review.doubts import _chance_wrong, find_doubts
from raymc.evaluation.review.duplicates import find_pairs
from raymc.evaluation.review.files import save_review
from raymc.evaluation.review.learning_curves import learning_curves
from raymc.evaluation.review.next_clips import pick_next
from raymc.evaluation.review.out_of_fold import (
    draw_folds,
    out_of_fold_scores,
    read_clips_of,
    train_and_score,
    trainings_of,
)
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.learner import make_learner
from raymc.training.loop import train_epoch
from raymc.training.validation import predict

LABELS = ("add", "count", "rhyme", "noise")  # the last can't be seen in the features
MODALITIES = (Modality("visual", 6, "float32"), Modality("audio", 4, "float32"))
SPLITS = {"train": range(90), "val": range(90, 120), "test": range(120, 150)}
WRONG = range(0, 150, 10)  # rows whose first label is flipped
COPY, NEAR = "copy", "near"


def clip(number: int) -> Row:
    """Clip 2k and 2k + 1 are of one video; every 25th has no labels."""
    generator = np.random.default_rng(number)
    hot = generator.random(3) < 0.4
    visual = generator.normal(size=(int(generator.integers(4, 9)), 6))
    audio = generator.normal(size=(5, 4))
    visual[:, :3] += 4.0 * hot
    audio[:, :3] += 4.0 * hot
    given = np.append(hot, generator.random() < 0.5)
    given[0] ^= number in WRONG
    if number % 25 == 7:
        given[:] = False
    return Row(
        id=f"clip{number}",
        labels=[name for name, has in zip(LABELS, given) if has],
        tokens={"visual": visual.astype(np.float32), "audio": audio.astype(np.float32)},
        extra={"video": f"video{number // 2}"},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """150 clips; `copy` in test equals clip 1 of train, `near` in val is nearly clip 3."""
    path = str(tmp_path_factory.mktemp("data") / "planted")
    rows = {split: [clip(number) for number in numbers] for split, numbers in SPLITS.items()}
    extra = {"video": "another"}
    rows["test"].append(replace(clip(1), id=COPY, extra=extra))
    near = {name: x + np.float32(0.05) for name, x in clip(3).tokens.items() if x is not None}
    rows["val"].append(replace(clip(3), id=NEAR, tokens=near, extra={"video": "third"}))
    write_dataset(path, rows, vocabulary=Vocabulary(LABELS), modalities=MODALITIES)
    return open_dataset(path)


@pytest.fixture(scope="module")
def run(data: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on it."""
    folder = tmp_path_factory.mktemp("reviewed")
    settings = {"data.path": data.path, "train.epochs": 5, "optimizer.lr": 0.02, "batch.size": 36}
    bundle = bundle_here(data, override(tiny_config, settings), folder / "made")
    return finished_run(folder, "planted", bundle)


@pytest.fixture(scope="module")
def model(run: Path) -> Bundle:
    return load_bundle(run / "bundle")


@pytest.fixture(scope="module")
def found(model: Bundle) -> review.Review:
    return raymc.review(model, folds=3)


@pytest.mark.slow
def test_planted_wrong_labels_are_found_as_cleanlab_finds_them(found: review.Review) -> None:
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    frame = found.label_frame()
    flips = {(f"clip{number}", "add") for number in WRONG if number % 25 != 7}
    named = set(zip(frame["id"], frame["label"]))
    assert len(flips & named) >= 0.8 * len(flips)
    assert len(flips & set(list(zip(frame["id"], frame["label"]))[: len(flips)])) >= 9
    for row in frame.itertuples():
        assert (row.label in row.labels) == row.given
        assert row.quality == pytest.approx(row.probability if row.given else 1 - row.probability)
    # the same by cleanlab on the whole matrix, except for the label that can't be recognised
    labels = [np.flatnonzero(given).tolist() for given in found.clips.block.labels]
    issues = find_multilabel_issues_per_class(labels, found.probabilities, n_jobs=1)
    quality = get_label_quality_scores_per_class(labels, found.probabilities)
    assert found.unjudged == ["noise"]
    of_cleanlab = {(int(r), int(c)) for r, c in zip(*np.nonzero(issues)) if LABELS[c] != "noise"}
    block = found.clips.block
    alone, _ = find_doubts(found.probabilities, block.labels, block.observed, least_wrong=0.0)
    assert {(one.row, one.label) for one in alone} == of_cleanlab
    expected = {(one.row, one.label) for one in found.doubts}
    assert expected <= of_cleanlab
    assert [one.quality for one in found.doubts] == sorted(quality[r, c] for r, c in expected)


def test_the_chance_of_being_wrong_is_how_often_labels_are_wrong() -> None:
    generator = np.random.default_rng(0)
    chance = generator.beta(0.3, 1.2, 100_000)  # that a clip has the class
    true = generator.random(len(chance)) < chance
    given = np.where(true, generator.random(len(true)) > 0.2, generator.random(len(true)) < 0.05)
    likely = 0.8 * chance + 0.05 * (1 - chance)  # what a perfect model learns
    found = _chance_wrong(likely, given, given ^ true)
    for which in (given, ~given):
        for low in np.arange(0, 1, 0.1):
            some = which & (found >= low) & (found < low + 0.1)
            if some.sum() > 300:
                share = (given ^ true)[some].mean()
                assert found[some].mean() == pytest.approx(share, abs=0.06)


def test_unobserved_labels_and_classes_of_one_kind_are_not_judged() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random((200, 3)) < 0.5
    likely = np.where(labels, 0.98, 0.02) + generator.normal(0, 0.004, labels.shape)
    likely[:10, 0] = 1 - likely[:10, 0]
    observed = np.ones_like(labels)
    observed[:5, 0] = False
    labels[:, 2] = True
    doubts, unjudged = find_doubts(likely, labels, observed)
    assert {(one.row, one.label) for one in doubts} == {(row, 0) for row in range(5, 10)}
    assert unjudged == [2]


def test_folds_keep_videos_and_copies_together(data: Dataset) -> None:
    clips = read_clips_of(data, ("train", "val", "test"))
    at = {name: row for row, name in enumerate(clips.ids)}
    assert clips.groups[at[COPY]] == clips.groups[at["clip1"]] == clips.groups[at["clip0"]]
    folds = draw_folds(clips.block.labels, clips.groups, 3, seed=1)
    np.testing.assert_array_equal(folds, draw_folds(clips.block.labels, clips.groups, 3, seed=1))
    assert (folds != draw_folds(clips.block.labels, clips.groups, 3, seed=2)).any()
    videos: dict[str, set[int]] = {}
    for video, fold in zip(clips.videos, folds):
        videos.setdefault(video, set()).add(int(fold))
    assert all(len(each) == 1 for each in videos.values())
    share = clips.block.labels.sum(axis=0) / 3
    for fold in range(3):
        np.testing.assert_allclose(clips.block.labels[folds == fold].sum(axis=0), share, atol=6)
    whole = trainings_of(clips, folds, train_on=("train", "val"))
    half = trainings_of(clips, folds, train_on=("train", "val"), share=0.5)
    assert sorted(np.concatenate([one.held_out for one in whole])) == list(range(len(clips)))
    for one, part in zip(whole, half):
        assert not set(clips.groups[one.train]) & set(clips.groups[one.held_out])
        assert {clips.splits[row] for row in one.train} == {"train", "val"}
        assert set(part.train) < set(one.train)
        assert len(part.train) == pytest.approx(len(one.train) / 2, abs=3)


@pytest.mark.slow
def test_a_model_is_trained_as_a_run_is(
    data: Dataset, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the training split alone, it gives the scores of the run's own way of training."""
    clips = read_clips_of(data, ("train", "val"))
    rows = np.arange(len(clips))
    is_train = np.array(clips.splits) == "train"
    one = out_of_fold.Training("one", rows[is_train], rows[~is_train])
    config = override(model.config, {"batch.pool_batches": 1})
    given = train_and_score(config, clips, one, epochs=2, device=torch.device("cpu"))
    # the run's shards become one, so that the order of the rows is the same
    monkeypatch.setattr(
        "raymc.data.feed.order.shard_order", lambda shards, **_: list(range(shards))
    )
    feeds = feeds_of(data, config)
    learner = make_learner(config, data.manifest, feeds, device=torch.device("cpu"))
    for epoch in (1, 2):
        train_epoch(learner, config, feeds.train, epoch, emit=lambda event: None)
    expected = predict(learner.result, feeds.val, device=torch.device("cpu")).scores
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_review_resumes(
    run: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "review", ignore_errors=True)
    model = load_bundle(tmp_path / "run" / "bundle")
    clips = read_clips_of(data, ("train", "val", "test"))
    folds = draw_folds(clips.block.labels, clips.groups, 3)
    trainings = [trainings_of(clips, folds, train_on=("train", "val"))]
    trained: list[str] = []

    def train(config: Config, clips: Any, training: Any, **given: Any) -> np.ndarray:
        trained.append(training.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return np.full((len(training.held_out), 4), len(trained), dtype=np.float32)

    monkeypatch.setattr(out_of_fold, "train_and_score", train)
    seen: list[tuple[int, int]] = []

    def scores(
        bundle: Bundle = model, clips: out_of_fold.Clips = clips, **given: Any
    ) -> np.ndarray:
        device = torch.device("cpu")
        return out_of_fold_scores(bundle, clips, trainings, device=device, **given)[0]

    with pytest.raises(KeyboardInterrupt):
        scores()
    first = scores(progress=lambda done, of: seen.append((done, of)))
    names = [one.name for one in trainings[0]]
    assert trained == [names[0], names[1], names[1], names[2]]
    assert seen[0][0] > 0
    assert seen[-1][0] == seen[-1][1]
    np.testing.assert_array_equal(scores(), first)
    assert len(trained) == 4
    scores(seed=1)  # other folds
    assert len(trained) == 7
    # nothing that was trained on other data, from another bundle or by another raymc is taken
    manifest = replace(data.manifest, license="other")
    scores(clips=replace(clips, dataset=replace(data, manifest=manifest)))
    scores(bundle=replace(model, digest="other"))
    monkeypatch.setattr(out_of_fold, "RESULTS", out_of_fold.RESULTS + 1)
    scores()
    assert len(trained) == 16
    scores()
    assert len(trained) == 16


@pytest.mark.slow
def test_planted_copies_are_found(found: review.Review, data: Dataset) -> None:
    frame = found.duplicate_frame()
    pairs = {frozenset(pair): same for *pair, same in frame[["id", "other_id", "equal"]].values}
    assert pairs == {frozenset(("clip1", COPY)): True, frozenset(("clip3", NEAR)): False}
    assert frame["similarity"].min() > 0.95
    everything = find_pairs(found.clips, alike=-1.0)
    count = len(found.clips)
    videos, splits = found.clips.videos, found.clips.splits
    expected = sum(
        splits[a] != splits[b]
        or (videos[a] != videos[b] and found.labels_of(a) != found.labels_of(b))
        for a, b in itertools.combinations(range(count), 2)
    )
    assert len(everything) == expected


def test_picks_are_unsure_and_far_apart() -> None:
    generator = np.random.default_rng(0)
    likely, vectors = generator.random((40, 3)), generator.normal(size=(40, 5))
    vectors[1], likely[1] = vectors[0], likely[0]
    labelled = generator.normal(size=(6, 5))
    picks = pick_next(likely, vectors, labelled, count=10)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    chosen: list[int] = []
    for pick in picks:  # one by one, with plain loops
        worth = []
        for row in range(40):
            bits = np.mean([-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in likely[row]])
            known = [*labelled, *(vectors[one] for one in chosen)]
            far = 1 - max(cosine(vectors[row], one) for one in known)
            worth.append(-1.0 if row in chosen else bits * far)
        assert pick.row == int(np.argmax(worth))
        assert pick.uncertainty * pick.distance == pytest.approx(max(worth))
        chosen.append(pick.row)
    assert len({0, 1} & set(chosen)) <= 1
    assert len(pick_next(likely[:3], vectors[:3], labelled, count=10)) == 3


@pytest.mark.slow
def test_clips_without_labels_are_offered(
    found: review.Review, model: Bundle, data: Dataset, tmp_path: Path
) -> None:
    assert repr(found).startswith(f"Review('{data.path}': {len(found.clips)} clips, ")
    assert repr(found).endswith(f" {len(found.picks)} clips to label next)")
    own = found.next_frame()
    assert set(own["id"]) == {f"clip{n}" for n in range(150) if n % 25 == 7 or not clip(n).labels}
    assert set(own["source"]) <= {"train", "val", "test"}
    rows = [replace(clip(1000 + n), id=f"new{n}", labels=()) for n in range(20)]
    rows.append(replace(clip(1050), id="labelled", labels=("add",)))
    write_dataset(
        str(tmp_path / "new"),
        {"train": rows},
        vocabulary=Vocabulary(LABELS),
        modalities=MODALITIES,
    )
    frame = raymc.review(
        model, folds=3, curves=False, unlabelled=tmp_path / "new", count=5
    ).next_frame()
    assert len(set(frame["id"])) == 5
    assert set(frame["id"]) <= {f"new{n}" for n in range(20)}
    assert set(frame["source"]) == {str(tmp_path / "new")}
    assert (frame["uncertainty"] > 0).all()


def test_learning_curves_extend_the_power_law_of_their_errors(found: review.Review) -> None:
    frame = found.class_frame().set_index("label")
    block = found.clips.block
    for name in LABELS:
        k = LABELS.index(name)
        expected = average_precision_score(block.labels[:, k], found.probabilities[:, k])
        assert frame["AP"][name] == pytest.approx(expected, abs=0.01)
    assert frame.loc["add", "clips"] == block.labels[:121, 0].sum()
    assert not frame["few"].any()
    assert (frame["gain_2x_low"] <= frame["gain_2x"]).all()
    assert (frame["gain_2x"] <= frame["gain_4x"] + 1e-12).all()

    # one class, whose error at 10, 20 and 40 examples is e, e / 2 and e / 4: then e / 8 at 80
    labels = np.zeros((4000, 1), dtype=bool)
    labels[:2000] = True

    def scores(error: float) -> np.ndarray:
        """Rank a share of the positives below every negative."""
        below = np.zeros(4000)
        below[:2000] = np.arange(2000) < 2000 * (1 - error)
        return np.where(labels[:, 0], np.where(below, 2.0, 0.0), 1.0)[:, None].astype(np.float32)

    many = np.array([10_000_000])
    (curve,) = learning_curves(
        [scores(e) for e in (0.32, 0.16, 0.08)],
        labels,
        np.ones_like(labels),
        names=["one"],
        sizes=np.array([[10.0], [20.0], [40.0]]),
        clips=many,
        videos=many,
    )
    errors = 1 - np.array(curve.precision)
    slope = -np.polyfit(np.log([10, 20, 40]), np.log(errors), 1)[0]
    assert curve.gains[2].value == pytest.approx(errors[-1] * (1 - 2**-slope), rel=1e-3)
    assert curve.gains[2].low < curve.gains[2].value < curve.gains[2].high


def test_reviews_are_tables(found: review.Review, tmp_path: Path) -> None:
    save_review(found, tmp_path / "review.csv")
    save_review(found, tmp_path / "review.xlsx")
    table = pd.read_csv(tmp_path / "review.csv", encoding="utf-8-sig")
    counts = table["finding"].value_counts()
    assert counts["label"] == len(found.doubts)
    assert counts["duplicate"] == 2
    assert counts["class"] == len(LABELS)
    sheets = pd.read_excel(tmp_path / "review.xlsx", sheet_name=None, engine="openpyxl")
    assert list(sheets) == ["label", "duplicate", "next", "class"]
    assert sheets["label"]["id"].tolist() == found.label_frame()["id"].tolist()
    with pytest.raises(ConfigError, match=r"a review is written as \.html, \.csv or \.xlsx"):
        save_review(found, tmp_path / "review.pdf")


@pytest.mark.slow
def test_the_command_writes_all_files(run: Path, found: review.Review, tmp_path: Path) -> None:
    html, csv = tmp_path / "review.html", tmp_path / "review.csv"
    asked = ["review", str(run), "--folds", "3", "--out", str(html), "--out", str(csv)]
    done = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert done.exit_code == 0
    for line in (*review.review_lines(found), f"page: {html}", f"table: {csv}"):
        assert line in done.output
    page = html.read_text("utf-8")
    assert page.count('<article class="clip"') == len({one.row for one in found.doubts}) + 2 + len(
        found.picks
    )
    assert "This dataset was not made of videos" in page
    for out, refusal in {
        "review.pdf": "a review is written as .html, .csv or .xlsx",
        str(csv): "already exists: choose another --out",
    }.items():
        done = CliRunner().invoke(main, ["review", str(run), "--out", out])
        assert (done.exit_code, done.output.startswith(f"raymc: {out}")) == (2, True)
        assert done.output.endswith(f"{refusal}\n")
    assert html.read_text("utf-8") == page


def _without_run(model: Bundle, data: Dataset, folder: Path) -> object:
    shutil.copytree(model.folder, folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    return raymc.review(replace(bundle, config=override(bundle.config, {"data.path": "gone"})))


def _one_video(model: Bundle, data: Dataset, folder: Path) -> object:
    row = clip(0)
    rows = {"train": [row, replace(clip(1), id="other")]}
    path = str(folder / "one")
    write_dataset(path, rows, vocabulary=Vocabulary(LABELS), modalities=MODALITIES)
    return raymc.review(model, path)


def _other_labels(model: Bundle, data: Dataset, folder: Path) -> object:
    rows = {"train": [replace(clip(0), labels=())]}
    path = str(folder / "others")
    write_dataset(path, rows, vocabulary=Vocabulary(("x",)), modalities=MODALITIES)
    return raymc.review(model, path)


def _nothing_new(model: Bundle, data: Dataset, folder: Path) -> object:
    path = str(folder / "known")
    rows = {"train": [clip(0) if clip(0).labels else clip(1)]}
    write_dataset(path, rows, vocabulary=Vocabulary(LABELS), modalities=MODALITIES)
    return raymc.review(model, folds=3, curves=False, unlabelled=path)


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (_without_run, ConfigError, "its dataset can't be read from"),
        (_one_video, DataError, "a review needs two or more"),
        (_other_labels, BundleError, "they differ in"),
        (_nothing_new, DataError, "has no clip without labels"),
    ],
)
def test_what_can_not_be_reviewed_is_said(
    ask: Callable[[Bundle, Dataset, Path], object],
    error: type[Exception],
    told: str,
    model: Bundle,
    data: Dataset,
    tmp_path: Path,
    found: review.Review,
) -> None:
    with pytest.raises(error, match=told):
        ask(model, data, tmp_path)


def test_clips_beyond_memory_are_refused(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(ResourceError, match="more than half of the free memory"):
        read_clips_of(data, ("train",))
