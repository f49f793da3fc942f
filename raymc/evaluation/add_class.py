"""A new class for a trained model from a few clips, without training: the mean of their embeddings.

The new prototype is the mean of the examples' unit embeddings, as in J. Snell, K. Swersky and
R. Zemel 2017, *Prototypical Networks for Few-shot Learning*, Eq. 1, here of unit length like all
prototypes. What the class is worth is measured by leave-one-out: each video's clips are scored by
the prototype of the other videos, beside clips that lack the label. Nothing of the other classes
changes, and so their scores stay bit for bit.

Axes: N clips, E embedding dim.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from raymc.data.feed.batches import block_from_table
from raymc.data.leaks import VIDEO_COLUMNS, videos_in
from raymc.data.shards import Dataset, is_dataset, open_dataset, read_shard
from raymc.errors import BundleError, ConfigError, DataError, counted
from raymc.evaluation.media import EmbeddedClip, embed_media, plan_of
from raymc.evaluation.neighbours import unit
from raymc.events import ExtractProgress
from raymc.features.sources import Source, check_present, list_sources
from raymc.metrics.calibration import Calibration
from raymc.metrics.text import percent
from raymc.metrics.thresholds import thresholds_at_precision
from raymc.training.bundle import Bundle, add_prototype
from raymc.training.runs import own_dataset

_SAME = 1e-6  # cosine distance below which two clips are one
Listener = Callable[[ExtractProgress], None]


@dataclass(frozen=True)
class Share:
    """A share of clips, `count` of `of`, with its exact 95 % interval of Clopper and Pearson."""

    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The ends, within which the share of all such clips likely lies."""
        from scipy.stats import binomtest

        if not self.of:
            return 0.0, 1.0
        found = binomtest(self.count, self.of).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count} of {self.of} ({100 * low:.0f} to {100 * high:.0f} %)"


@dataclass(frozen=True, kw_only=True)
class NewClass:
    """What was added, and what to expect of it.

    Attributes:
        name: The label.
        clips: Examples.
        videos: From which they are.
        others: Clips that were taken not to have the label.
        of_others: Which clips these are; empty if there are none.
        auc: How often an example scores higher than a clip without the label, by leave-one-out: the
            area under the ROC curve. Unlike average precision, it does not depend on how many
            examples there are. NaN if it can't be measured.
        threshold: From which score the label is given; infinite: never.
        recall: Examples that the threshold finds, by leave-one-out.
        precision: Examples among all clips that it finds, where examples are as frequent as here.
        reason: Why there is no threshold; empty if there is one.
        failures: What could not be read, `path: reason`.
    """

    name: str
    clips: int
    videos: int
    others: int
    of_others: str
    auc: float
    threshold: float
    recall: Share
    precision: Share
    reason: str
    failures: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return what to say about it."""
        clips = counted(self.clips, "clip")
        videos = f" of {self.videos} videos" if 1 < self.videos < self.clips else ""
        found = [f"'{self.name}' was added from {clips}{videos}; the other labels are as before"]
        if self.others:
            found.append(
                f"measured beside {self.others:,} clips without it, {self.of_others}; each video's "
                "clips are scored by the prototype of the other videos"
            )
        if not np.isnan(self.auc):
            found.append(
                f"an example scores higher than a clip without it in {percent(self.auc)} of pairs"
            )
        if self.reason:
            found.append(
                f"never given as a label, because {self.reason}; its probability is written"
            )
        else:
            found.append(
                f"at its threshold it finds {self.recall} of the examples, and {self.precision} of "
                "what it finds is right, if the label is as frequent as here"
            )
        return found


@dataclass(frozen=True)
class _Clips:
    """Clips that were embedded.

    `videos` names the video of each; `has` and `lacks` tell which clips are known to have the
    label, and which not to have it.
    """

    units: Float[np.ndarray, "N E"]
    ids: tuple[str, ...]
    videos: tuple[str, ...]
    has: Bool[np.ndarray, " N"]
    lacks: Bool[np.ndarray, " N"]
    failures: tuple[str, ...] = ()

    def of(self, chosen: Bool[np.ndarray, " N"]) -> "_Clips":
        """Return some of the clips."""
        at = np.flatnonzero(chosen)
        ids, videos = (tuple(names[i] for i in at) for names in (self.ids, self.videos))
        return _Clips(self.units[at], ids, videos, self.has[at], self.lacks[at], self.failures)


def add_class(
    bundle: Bundle,
    name: str,
    examples: Sequence[str],
    out: Path,
    *,
    against: str = "",
    split: str = "",
    ids: Sequence[str] = (),
    confidence: float | None = None,
    device: str = "auto",
    listener: Listener = lambda progress: None,
) -> NewClass:
    """Write a bundle that has one class more than `bundle`; it appears whole or not at all.

    Args:
        bundle: The model; its loss has prototypes.
        name: The new label.
        examples: Videos, folders, globs, tables of videos, or datasets. Where they have labels and
            some have `name`, these are the examples, and the others are clips without it. Else all
            are examples, or those of `ids`.
        out: The new bundle's folder.
        against: Clips without the label, a dataset or videos; empty: the validation split that the
            bundle was trained with, if its dataset is where it was and has the same digest.
        split: Of datasets among the examples; empty: their only one with rows, or `train`.
        ids: Only clips of these ids are examples; empty: all.
        confidence: How sure the threshold has to be, as `train.threshold_confidence`, which it is
            by default; 0: as sure as the examples alone make it.
        device: `auto`, `cpu` or `gpu`.
        listener: Called with the progress through videos.

    Raises:
        BundleError: The model has no prototypes, or can't make or read the examples' features.
        ConfigError: `confidence` is out of range, or an id is unknown.
        DataError: The label is there already, nothing can be read, or `out` exists.
    """
    if bundle.model.head != "cosine":
        raise BundleError(
            f"the model was trained with the loss {bundle.config.loss.name!r}, whose classes have "
            "no prototypes: train it with prototype_contrast to add classes"
        )
    if name in bundle.vocabulary.names:
        raise DataError(f"the model has the label {name!r} already: choose another name")
    replace(bundle.vocabulary, names=(*bundle.vocabulary.names, name))  # refuses an empty one
    if out.exists():
        raise DataError(f"{out} already exists: choose another --out")
    target = bundle.config.train.target_precision
    sure = bundle.config.train.threshold_confidence if confidence is None else confidence
    if not 0.0 <= sure < 1.0:
        raise ConfigError(f"confidence is {sure}; it must be at least 0 and below 1")

    clips = _read(bundle, examples, name, split, device, listener, ids=ids)
    chosen, given = _examples(clips, name, ids)
    others, of_others = _others(bundle, against, name, given, chosen, device, listener)
    left_out = _leave_one_out(chosen)
    prototype = chosen.units.sum(axis=0)
    scores = _scores(left_out, chosen.units, others.units @ unit(prototype))
    labels = np.arange(len(scores)) < len(scores) - len(others.units)
    threshold, reason, auc = _threshold(scores, labels, target, sure)
    found = scores >= threshold
    expected = NewClass(
        name=name,
        clips=len(chosen.units),
        videos=len(set(chosen.videos)),
        others=len(others.units),
        of_others=of_others,
        auc=auc,
        threshold=threshold,
        recall=Share(int((found & labels).sum()), int(labels.sum())),
        precision=Share(int((found & labels).sum()), int(found.sum())),
        reason=reason,
        failures=clips.failures + others.failures,
    )
    calibration: Calibration | None = bundle.calibration
    if calibration is not None:
        calibration = calibration.with_class(scores, labels)
    given_to = {"prototype": prototype, "threshold": threshold, "calibration": calibration}
    add_prototype(bundle, out, name=name, **given_to)
    return expected


def _threshold(
    scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"], target: float, sure: float
) -> tuple[float, str, float]:
    """Return the threshold, why there is none, and the area under the ROC curve."""
    if not labels.any():
        text = "it has examples of one video only, which can't be scored by those of others"
        return np.inf, text, np.nan
    if labels.all():
        text = "no clips without it are at hand to compare with: name some with --against"
        return np.inf, text, np.nan
    judged = (scores[:, None], labels[:, None])
    higher = scores[labels, None] - scores[~labels]
    auc = float(((higher > 0) + 0.5 * (higher == 0)).mean())
    (threshold,) = thresholds_at_precision(*judged, precision=target, confidence=sure)
    if np.isfinite(threshold):
        return float(threshold), "", auc
    if np.isfinite(thresholds_at_precision(*judged, precision=target)[0]):
        text = (
            f"{labels.sum()} examples are too few to be sure of {100 * target:g} % precision; add "
            "examples, or give --confidence 0"
        )
        return np.inf, text, auc
    return np.inf, f"its scores never reach {100 * target:g} % precision", auc


def _leave_one_out(examples: _Clips) -> Float[np.ndarray, " N"]:
    """Return each example's similarity to the mean of those of other videos; nan if there are none.

    A clip of the same video looks alike, so it would say too much about the one left out.
    """
    total, result = examples.units.sum(axis=0), np.full(len(examples.units), np.nan)
    videos = np.array(examples.videos)
    for video in dict.fromkeys(examples.videos):
        of_it = videos == video
        if not of_it.all():
            rest = unit(total - examples.units[of_it].sum(axis=0))
            result[of_it] = examples.units[of_it] @ rest
    return result


def _scores(
    left_out: Float[np.ndarray, " N"],
    units: Float[np.ndarray, "N E"],
    others: Float[np.ndarray, " M"],
) -> Float[np.ndarray, " K"]:
    """Return the scores of the examples that can be left out, then those of the others."""
    return np.concatenate([left_out[~np.isnan(left_out)], others]).astype(np.float32)


def _examples(clips: _Clips, name: str, ids: Sequence[str]) -> tuple[_Clips, _Clips]:
    """Return the examples, and the clips beside them that are known to lack the label.

    If only some clips are wanted, the others would make the label rarer than it is.
    """
    unknown = sorted(set(ids) - set(clips.ids))
    if unknown:
        raise ConfigError(f"--id {unknown[0]!r}: no clip of the examples has this id")
    wanted = np.isin(clips.ids, ids) if ids else np.ones(len(clips.ids), dtype=bool)
    if clips.has.any():
        wanted &= clips.has
    if not wanted.any():
        failures = f" ({clips.failures[0]})" if clips.failures else ""
        raise DataError(f"no example of {name!r} could be read{failures}")
    return clips.of(wanted), clips.of(clips.lacks & (not ids))


def _others(
    bundle: Bundle,
    against: str,
    name: str,
    given: _Clips,
    examples: _Clips,
    device: str,
    listener: Listener,
) -> tuple[_Clips, str]:
    """Return clips without the label, and which they are."""
    found, named = [given] if len(given.ids) else [], ["of the same source"] * bool(len(given.ids))
    if against:
        read = _read(bundle, [against], name, "", device, listener, is_against=True)
        found, named = [*found, read.of(~read.has)], [*named, f"of {against}"]
    else:
        dataset, split = _own_dataset(bundle), bundle.config.data.val
        if dataset is not None and dataset.manifest.rows(split):
            read = _read_dataset(bundle, dataset, split, name)
            found = [*found, read.of(~read.has)]
            named = [*named, f"of {split} of {dataset.path}, which are taken not to have it"]
    if not found:
        return given, ""
    others = _joined(found)
    is_example = (others.units @ examples.units.T).max(axis=1, initial=-1.0) > 1 - _SAME
    return others.of(~is_example), " and ".join(named)


def _own_dataset(bundle: Bundle) -> Dataset | None:
    """Return the dataset that trained the bundle, if it is at hand and is the same."""
    with suppress(ConfigError, DataError):
        return own_dataset(bundle)
    return None


def _read(
    bundle: Bundle,
    addresses: Sequence[str],
    name: str,
    split: str,
    device: str,
    listener: Listener,
    *,
    ids: Sequence[str] = (),
    is_against: bool = False,
) -> _Clips:
    """Embed the clips of datasets, those with some ids if any are given, then of all videos."""
    parts, sources = list[_Clips](), list[Source]()
    for address in addresses:
        if not is_dataset(address):
            listed = list_sources(address)
            check_present(listed)
            sources += listed
            continue
        dataset = open_dataset(address)
        splits = [each for each in dataset.manifest.splits if dataset.manifest.rows(each)]
        usual = bundle.config.data.val if is_against else bundle.config.data.train
        chosen = split or (splits[0] if len(splits) == 1 else usual)
        parts.append(_read_dataset(bundle, dataset, chosen, name, ids))
    if sources:
        plan = plan_of(bundle, device=device)
        parts.append(_of_videos(list(embed_media(bundle, sources, plan, listener=listener)), name))
    return _joined(parts)


def _of_videos(read: Sequence[EmbeddedClip | str], name: str) -> _Clips:
    found = [one for one in read if not isinstance(one, str)]
    labels = [one.source.labels for one in found]
    return _Clips(
        units=unit(np.array([one.embedding for one in found]).reshape(len(found), -1)),
        ids=tuple(one.clip.id for one in found),
        videos=tuple(one.source.path for one in found),
        has=np.array([name in given for given in labels], dtype=bool),
        lacks=np.array([bool(given) and name not in given for given in labels], dtype=bool),
        failures=tuple(one for one in read if isinstance(one, str)),
    )


def _read_dataset(
    bundle: Bundle, dataset: Dataset, split: str, name: str, wanted: Sequence[str] = ()
) -> _Clips:
    bundle.check_dataset(dataset.manifest)
    known, parts = dataset.manifest.vocabulary, []
    at = known.names.index(name) if name in known.names else None
    for table in _tables(bundle, dataset, split):
        if wanted:
            table = table.filter(pa.array([each in wanted for each in table["id"].to_pylist()]))
        block = block_from_table(
            bundle.filled(table), replace(dataset.manifest, modalities=bundle.modalities)
        )
        ids = block.ids.to_pylist()
        videos = [video or each for each, video in zip(ids, videos_in(table))]
        embeddings, _ = bundle.embed_tokens(block.tokens)
        nothing = np.zeros(len(ids), dtype=bool)
        has = nothing if at is None else block.labels[:, at] & block.observed[:, at]
        lacks = nothing if at is None else ~block.labels[:, at] & block.observed[:, at]
        parts.append(_Clips(unit(embeddings), tuple(ids), tuple(videos), has, lacks))
    return _joined(parts)


def _tables(bundle: Bundle, dataset: Dataset, split: str) -> Iterator[pa.Table]:
    observed = ["observed"] if dataset.manifest.vocabulary.groups else []
    columns = ["id", "labels", *observed, *bundle.columns_in(dataset.manifest)]
    for shard in dataset.split(split):
        yield read_shard(dataset, shard, columns, optional=VIDEO_COLUMNS, verify=True)


def _joined(parts: Sequence[_Clips]) -> _Clips:
    return _Clips(
        np.concatenate([one.units for one in parts]),
        tuple(name for one in parts for name in one.ids),
        tuple(name for one in parts for name in one.videos),
        np.concatenate([one.has for one in parts]),
        np.concatenate([one.lacks for one in parts]),
        tuple(dict.fromkeys(failure for one in parts for failure in one.failures)),
    )
