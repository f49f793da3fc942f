"""The benchmark of accuracy: its baselines against slow references, and the whole on tiny data."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from drivers import write_config
from rich.console import Console
from score_tables import random_table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tiny import feed_of

from jobs.bench.accuracy import Found, Settings, bench_accuracy, lines_of
from jobs.bench.baselines import BASELINES, Matrix, ml_knn, parts_worth_trying, read_matrix
from raymc.config import Config, flatten, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset
from raymc.errors import ConfigError
from raymc.evaluation.scored import ScoredSplit
from raymc.metrics.metrics import evaluate_scores
from raymc.runtime.provenance import current_code
from raymc.tracking import list_runs, tracking_uri


def some_matrix(seed: int, rows: int = 40) -> Matrix:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, 5))
    labels = features[:, :3] + generator.normal(size=(rows, 3)) > 0.5
    return Matrix(features, labels, np.ones_like(labels))


def slow_ml_knn(train: Matrix, features: np.ndarray, k: int) -> np.ndarray:
    """The posterior of Zhang and Zhou 2007, one count at a time."""
    scaler = StandardScaler().fit(train.features)
    known, asked = scaler.transform(train.features), scaler.transform(features)
    distances = np.linalg.norm(known[:, None] - known[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :k]
    far_near = np.argsort(np.linalg.norm(asked[:, None] - known[None], axis=2), axis=1)[:, :k]
    scores = np.zeros((len(features), train.labels.shape[1]))
    for c in range(scores.shape[1]):
        has = train.labels[:, c]
        prior = (1 + has.sum()) / (2 + len(has))
        for row in range(len(features)):
            delta = has[far_near[row]].sum()
            evidence = []
            for value in (True, False):
                counts = [
                    sum(has[i] == value and has[near[i]].sum() == j for i in range(len(has)))
                    for j in range(k + 1)
                ]
                evidence.append((1 + counts[delta]) / (k + 1 + sum(counts)))
            joint = prior * evidence[0]
            scores[row, c] = joint / (joint + (1 - prior) * evidence[1])
    return scores


def test_ml_knn_is_the_posterior_of_the_paper() -> None:
    train, other = some_matrix(0), some_matrix(1, rows=9)
    found = ml_knn({"neighbours": 4}, 0, train, other.features)
    np.testing.assert_allclose(found, slow_ml_knn(train, other.features, 4), rtol=1e-12)


def test_ml_knn_takes_no_unobserved_label_for_an_absent_one() -> None:
    train, other = some_matrix(0), some_matrix(1, rows=9)
    train.observed[::2, 1] = False
    train.observed[:, 2] = False
    found = ml_knn({"neighbours": 4}, 0, train, other.features)
    whole = slow_ml_knn(train, other.features, 4)
    np.testing.assert_allclose(found[:, 0], whole[:, 0], rtol=1e-12)
    assert not np.allclose(found[:, 1], whole[:, 1])
    train.labels[::2, 1] ^= True  # what is unobserved doesn't count
    np.testing.assert_array_equal(ml_knn({"neighbours": 4}, 0, train, other.features), found)
    assert not found[:, 2].any()


def test_one_per_label_fits_each_label_on_the_clips_it_was_observed_in() -> None:
    train, other = some_matrix(0), some_matrix(1)
    train.labels[:, 2] = True  # nothing to learn
    train.observed[:20, 1] = False
    found = BASELINES["logistic regression"].score({"C": 0.5}, 0, train, other.features)
    for c, rows in ((0, slice(None)), (1, slice(20, None))):
        scaler = StandardScaler().fit(train.features[rows])
        model = LogisticRegression(C=0.5).fit(
            scaler.transform(train.features[rows]), train.labels[rows, c]
        )
        expected = model.predict_proba(scaler.transform(other.features))[:, 1]
        np.testing.assert_allclose(found[:, c], expected, atol=1e-6)
    assert (found[:, 2] == 0).all()


@pytest.mark.slow
def test_a_forest_learns_and_is_seeded() -> None:
    train, other = some_matrix(0, 200), some_matrix(1, 200)
    params = {"times_root": 2.0, "min_samples_leaf": 2, "trees": 30}
    first, again, reseeded = (
        BASELINES["random forest"].score(params, seed, train, other.features) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, reseeded)
    chance = other.labels.mean(axis=0).mean()
    assert evaluate_scores(first, other.labels).mAP > chance + 0.2


@pytest.mark.slow
def test_a_forest_is_tuned_with_a_third_of_its_trees() -> None:
    one = some_matrix(0)
    train, other = replace(one, labels=one.labels[:, :1]), some_matrix(1)
    forest, chosen = BASELINES["random forest"], {"times_root": 2.0, "min_samples_leaf": 1}
    tuning = forest.suggest(optuna.trial.FixedTrial(chosen))
    by_100, by_300 = (
        forest.score(params, 0, train, other.features) * trees
        for params, trees in ((tuning, 100), (chosen, 300))
    )
    # Leaves of one clip each vote all or nothing, so that scores are shares of the trees.
    np.testing.assert_allclose(by_100, by_100.round(), atol=1e-9)
    np.testing.assert_allclose(by_300, by_300.round(), atol=1e-9)
    assert (by_300.round() % 3 != 0).any()


@pytest.mark.parametrize("parts", [1, 3])
def test_clips_are_read_as_means_of_parts_of_their_time(
    parts: int, tiny: Dataset, tiny_config: Config
) -> None:
    feed = feed_of(tiny, "val", tiny_config)
    matrix = read_matrix(feed, parts)
    assert matrix.features.shape == (feed.rows, parts * (6 + 4))
    for batch in feed.evaluation():
        for place, row in enumerate(batch.rows.tolist()):
            expected = []
            for name, dim in (("visual", 6), ("audio", 4)):
                length = int(batch.lengths[name][place])
                tokens = batch.tokens[name][place, :length].double().numpy()
                for part in range(parts):
                    first = int(part * length / parts)
                    last = max(first + 1, int((part + 1) * length / parts))
                    expected.append(tokens[first:last].mean(0) if length else np.zeros(dim))
            np.testing.assert_allclose(matrix.features[row], np.concatenate(expected), rtol=1e-5)
            assert np.array_equal(matrix.labels[row], batch.labels[place].numpy())


def test_no_more_parts_are_tried_than_the_longest_clip_has_tokens(
    tiny: Dataset, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feed_of(tiny, "train", tiny_config)
    longest = max(int(x.max()) for batch in feed.evaluation() for x in batch.lengths.values())
    assert longest == 12
    assert parts_worth_trying(feed) == (1, 4, 12)
    short = [replace(b, lengths={"audio": torch.ones(2)}) for b in feed.evaluation()]
    monkeypatch.setattr(feed, "evaluation", lambda: short)
    assert parts_worth_trying(feed) == (1,)


def found_of(method: str, *, signal: float) -> Found:
    noise, labels, observed = random_table(3, 1000, rows=200)
    names = tuple(str(k) for k in range(labels.shape[1]))
    runs = [np.random.default_rng(seed).normal(size=noise.shape) for seed in (0, 1)]
    scored = [
        ScoredSplit(
            ids=tuple(str(row) for row in range(len(labels))),
            scores=(run + signal * labels).astype(np.float32),
            labels=labels,
            observed=observed,
            vocabulary=Vocabulary(names),
            split="test",
            dataset_digest="abc",
        )
        for run in runs
    ]
    days = ("2026-11-28 abc", "2026-11-27 def")
    return Found(method, ({},), (1.0, 2.0), days, tuple(scored))


def test_every_method_is_compared_with_the_best_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.bench.accuracy.RESAMPLES", 100)
    found = [found_of("weak", signal=0.1), found_of("best", signal=2.0), found_of("good", signal=1)]
    lines = lines_of("clips", found)
    assert [line.name for line in lines] == ["best", "good", "weak"]
    assert [line.case["beside"] for line in lines] == ["good", "best", "best"]
    assert lines[0].case["ahead"]["mAP"].low > 0 > lines[1].case["ahead"]["mAP"].high
    first = found[1].scored[0]
    whole = evaluate_scores(first.scores, first.labels, first.observed)
    assert lines[0]["mAP"][0] == pytest.approx(100 * whole.mAP)
    assert lines[0].case["tested"] == "2026-11-27 def, 2026-11-28 abc"


def test_unknown_methods_are_named_and_a_folder_is_needed(tmp_path: Path) -> None:
    settings = Settings(configs=("tiny.yaml",), methods=("svm",))
    with pytest.raises(ConfigError, match=r"'svm'; choose from: prototype_contrast,.*, random fo"):
        bench_accuracy(Console(), settings, out=tmp_path)
    with pytest.raises(ConfigError, match="--out is missing"):
        bench_accuracy(Console(), settings)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_logs")
def test_the_benchmark_tunes_tests_and_resumes(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.bench.accuracy.RESAMPLES", 100)
    config = override(
        tiny_config,
        {
            "run.folder": str(tmp_path / "runs"),
            "train.epochs": 2,
            "search.trials": 2,
            "search.grace_epochs": 1,
            "search.space": {"optimizer.lr": {"low": 0.001, "high": 0.01}},
        },
    )
    file, out = write_config(config, tmp_path / "tiny.yaml"), tmp_path / "out"
    methods = ("prototype_contrast", "logistic regression")

    def bench() -> str:
        console = Console(file=io.StringIO(), width=200)
        settings = Settings(configs=(str(file),), methods=methods, searches=2, seeds=1)
        bench_accuracy(console, settings, out=out)
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    told = bench()
    assert "| prototype_contrast | " in told
    assert "| logistic regression | " in told
    assert (out / "accuracy.svg").read_text().startswith("<?xml")
    files = {path: path.stat().st_mtime_ns for path in out.glob("tiny/*/search-*/seed-*")}
    assert len(files) == 2 * 2 * 2  # methods, searches, scores and settings
    kept = json.loads((out / "tiny/prototype_contrast/search-0/seed-0.json").read_text())
    params = kept["params"]
    assert kept["tested"].endswith(current_code().commit[:10])
    assert f" {kept['tested']} |" in told
    searched = {"margin", "temperature", "clip_weight", "hard_clips"}
    assert set(params) == {"optimizer.lr", *(f"loss.{name}" for name in searched)}
    study = optuna.load_study(
        study_name="prototype_contrast",
        storage=f"sqlite:///{out / 'tiny/prototype_contrast/search-0/study.db'}",
    )
    assert study.trials[0].params == {path: flatten(config)[path] for path in params}
    [sweep] = list_runs(tracking_uri(config.tracking, config.run.folder))
    assert sweep.trials == 2
    (out / "tiny/prototype_contrast/search-1/seed-0.parquet").unlink()
    again = bench()
    made_again = {path.name for path, made in files.items() if path.stat().st_mtime_ns != made}
    assert made_again == {"seed-0.parquet", "seed-0.json"}
    figures = [line.split("|")[2:6] for line in (told, again) for line in line.splitlines()[9:11]]
    assert figures[:2] == figures[2:]
