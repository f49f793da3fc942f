"""Scores of clips by models that have not seen them: a run is trained again, without a fold each.

A run's own model remembers its training clips, so its scores of them say little about their
labels. A model trained on the other folds, with the run's settings, knows nothing of them.

Axes: N clips, C classes.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Int64

import raymc
from raymc.config import Config
from raymc.data.feed.batches import Block, block_from_table, decode_tokens
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.feed.looks import class_looks
from raymc.data.feed.shared import shares_queries
from raymc.data.labels import label_counts
from raymc.data.leaks import contents_of, videos_in
from raymc.data.shards import Dataset, Manifest, Shard, read_shard
from raymc.data.shards.means import means_of, sample_of
from raymc.errors import DataError, ResourceError
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.events import Event, Stepped
from raymc.runtime.threads import computing_threads
from raymc.training.bundle import DESCRIPTION, Bundle
from raymc.training.learner import make_learner
from raymc.training.loop import train_epoch
from raymc.training.runs import RESULTS, run_of
from raymc.training.validation import predict

_MEMORY = 0.5  # share of the free memory that the clips may take
Progress = Callable[[int, int], None]  # steps done, of all


@dataclass(frozen=True)
class Clips:
    """All clips of some splits of a dataset, in memory, one split after the other.

    Attributes:
        dataset: Whose they are.
        table: The columns of the shards.
        splits: [N], the split of each clip.
    """

    dataset: Dataset
    table: pa.Table
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.splits)

    @cached_property
    def ids(self) -> list[str]:
        """The clips' ids."""
        return self.table["id"].to_pylist()

    @cached_property
    def block(self) -> Block:
        """Tokens, labels and what was observed."""
        return block_from_table(self.table, self.dataset.manifest)

    @cached_property
    def videos(self) -> list[str]:
        """What names each clip's video: its id, if nothing else does."""
        return [video or name for name, video in zip(self.ids, videos_in(self.table))]

    @cached_property
    def groups(self) -> Int64[np.ndarray, " N"]:
        """The clips that belong together: of one video, or of equal content."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        keys: dict[object, int] = {}
        contents = contents_of(self.table, self.dataset.manifest.modalities)
        edges = [
            (row, keys.setdefault(key, len(keys)))
            for row, pair in enumerate(zip(self.videos, contents))
            for key in pair
            if key is not None
        ]
        rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
        size = len(self) + len(keys)
        graph = coo_array((np.ones(len(rows)), (rows, len(self) + columns)), shape=(size, size))
        found = connected_components(graph, directed=False)[1][: len(self)]
        return np.unique(found, return_inverse=True)[1].astype(np.int64)


def read_clips_of(dataset: Dataset, splits: Sequence[str]) -> Clips:
    """Read all clips of some splits; splits without rows are passed over.

    Raises:
        DataError: None has rows, or a shard can't be read.
        ResourceError: They would take more than half of the free memory.
    """
    import psutil

    there = [name for name in dict.fromkeys(splits) if dataset.manifest.rows(name)]
    shards = [(name, shard) for name in there for shard in dataset.manifest.splits[name]]
    if not shards:
        raise DataError(f"{dataset.path} has no rows in {', '.join(splits)}")
    size = sum(shard.bytes for _, shard in shards)
    free = psutil.virtual_memory().available
    if size > _MEMORY * free:
        raise ResourceError(
            f"the clips of {dataset.path} take {size / 1e9:,.1f} GB, which is more than half of "
            f"the free memory ({free / 1e9:,.1f} GB): run this on a larger machine"
        )
    tables = [read_shard(dataset, shard) for _, shard in shards]
    return Clips(
        dataset,
        pa.concat_tables(tables, promote_options="permissive").combine_chunks(),
        tuple(name for name, shard in shards for _ in range(shard.rows)),
    )


def draw_folds(
    labels: Bool[np.ndarray, "N C"], groups: Int64[np.ndarray, " N"], folds: int, *, seed: int = 0
) -> Int64[np.ndarray, " N"]:
    """Draw the fold of each clip, balanced by label; clips of a group are in one fold.

    There are fewer folds if there are fewer groups.
    """
    from iterstrat.ml_stratifiers import IterativeStratification

    carried = np.zeros((groups.max() + 1, labels.shape[1]), dtype=bool)
    np.logical_or.at(carried, groups, labels)
    folds = min(folds, len(carried))
    random = np.random.RandomState(seed % 2**32)
    drawn = IterativeStratification(carried, np.full(folds, 1 / folds), random)
    return drawn.astype(np.int64)[groups]


@dataclass(frozen=True)
class Training:
    """One model to train: on which clips, and which it scores then; both are row numbers."""

    name: str
    train: Int64[np.ndarray, " _"]
    held_out: Int64[np.ndarray, " _"]


def trainings_of(
    clips: Clips,
    folds: Int64[np.ndarray, " N"],
    *,
    train_on: Sequence[str],
    share: float = 1.0,
    seed: int = 0,
) -> list[Training]:
    """Return a training for each fold: on the clips of the other folds, or on a share of them.

    Args:
        clips: All clips.
        folds: The fold of each.
        train_on: Splits whose clips are trained on; those of others are only scored.
        share: Of the groups of clips. A smaller share is part of a larger one.
        seed: Of the draw of the share.
    """
    count = int(folds.max()) + 1
    may_train = np.isin(clips.splits, list(train_on))
    order = np.random.default_rng(seed).permutation(clips.groups.max() + 1)
    found = []
    for fold in range(count):
        rows = np.flatnonzero((folds != fold) & may_train)
        present = np.isin(order, clips.groups[rows])
        chosen = order[present][: max(1, round(share * present.sum()))]
        found.append(
            Training(
                name=f"fold {fold + 1} of {count}, share {share:g}",
                train=rows[np.isin(clips.groups[rows], chosen)],
                held_out=np.flatnonzero(folds == fold),
            )
        )
    return found


def best_epoch(bundle: Bundle) -> int:
    """Return the epoch from which a bundle was made."""
    return int(json.loads((bundle.folder / DESCRIPTION).read_text())["epoch"])


def out_of_fold_scores(
    bundle: Bundle,
    clips: Clips,
    trainings: Sequence[Sequence[Training]],
    *,
    device: torch.device,
    seed: int = 0,
    progress: Progress = lambda done, steps: None,
) -> list[Float32[np.ndarray, "N C"]]:
    """Train models as a bundle was, up to its best epoch; return their scores of other clips.

    The scores of each model are kept in the bundle's run, so that an interrupted call resumes,
    and another is quick.

    Args:
        bundle: Whose settings and number of epochs are used.
        clips: All clips.
        trainings: Lists of models; each clip is held out from one model of a list.
        device: Where to train.
        seed: That drew the trainings.
        progress: Called with the number of steps done and of all steps.

    Returns:
        The scores by the models of each list.

    Raises:
        DivergedError: The loss became infinite or NaN.
    """
    epochs = best_epoch(bundle)
    size = bundle.config.batch.size
    total = sum(epochs * -(-len(one.train) // size) for each in trainings for one in each)
    done, found = 0, []
    for each in trainings:
        scores = np.zeros((len(clips), len(bundle.vocabulary)), dtype=np.float32)
        for training in each:

            def told(steps: int, done: int = done) -> None:
                progress(done + steps, total)

            scores[training.held_out] = _stored(bundle, clips, training, epochs, device, seed, told)
            done += epochs * -(-len(training.train) // size)
            progress(done, total)
        found.append(scores)
    return found


def _stored(
    bundle: Bundle,
    clips: Clips,
    training: Training,
    epochs: int,
    device: torch.device,
    seed: int,
    told: Callable[[int], None],
) -> Float32[np.ndarray, "_ C"]:
    """Return a model's scores of the clips that it has not seen, trained now or earlier."""
    manifest = clips.dataset.manifest
    belongs_to = {
        "dataset": manifest.digest(),
        "bundle": bundle.digest,
        "training": training.name,
        "splits": ",".join(dict.fromkeys(clips.splits)),
        "seed": str(seed),
        "device": device.type,
        "raymc": raymc.__version__,
        "results": str(RESULTS),
    }
    run = run_of(bundle.folder)
    key = "-".join([training.name.translate({ord(" "): "-", ord(","): None}), str(seed)])
    file = run / "review" / f"{key}.parquet" if run else None
    held = training.held_out
    names = tuple(clips.ids[row] for row in held)
    if file is not None:
        with suppress(DataError):  # there is none, or it is of something else
            found = load_scored(file, belongs_to=belongs_to)
            if found.ids == names:
                return found.scores
    scores = train_and_score(
        bundle.config, clips, training, epochs=epochs, device=device, told=told
    )
    if file is not None:
        block = clips.block
        kept = ScoredSplit(
            ids=names,
            scores=scores,
            labels=block.labels[held],
            observed=block.observed[held],
            vocabulary=manifest.vocabulary,
            split=training.name,
            dataset_digest=manifest.digest(),
        )
        with suppress(OSError):  # the run may be another user's and read-only
            save_scored(kept, file, belongs_to=belongs_to)
    return scores


def train_and_score(
    config: Config,
    clips: Clips,
    training: Training,
    *,
    epochs: int,
    device: torch.device,
    told: Callable[[int], None] = lambda steps: None,
) -> Float32[np.ndarray, "_ C"]:
    """Train a model on some clips in this process; return its scores of those held out.

    It ends after `epochs`, on the learning rates of a run of `train.epochs`. `told` is called with
    the steps done.
    """
    feeds = feeds_of_rows(clips, training.train, training.held_out, config)
    learner = make_learner(config, clips.dataset.manifest, feeds, device=device)

    def emit(event: Event) -> None:
        if isinstance(event, Stepped):
            told((event.epoch - 1) * feeds.train.steps + event.step)

    with computing_threads(max(1, int(config.search.cpus_per_trial))):  # as workers compute
        for epoch in range(1, epochs + 1):
            train_epoch(learner, config, feeds.train, epoch, emit=emit)
        return predict(learner.result, feeds.val, device=device).scores


def feeds_of_rows(
    clips: Clips, train: Int64[np.ndarray, " _"], val: Int64[np.ndarray, " _"], config: Config
) -> Feeds:
    """Return the feeds of a run that trains on some clips and is validated on others."""
    manifest = clips.dataset.manifest
    modalities, vocabulary = manifest.modalities, manifest.vocabulary
    table, counts = clips.table.take(pa.array(train)), label_counts(clips.block.labels[train])
    is_shared = shares_queries(config, counts)
    return Feeds(
        train=feed_of_rows(clips, train, config),
        val=feed_of_rows(clips, val, config),
        class_counts=counts,
        means=means_of([sample_of(decode_tokens(table, modalities))], modalities),
        looks=class_looks([table], modalities, vocabulary) if is_shared else None,
    )


def feed_of_rows(clips: Clips, rows: Int64[np.ndarray, " _"], config: Config) -> Feed:
    """Return a feed of some clips."""
    table = clips.table.take(pa.array(rows))
    shard = Shard("clips/0.parquet", len(table), table.nbytes, sha256="")
    manifest: Manifest = replace(clips.dataset.manifest, splits={"clips": (shard,)})
    return Feed(
        lambda shards: (table for _ in shards),
        manifest,
        "clips",
        config=config.batch,
        seed=config.train.seed,
        keep=True,
    )
