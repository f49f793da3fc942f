"""Which classes look alike, found from the training clips: these share a class query.

A model with fewer class queries than classes has one for each group of classes, and learns more if
the classes of a group look alike (`jobs/EXPERIMENTS.md`, "Groups of look-alikes").

Axes: N clips, F features of a clip, C classes, G groups.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, Float64, Int64

from raymc.data.feed.batches import decode_tokens
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Ragged
from raymc.data.shards.ragged import label_entries

# Of larger splits, so much is read, evenly spread.
SHARDS = 64
CLIPS = 32_768
MOST_CLASSES = 10_000  # the regression's matrix has the square of this many numbers
ROUNDS = 20  # most end sooner, with groups that don't change any more


def class_looks(
    tables: Iterable[pa.Table], modalities: Sequence[Modality], vocabulary: Vocabulary
) -> Float32[np.ndarray, "C F"]:
    """Return how each class changes the mean tokens of its clips; zeros where no clip has it.

    That is the ridge regression of clips' mean tokens on their labels, so what comes from another
    label of the same clips is not counted twice. A label that was not observed counts as absent. A
    modality counts as much as any other, for the clips that have it.

    Args:
        tables: Rows of training shards.
        modalities: Those that the model reads.
        vocabulary: The classes.

    Raises:
        DataError: The rows lack a modality's column, or have tokens or labels that the manifest
            doesn't know.
    """
    from scipy.sparse import csr_array, vstack  # these take seconds to load
    from sklearn.linear_model import Ridge

    means, labels = [], []
    for table in tables:
        means.append([_means(tokens) for tokens in decode_tokens(table, modalities).values()])
        entries = label_entries(table["labels"], vocabulary)
        ones = np.ones(len(entries[0]), np.float32)
        labels.append(csr_array((ones, entries), (len(table), len(vocabulary))))
    features = [_balanced(np.concatenate(of_modality)) for of_modality in zip(*means)]
    fitted = Ridge(alpha=1.0, fit_intercept=False, solver="cholesky")
    fitted.fit(vstack(labels, format="csr"), np.concatenate(features, axis=1))
    return np.ascontiguousarray(fitted.coef_.T, dtype=np.float32)


def _means(tokens: Ragged) -> Float32[np.ndarray, "N D"]:
    """Return each clip's mean token as stored; nan where it has none."""
    means = np.full((len(tokens), tokens.values.shape[1]), np.nan, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # not all tokens need be finite
        for row in np.flatnonzero(tokens.lengths).tolist():
            means[row] = tokens.row(row).mean(axis=0, dtype=np.float32)
    return means


def _balanced(means: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Subtract what clips have in common, and divide by how far they lie from it on average.

    Clips without the modality are 0, and so are those whose tokens are not finite: training says
    what is wrong with these.
    """
    there = np.isfinite(means).all(axis=1)
    known = means[there].astype(np.float64)
    known -= known.mean(axis=0) if len(known) else 0
    spread = np.linalg.norm(known) / np.sqrt(max(len(known), 1))
    balanced = np.zeros_like(means)
    balanced[there] = known / (spread or 1)
    return balanced


def group_look_alikes(
    looks: Float32[np.ndarray, "C F"], counts: Int64[np.ndarray, " C"], groups: int
) -> Int64[np.ndarray, " C"]:
    """Return the group of each class, such that classes of a group look alike.

    That is k-means on directions with groups of at most ⌈C / G⌉ classes: frequent classes, whose
    looks are known best, choose their group first and have more weight in its centre. Classes
    without looks come last, and fill the groups with most room.

    Args:
        looks: Of `class_looks`.
        counts: How many training clips have each class.
        groups: Their number G.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    directions, known = _unit(looks), looks.any(axis=1)
    weights = np.where(known, np.sqrt(counts), 0)
    order = np.argsort(-weights, kind="stable").tolist()
    centres = np.zeros((groups, looks.shape[1]))
    if distinct := len(np.unique(directions[known], axis=0)):
        clusters = KMeans(min(groups, distinct), random_state=0)
        with threadpool_limits(1, user_api="openmp"):  # another number ends in other sums
            clusters.fit(directions[known], sample_weight=weights[known])
        centres[: clusters.n_clusters] = clusters.cluster_centers_
    found = np.full(len(looks), -1)
    for _ in range(ROUNDS):
        before, found = found, _with_room(directions @ _unit(centres).T, order)
        if np.array_equal(found, before):
            break
        centres[:] = 0
        np.add.at(centres, found, directions * weights[:, None])
    return found


def _with_room(
    likeness: Float64[np.ndarray, "C G"], order: Sequence[int]
) -> Int64[np.ndarray, " C"]:
    """Return the group that each class is most like, of those with room; classes come in order.

    Of equally like groups it is one with most room.
    """
    classes, groups = likeness.shape
    room = np.full(groups, -(-classes // groups))
    found = np.empty(classes, dtype=np.int64)
    for k in order:
        found[k] = np.argmax(np.where(room > 0, likeness[k] + 1e-9 * room, -np.inf))
        room[found[k]] -= 1
    return found


def _unit(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
