"""What would make a dataset better: doubtful labels, duplicates, clips to label, rare classes.

`review` trains the bundle's settings again on parts of the dataset, and joins what is found.

Axes: N clips, C classes, E embedding.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Float32

from raymc.data.shards import Dataset, is_dataset, open_dataset, read_shard
from raymc.data.shards.tokens import PLACE_COLUMNS
from raymc.errors import DataError
from raymc.evaluation.media import embed_media, plan_of
from raymc.evaluation.review.doubts import Doubt, find_doubts
from raymc.evaluation.review.duplicates import Pair, find_pairs
from raymc.evaluation.review.learning_curves import FEWEST_VIDEOS, MORE, Curve, learning_curves
from raymc.evaluation.review.next_clips import Pick, pick_next
from raymc.evaluation.review.out_of_fold import (
    Clips,
    Training,
    best_epoch,
    draw_folds,
    out_of_fold_scores,
    read_clips_of,
    trainings_of,
)
from raymc.events import ExtractProgress, unheard
from raymc.features.extraction import ExtractPlan
from raymc.features.sources import Source, check_present, list_sources
from raymc.metrics.calibration import Calibration, fit_calibration
from raymc.runtime.device import device_here
from raymc.training.bundle import Bundle

REVIEWED = "reviewed"  # extra column: labels that a person has confirmed, as JSON
SHARES = (0.25, 0.5)  # of the clips, on which the learning curves' other models are trained
FEWEST_FOLDS = 2
_NAMED = 8  # labels in a line


Listener = Callable[[str, int, int], None]  # what is counted, how many are done, and of how many


@dataclass(frozen=True)
class Candidates:
    """Clips without labels, to choose from.

    Attributes:
        places: Of each, its `id`, and `path`, `start` and `end` where they are known.
        sources: Of each, the dataset's split or the address that it is from.
        probabilities: Of each label.
        embeddings: Of each clip.
        failures: What could not be read, `path: reason`.
    """

    places: tuple[dict[str, Any], ...]
    sources: tuple[str, ...]
    probabilities: Float[np.ndarray, "N C"]
    embeddings: Float32[np.ndarray, "N E"]
    failures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, repr=False)
class Review:
    """What a review has found.

    Attributes:
        bundle: The model.
        clips: All clips of its dataset.
        probabilities: Of each label of each clip, by models that have not seen the clip.
        models: How many of these were trained, each for `epochs` epochs.
        epochs: Those of the run up to its best epoch.
        doubts: Labels that look wrong.
        unjudged: Classes whose labels can't be judged, because the models do not recognise them.
        pairs: Clips that are there twice.
        candidates: Clips without labels.
        picks: Those of them to label next.
        curves: The learning curve of each class; empty if none were asked for.
    """

    bundle: Bundle
    clips: Clips
    probabilities: Float[np.ndarray, "N C"]
    models: int
    epochs: int
    doubts: Sequence[Doubt]
    unjudged: Sequence[str]
    pairs: Sequence[Pair]
    candidates: Candidates
    picks: Sequence[Pick]
    curves: Sequence[Curve]

    def __repr__(self) -> str:
        """Return of what it is, and how much was found."""
        found = {
            "labels that look wrong": self.doubts,
            "pairs of duplicates": self.pairs,
            "clips to label next": self.picks,
        }
        told = ", ".join(f"{len(some):,} {name}" for name, some in found.items())
        return f"Review({self.clips.dataset.path!r}: {len(self.clips):,} clips, {told})"

    def place(self, row: int) -> dict[str, Any]:
        """Return a clip's `id`, `split`, and its `path`, `start` and `end` where they are known."""
        return {"id": self.clips.ids[row], "split": self.clips.splits[row], **self._places[row]}

    def labels_of(self, row: int) -> list[str]:
        """Return the labels that a clip was given."""
        names = np.asarray(self.bundle.vocabulary.names, dtype=object)
        return names[self.clips.block.labels[row]].tolist()

    @cached_property
    def _places(self) -> list[dict[str, Any]]:
        return _places(self.clips.table)

    def label_frame(self) -> pd.DataFrame:
        """Return a row for each label that looks wrong, the worst first.

        `given` says whether the clip has the label. `probability` is that of the label, `quality`
        how much speaks for the label as it is.
        """
        names = self.bundle.vocabulary.names
        rows = [
            {
                **self.place(one.row),
                "labels": self.labels_of(one.row),
                "label": names[one.label],
                "given": one.is_given,
                "probability": one.probability,
                "quality": one.quality,
            }
            for one in self.doubts
        ]
        columns = ["id", "split", *self._columns, "labels", "label", "given"]
        return pd.DataFrame(rows, columns=[*columns, "probability", "quality"])

    def duplicate_frame(self) -> pd.DataFrame:
        """Return a row for each pair of clips that are the same or nearly, the most alike first."""
        rows = []
        for one in self.pairs:
            here, there = self.place(one.row), self.place(one.other)
            rows.append(
                {
                    **here,
                    "labels": self.labels_of(one.row),
                    **{f"other_{key}": value for key, value in there.items()},
                    "other_labels": self.labels_of(one.other),
                    "similarity": one.similarity,
                    "equal": one.is_equal,
                }
            )
        own = ["id", "split", *self._columns, "labels"]
        columns = [*own, *(f"other_{name}" for name in own), "similarity", "equal"]
        return pd.DataFrame(rows, columns=columns)

    def next_frame(self) -> pd.DataFrame:
        """Return a row for each clip to label next, the most useful first.

        `likely` are the labels that the model finds more likely than not.
        """
        names = np.asarray(self.bundle.vocabulary.names, dtype=object)
        rows = [
            {
                **self.candidates.places[one.row],
                "source": self.candidates.sources[one.row],
                "likely": names[self.candidates.probabilities[one.row] >= 0.5].tolist(),
                "uncertainty": one.uncertainty,
                "distance": one.distance,
            }
            for one in self.picks
        ]
        places = [x for x in ("path", "start", "end") if any(x in row for row in rows)]
        columns = ["id", *places, "source", "likely", "uncertainty", "distance"]
        return pd.DataFrame(rows, columns=columns)

    def class_frame(self) -> pd.DataFrame:
        """Return a row for each class: its clips, its average precision, and what more would bring.

        `AP` is that of models which have not seen the clips, with its 95 % interval; `gain_2x` and
        `gain_4x` are what twice and four times as many examples would add to it.
        """
        rows = []
        for one in self.curves:
            row: dict[str, Any] = {"label": one.label, "clips": one.clips, "videos": one.videos}
            row |= {"few": one.has_few, "AP": one.now.value}
            row |= {"AP_low": one.now.low, "AP_high": one.now.high}
            for times in MORE:
                gain = one.gains[times]
                row |= {f"gain_{times}x": gain.value}
                row |= {f"gain_{times}x_low": gain.low, f"gain_{times}x_high": gain.high}
            rows.append(row)
        gains = [f"gain_{t}x{end}" for t in MORE for end in ("", "_low", "_high")]
        columns = ["label", "clips", "videos", "few", "AP", "AP_low", "AP_high", *gains]
        return pd.DataFrame(rows, columns=columns)

    @property
    def _columns(self) -> list[str]:
        known = self._places[0] if self._places else {}
        return [name for name in ("path", "start", "end") if name in known]


def review(
    bundle: Bundle,
    dataset: Dataset,
    *,
    unlabelled: str = "",
    folds: int = 5,
    curves: bool = True,
    count: int = 50,
    device: str = "auto",
    seed: int = 0,
    listener: Listener = unheard,
) -> Review:
    """Review the dataset of a bundle.

    Trains a model for each fold with the bundle's settings, up to its best epoch, on the training
    and validation clips of the other folds. For learning curves, it trains two more for each fold,
    on half and on a quarter of these. Models are kept in the bundle's run, as scores.

    Args:
        bundle: The model.
        dataset: The one it was trained on.
        unlabelled: Address of a dataset or of videos to choose clips to label from; empty: the
            dataset's own clips without labels.
        folds: How many; fewer if there are fewer videos.
        curves: Whether to estimate learning curves.
        count: Clips to choose.
        device: `auto`, `cpu` or `gpu`.
        seed: Of folds and draws.
        listener: Called with the progress.

    Raises:
        BundleError: The bundle doesn't match the dataset.
        DataError: There are too few videos or labels, or something can't be read.
        DivergedError: A training diverged.
        ResourceError: The clips do not fit into memory, or a GPU is asked for and there is none.
    """
    bundle.check_dataset(dataset.manifest)
    bundle.check_labels(dataset.manifest)
    where = device_here(device)
    data = bundle.config.data
    splits = [x for x in (data.train, data.val, data.test) if dataset.manifest.rows(x)]
    dataset.verify(*splits)
    others = _opened(bundle, unlabelled, device, listener) if unlabelled else None
    clips = read_clips_of(dataset, splits)
    _check_folds(clips, folds)
    block = clips.block
    drawn = draw_folds(block.labels & block.observed, clips.groups, folds, seed=seed)
    shares = [1.0, *(SHARES[::-1] if curves else ())]
    trainings = {
        share: trainings_of(clips, drawn, train_on=(data.train, data.val), share=share, seed=seed)
        for share in shares
    }
    scores = out_of_fold_scores(
        bundle,
        clips,
        [trainings[share] for share in shares],
        device=where,
        seed=seed,
        progress=partial(listener, "steps of training"),
    )
    calibration = fit_calibration(scores[0], block.labels, block.observed)
    if calibration is None:
        raise DataError(f"{dataset.path} has no labels to review, or no clip without one of them")
    likely = calibration.probabilities(scores[0])
    confirmed = _confirmed(clips, bundle)
    doubts, unjudged = find_doubts(likely, block.labels, block.observed)
    bundle.model.to(where)
    embeddings = bundle.embed_tokens(block.tokens)[0]
    candidates = (
        _own_candidates(clips, likely, embeddings)
        if others is None
        else _unlabelled(bundle, clips, unlabelled, calibration, others)
    )
    labelled = embeddings[block.labels.any(axis=1)]
    return Review(
        bundle=bundle,
        clips=clips,
        probabilities=likely,
        models=len(shares) * (int(drawn.max()) + 1),
        epochs=best_epoch(bundle),
        doubts=[one for one in doubts if (one.row, one.label) not in confirmed],
        unjudged=[bundle.vocabulary.names[k] for k in unjudged],
        pairs=find_pairs(clips),
        candidates=candidates,
        picks=pick_next(candidates.probabilities, candidates.embeddings, labelled, count=count),
        curves=_curves(bundle, clips, scores, [trainings[share] for share in shares], seed)
        if curves
        else [],
    )


def review_lines(review: Review) -> list[str]:
    """Return what was found in a few sentences."""
    return [
        _doubt_line(review),
        *_unjudged_lines(review),
        _pair_line(review),
        _pick_line(review),
        *_class_lines(review.curves),
    ]


def _unjudged_lines(review: Review) -> Iterator[str]:
    if review.unjudged:
        yield (
            f"{len(review.unjudged):,} of {len(review.bundle.vocabulary):,} labels can't be judged "
            f"yet, as the models do not recognise them: {_named(review.unjudged)}."
        )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _doubt_line(review: Review) -> str:
    given = sum(one.is_given for one in review.doubts)
    clips = len({one.row for one in review.doubts})
    if not clips:
        rest = ", as far as they can be judged" if review.unjudged else ""
        return f"No label of {len(review.clips):,} clips looks wrong{rest}."
    return (
        f"{len(review.doubts):,} labels look wrong, in {clips:,} of {len(review.clips):,} clips: "
        f"{given:,} that are given, and {len(review.doubts) - given:,} that seem to be missing."
    )


def _pair_line(review: Review) -> str:
    splits = review.clips.splits
    across = sum(splits[one.row] != splits[one.other] for one in review.pairs)
    if not review.pairs:
        return "No duplicates in two splits or with other labels."
    return (
        f"{len(review.pairs):,} pairs of clips are the same or nearly: {across:,} in two splits, "
        f"{len(review.pairs) - across:,} in one split with other labels."
    )


def _pick_line(review: Review) -> str:
    if not len(review.candidates):
        return "No clips without labels to choose from."
    sources = ", ".join(dict.fromkeys(review.candidates.sources))
    return (
        f"{len(review.picks):,} of {len(review.candidates):,} clips without labels ({sources}) are "
        "worth labelling first: the model is unsure of them, and they differ from one another."
    )


def _class_lines(curves: Sequence[Curve]) -> Iterator[str]:
    few = [one.label for one in curves if one.has_few]
    if few:
        yield (
            f"{len(few):,} of {len(curves):,} labels are in fewer than {FEWEST_VIDEOS} videos, "
            f"which is too few: {_named(few)}."
        )


def _check_folds(clips: Clips, folds: int) -> None:
    videos = int(clips.groups.max()) + 1
    if min(folds, videos) < FEWEST_FOLDS:
        raise DataError(
            f"{clips.dataset.path} has clips of {videos} video only: a review needs two or more, "
            "because models are trained on some videos and judge the others"
        )


def _confirmed(clips: Clips, bundle: Bundle) -> set[tuple[int, int]]:
    """Return the rows and classes that a person has confirmed in an earlier review."""
    if REVIEWED not in clips.table.column_names:
        return set()
    numbers = {name: k for k, name in enumerate(bundle.vocabulary.names)}
    found = set()
    for row, text in enumerate(clips.table[REVIEWED].to_pylist()):
        with suppress(ValueError, TypeError):  # another tool's column of that name
            found |= {(row, numbers[name]) for name in json.loads(text) if name in numbers}
    return found


def _places(table: pa.Table) -> list[dict[str, Any]]:
    """Return `path`, `start` and `end` of each row, as far as the table has them."""
    names = {
        name: name.removesuffix("_seconds") for name in PLACE_COLUMNS if name in table.column_names
    }
    columns = [table[name].to_pylist() for name in names]
    if not names:
        return [{} for _ in range(len(table))]
    return [dict(zip(names.values(), values)) for values in zip(*columns)]


def _own_candidates(
    clips: Clips, likely: Float[np.ndarray, "N C"], embeddings: Float32[np.ndarray, "N E"]
) -> Candidates:
    """Return the dataset's own clips without a label, as models that have not seen them do."""
    seen = clips.table[REVIEWED].to_pylist() if REVIEWED in clips.table.column_names else ()
    rows = [
        row
        for row in np.flatnonzero(~clips.block.labels.any(axis=1))
        if not (seen and seen[row])  # a person has said that no label fits
    ]
    places = _places(clips.table)
    return Candidates(
        places=tuple({"id": clips.ids[row], **places[row]} for row in rows),
        sources=tuple(clips.splits[row] for row in rows),
        probabilities=likely[rows],
        embeddings=embeddings[rows],
    )


# some clips, with their embeddings and scores; or what could not be read
_Embedded = Iterator[tuple[list[dict[str, Any]], np.ndarray, np.ndarray] | str]


def _opened(bundle: Bundle, address: str, device: str, listener: Listener) -> _Embedded:
    """Return what embeds and scores clips of a dataset, or of videos, checked at once.

    Raises:
        BundleError: The bundle can't read their features, or make them.
        DataError: They can't be found.
    """
    if is_dataset(address):
        dataset = open_dataset(address)
        bundle.check_dataset(dataset.manifest)
        return _rows_of_dataset(bundle, dataset, listener)
    sources = list_sources(address)
    check_present(sources)
    return _clips_of_media(bundle, sources, plan_of(bundle, device=device), listener)


def _unlabelled(
    bundle: Bundle, clips: Clips, address: str, calibration: Calibration, others: _Embedded
) -> Candidates:
    """Return clips without labels of another dataset, or of videos, as the bundle sees them.

    Parts of videos that are in the reviewed dataset are left out.

    Raises:
        DataError: There are none, or they can't be read.
    """
    known = _Known(clips)
    places, embeddings, scores, failures = list[dict[str, Any]](), [], [], list[str]()
    for part in others:
        if isinstance(part, str):
            failures.append(part)
            continue
        some, embedded, scored = part
        new = np.array([not known.has(place) for place in some], dtype=bool)
        places += [place for place, is_new in zip(some, new) if is_new]
        embeddings.append(embedded[new])
        scores.append(scored[new])
    if not places:
        rest = f" ({failures[0]})" if failures else ""
        raise DataError(
            f"{address} has no clip without labels that is not in {clips.dataset.path} "
            f"already{rest}"
        )
    fitted = bundle.calibration or calibration
    return Candidates(
        places=tuple(places),
        sources=(address,) * len(places),
        probabilities=fitted.probabilities(np.concatenate(scores)),
        embeddings=np.concatenate(embeddings),
        failures=tuple(failures),
    )


class _Known:
    """The parts of videos that a dataset has."""

    def __init__(self, clips: Clips) -> None:
        self._parts: dict[str, list[tuple[float, float]]] = {}
        for place in _places(clips.table):
            if place.get("path") is not None:
                self._parts.setdefault(absolute(place["path"]), []).append(_times(place))

    def has(self, place: Mapping[str, Any]) -> bool:
        """Return whether one of them overlaps a clip."""
        start, end = _times(place)
        parts = self._parts.get(absolute(place["path"]), []) if place.get("path") else []
        return any(start < there[1] and there[0] < end for there in parts)


def _times(place: Mapping[str, Any]) -> tuple[float, float]:
    start, end = place.get("start"), place.get("end")
    return start or 0.0, math.inf if end is None else end


def absolute(path: str) -> str:
    """Return a local path as one from the root, so that two ways to write it are equal."""
    return path if "://" in path else os.path.abspath(path)


def _rows_of_dataset(bundle: Bundle, dataset: Dataset, listener: Listener) -> _Embedded:
    shards = [shard for shards in dataset.manifest.splits.values() for shard in shards]
    columns = ["id", "labels", *bundle.columns_in(dataset.manifest)]
    for number, shard in enumerate(shards, 1):
        table = read_shard(dataset, shard, columns, optional=PLACE_COLUMNS)
        table = table.filter(pa.array([not labels for labels in table["labels"].to_pylist()]))
        ids = table["id"].to_pylist()
        places = [{"id": name, **place} for name, place in zip(ids, _places(table))]
        yield places, *bundle.embed_tokens(bundle.tokens_of(table))
        listener("unlabelled shards", number, len(shards))


def _clips_of_media(
    bundle: Bundle, sources: Sequence[Source], plan: ExtractPlan, listener: Listener
) -> _Embedded:
    def told(progress: ExtractProgress) -> None:
        listener("unlabelled videos", progress.done_files, progress.files)

    for one in embed_media(bundle, sources, plan, listener=told):
        if isinstance(one, str):
            yield one
            continue
        times = {"start": one.clip.start_seconds, "end": one.clip.end_seconds}
        place = {"id": one.clip.id, "path": one.source.path, **times}
        yield [place], one.embedding[None], one.scores[None]


def _curves(
    bundle: Bundle,
    clips: Clips,
    scores: Sequence[Float32[np.ndarray, "N C"]],
    trainings: Sequence[Sequence[Training]],
    seed: int,
) -> list[Curve]:
    """Return the learning curves, from the scores by models of all sizes, the largest first."""
    block, data = clips.block, bundle.config.data
    labels = block.labels & block.observed
    may_train = np.isin(clips.splits, [data.train, data.val])
    carried = np.zeros((clips.groups.max() + 1, labels.shape[1]), dtype=bool)
    np.logical_or.at(carried, clips.groups[may_train], labels[may_train])
    sizes = [np.mean([labels[one.train].sum(axis=0) for one in each], axis=0) for each in trainings]
    return learning_curves(
        scores[::-1],
        labels,
        block.observed,
        names=bundle.vocabulary.names,
        sizes=np.stack(sizes[::-1]).astype(np.float64),
        clips=labels[may_train].sum(axis=0),
        videos=carried.sum(axis=0),
        seed=seed,
    )
