"""What people would try first: classifiers of scikit-learn, one per label, and ML-kNN.

They read a clip as one vector: the mean of each modality's tokens over equal parts of its time,
end to end.
Axes: N clips, C classes, F features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from optuna.trial import BaseTrial
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raymc.data.feed.feed import Feed

PARTS = (1, 4, 12)  # of a clip's time
TREES = 300
SEARCH_TREES = 100  # while tuning: more trees only reduce the noise of a score
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Matrix:
    """A split as classifiers read it; rows in the dataset's order."""

    features: Float[np.ndarray, "N F"]
    labels: Bool[np.ndarray, "N C"]
    observed: Bool[np.ndarray, "N C"]


@dataclass(frozen=True)
class Baseline:
    """A way to score clips: how a trial's settings are drawn, and how it fits and scores.

    What `suggest` returns without drawing it, such as fewer trees, applies only while tuning.
    """

    suggest: Callable[[BaseTrial], Params]
    score: Callable[[Params, int, Matrix, np.ndarray], Float[np.ndarray, "N C"]]


def parts_worth_trying(feed: Feed) -> tuple[int, ...]:
    """Return those of `PARTS` that tuning chooses from: at most the longest clip's tokens."""
    longest = max(
        int(lengths.max()) for batch in feed.evaluation() for lengths in batch.lengths.values()
    )
    return tuple(parts for parts in PARTS if parts <= max(1, longest))


def read_matrix(feed: Feed, parts: int) -> Matrix:
    """Read a split, each clip as the means of this many equal parts of its time."""
    rows, features, labels, observed = [], [], [], []
    for batch in feed.evaluation():
        pooled = [
            _pooled(batch.tokens[m.name].float().numpy(), batch.lengths[m.name].numpy(), parts)
            * m.scale
            + m.offset
            for m in feed.manifest.modalities
        ]
        rows.append(batch.rows.numpy())
        features.append(np.concatenate(pooled, axis=1))
        labels.append(batch.labels.numpy())
        observed.append(batch.observed.numpy())
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Matrix(*(np.concatenate(part)[order] for part in (features, labels, observed)))


def _pooled(
    tokens: Float[np.ndarray, "N T D"], lengths: np.ndarray, parts: int
) -> Float[np.ndarray, "N F"]:
    """Return the mean of each part's tokens, [N, parts · D].

    Clips with fewer tokens than parts repeat them; those without the modality are 0, as stored.
    """
    pooled = np.zeros((len(tokens), parts, tokens.shape[2]))
    for row, length in enumerate(lengths):
        for part in range(parts if length else 0):
            first = part * length // parts
            last = max(first + 1, (part + 1) * length // parts)
            pooled[row, part] = tokens[row, first:last].mean(axis=0)
    return pooled.reshape(len(tokens), -1)


def one_per_label(
    make: Callable[[Params, int, int], BaseEstimator],
) -> Callable[[Params, int, Matrix, np.ndarray], np.ndarray]:
    """Return a scorer that fits an estimator a label, on the clips for which it was observed.

    `make` takes what is tuned, a seed and the number of features.
    """

    def score(params: Params, seed: int, train: Matrix, features: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(features), train.labels.shape[1]))
        for k in range(train.labels.shape[1]):
            known = train.observed[:, k]
            truth = train.labels[known, k]
            if len(np.unique(truth)) == 2:
                estimator: Any = make(params, seed, train.features.shape[1])
                estimator.fit(train.features[known], truth)
                scores[:, k] = estimator.predict_proba(features)[:, 1]
        return scores

    return score


def ml_knn(
    params: Params, seed: int, train: Matrix, features: Float[np.ndarray, "N F"]
) -> Float[np.ndarray, "N C"]:
    """Score by ML-kNN: the posterior of each label given how many of the k nearest have it.

    M.-L. Zhang and Z.-H. Zhou 2007, *ML-KNN: A lazy learning approach to multi-label learning*,
    Pattern Recognition 40(7), Eq. 2 to 4, with Laplace smoothing 1. The neighbours for a label are
    clips for which it was observed. There is nothing random in it, so that all seeds agree.
    """
    scaler = StandardScaler().fit(train.features)
    known_features, new_features = map(scaler.transform, (train.features, features))
    scores = np.zeros((len(features), train.labels.shape[1]))
    patterns, pattern_of = np.unique(train.observed.T, axis=0, return_inverse=True)
    for number, known in enumerate(patterns):
        classes = np.flatnonzero(pattern_of.ravel() == number)
        k = min(int(params["neighbours"]), int(known.sum()) - 1)
        if k < 1:
            continue
        labels = train.labels[np.ix_(known, classes)]
        nearest = NearestNeighbors(n_neighbors=k).fit(known_features[known])
        around_train = labels[nearest.kneighbors(return_distance=False)].sum(axis=1)
        around = labels[nearest.kneighbors(new_features, return_distance=False)].sum(axis=1)
        for at, c in enumerate(classes):
            scores[:, c] = _posterior(labels[:, at], around_train[:, at], k)[around[:, at]]
    return scores


def _posterior(
    labels: Bool[np.ndarray, " N"], around: Int64[np.ndarray, " N"], k: int
) -> Float[np.ndarray, " k_plus_1"]:
    """Return the probability of a label for each number of its neighbours that have it."""
    prior = (1 + labels.sum()) / (2 + len(labels))
    have, lack = (np.bincount(around[labels == has], minlength=k + 1) for has in (True, False))
    likely = prior * (1 + have) / (k + 1 + have.sum())
    unlikely = (1 - prior) * (1 + lack) / (k + 1 + lack.sum())
    return likely / (likely + unlikely)


def _logistic(params: Params, seed: int, features: int) -> BaseEstimator:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=params["C"], max_iter=300, random_state=seed)
    )


def _forest(params: Params, seed: int, features: int) -> BaseEstimator:
    return RandomForestClassifier(
        params.get("trees", TREES),
        max_features=min(features, round(params["times_root"] * features**0.5)),
        min_samples_leaf=params["min_samples_leaf"],
        random_state=seed,
    )


BASELINES: Mapping[str, Baseline] = {
    "logistic regression": Baseline(
        lambda trial: {
            "C": trial.suggest_float("C", 1e-4, 10.0, log=True),
        },
        one_per_label(_logistic),
    ),
    "ML-kNN": Baseline(
        lambda trial: {
            "neighbours": trial.suggest_int("neighbours", 3, 40),
        },
        ml_knn,
    ),
    "random forest": Baseline(
        lambda trial: {
            "times_root": trial.suggest_float("times_root", 1.0, 4.0, log=True),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
            "trees": SEARCH_TREES,
        },
        one_per_label(_forest),
    ),
}
