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

SHARDS = 64  # of more, as many are read, evenly spread
CLIPS = 32_768
ROUNDS = 20
MOST_CLASSES = 10_000  # the regression's matrix has the square of this many numbers


def class_looks(
    tables: Iterable[pa.Table], modalities: Sequence[Modality], vocabulary: Vocabulary
) -> Float32[np.ndarray, "C F"]:
    """Return how each class changes the mean tokens of its clips; zeros where no clip has it.

    That is the ridge regression of clips' mean tokens on their labels, so what comes from another
    label of the same clips is not counted twice. A modality counts as much as any other.

    Args:
        tables: Rows of training shards, of which the first `CLIPS` count.
        modalities: Those that the model reads.
        vocabulary: The classes.

    Raises:
        DataError: The rows lack a column, or have tokens or labels that the manifest doesn't know.
    """
    from scipy.sparse import csr_array, vstack  # these take seconds to load
    from sklearn.linear_model import Ridge

    means: list[dict[str, np.ndarray]] = []
    labels, clips = [], 0
    for table in tables:
        if clips == CLIPS:
            break
        some = table.slice(0, CLIPS - clips)
        clips += len(some)
        means.append({name: _means(x) for name, x in decode_tokens(some, modalities).items()})
        entries = label_entries(some["labels"], vocabulary)
        shape = (len(some), len(vocabulary))
        labels.append(csr_array((np.ones(len(entries[0]), np.float32), entries), shape))
    columns = [_balanced(np.concatenate([x[one.name] for x in means])) for one in modalities]
    fitted = Ridge(alpha=1.0, fit_intercept=False, solver="cholesky")
    fitted.fit(vstack(labels, format="csr"), np.concatenate(columns, axis=1))
    return np.ascontiguousarray(fitted.coef_.T, dtype=np.float32)


def _means(tokens: Ragged) -> Float32[np.ndarray, "N D"]:
    """Return each clip's mean token as stored; nan where it has none."""
    means = np.full((len(tokens), tokens.values.shape[1]), np.nan, np.float32)
    for row in np.flatnonzero(tokens.lengths).tolist():
        means[row] = tokens.row(row).mean(axis=0, dtype=np.float32)
    return means


def _balanced(means: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Subtract what clips have in common, and divide by how far they lie from it; 0 for nan."""
    there = ~np.isnan(means[:, 0])
    if not there.any():
        return np.zeros_like(means)
    means = np.where(there[:, None], means - means[there].mean(axis=0), 0)
    spread = np.sqrt((means[there] ** 2).sum(axis=1).mean())
    return means / max(spread, np.finfo(np.float32).tiny)


def group_look_alikes(
    looks: Float32[np.ndarray, "C F"], counts: Int64[np.ndarray, " C"], groups: int
) -> Int64[np.ndarray, " C"]:
    """Return the group of each class, such that classes of a group look alike.

    That is k-means on directions with groups of at most ⌈C / G⌉ classes: frequent classes, whose
    looks are known best, choose their group first and have more weight in its centre.

    Args:
        looks: Of `class_looks`.
        counts: How many training clips have each class; not all may be 0.
        groups: Their number G.
    """
    from sklearn.cluster import KMeans

    directions, weights, known = _unit(looks), np.sqrt(counts), counts > 0
    clusters = KMeans(min(groups, int(known.sum())), random_state=0)
    clusters.fit(directions[known], sample_weight=weights[known])
    centres = np.zeros((groups, looks.shape[1]))
    centres[: clusters.n_clusters] = clusters.cluster_centers_
    order = np.argsort(-counts, kind="stable").tolist()
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
    """Return the likest group of each class, in this order, that still has room."""
    classes, groups = likeness.shape
    room = np.full(groups, -(-classes // groups))
    found = np.empty(classes, dtype=np.int64)
    for k in order:
        found[k] = np.argmax(np.where(room > 0, likeness[k], -np.inf))
        room[found[k]] -= 1
    return found


def _unit(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
