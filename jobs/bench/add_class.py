"""A class added from a few clips, beside a model that was trained with it.

Of each dataset and seed, a few classes are left out of training; then each is added to the model
from examples of the training split, and judged on the test split, which also judges a model that
was trained with all classes. `expected` is what `raymc add-class` says by leave-one-out, before it
has seen the test split.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from sklearn.metrics import roc_auc_score

from jobs.bench.measure import NAME, Columns, Measurement, plus_minus, publish, table
from raymc.config import Config, load, override
from raymc.data.feed.feed import Feed, Feeds
from raymc.data.labels import Vocabulary, label_counts
from raymc.data.shards import Dataset, read_shard, token_means
from raymc.evaluation.add_class import add_class
from raymc.evaluation.scoring import score_split
from raymc.events import EpochEnded
from raymc.formats.prepare import prepare_dataset
from raymc.metrics.metrics import evaluate_scores
from raymc.training.bundle import Bundle, load_bundle, save_bundle
from raymc.training.loop import fit

ARGUMENTS = {"configs": "CONFIG..."}
TRAINED = "trained with it"


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """On which datasets, and how often."""

    configs: tuple[str, ...] = Field(description="Configurations, one for each dataset.")
    seeds: int = Field(default=3, ge=1, description="Trainings of each kind on each dataset.")
    classes: int = Field(default=4, ge=1, description="Classes left out of each training.")
    examples: tuple[int, ...] = Field(default=(1, 5, 20), description="Clips to add a class from.")
    sets: tuple[str, ...] = Field(
        default=(), description="Override a setting in all configurations: KEY=VALUE."
    )


def bench_add_class(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Train, add and judge; prints and writes a table for each dataset.

    Raises:
        DataError: A dataset can't be read, or too few of its classes have enough examples.
    """
    torch.set_num_threads(1)
    sections, measured = [], []
    for file in settings.configs:
        config = load(file, settings.sets)
        lines = measure(prepare_dataset(config), config, settings, console)
        sections.append(_section(Path(file).stem, config, settings, lines))
        measured += [replace(line, case={"dataset": Path(file).stem}) for line in lines]
    publish("Add class", "\n".join(sections), measured, console, out)


def measure(
    dataset: Dataset, config: Config, settings: Settings, console: Console
) -> list[Measurement]:
    """Return figures by number of examples and, last, those of models trained with the classes.

    A figure has a value for each seed and class.
    """
    lines = {n: Measurement(_examples(n)) for n in settings.examples}
    trained = Measurement(TRAINED)
    for seed in range(settings.seeds):
        rng, seeded = np.random.default_rng(seed), override(config, {"train.seed": seed})
        clips = _clips_by_class(dataset, config.data.train)
        names = [name for name, ids in clips.items() if len(ids) >= max(settings.examples)]
        chosen = [str(name) for name in rng.choice(names, settings.classes, replace=False)]
        with TemporaryDirectory(prefix="raymc-") as folder:
            whole = train(dataset, seeded, (), Path(folder, "whole"))
            for name, values in _judged(whole, dataset, config.data.test, chosen).items():
                trained.add(label=name, **values)
            part = train(dataset, seeded, chosen, Path(folder, "part"))
            for name in chosen:
                for n, line in lines.items():
                    ids = rng.choice(clips[name], n, replace=False).tolist()
                    place = Path(folder, f"{len(line['label'])}-{n}")
                    found = add_class(
                        part,
                        name,
                        [dataset.path],
                        place,
                        split=config.data.train,
                        ids=ids,
                        against=dataset.path,
                        confidence=0.0,
                    )
                    values = _judged(load_bundle(place), dataset, config.data.test, [name])[name]
                    line.add(label=name, expected=100 * found.auc, **values)
        console.print(f"{dataset.path}: seed {seed} done", style="dim")
    return [*lines.values(), trained]


def train(dataset: Dataset, config: Config, without: Sequence[str], folder: Path) -> Bundle:
    """Train in this process as if the dataset did not have some labels."""
    names = tuple(name for name in dataset.manifest.vocabulary.names if name not in without)
    groups = {
        group: tuple(name for name in members if name in names)
        for group, members in dataset.manifest.vocabulary.groups.items()
    }
    manifest = replace(dataset.manifest, vocabulary=Vocabulary(names, groups))

    def feed(split: str) -> Feed:
        shards = dataset.split(split)

        def read(wanted: Sequence[int]) -> Iterable[pa.Table]:
            return (_without(read_shard(dataset, shards[shard]), without) for shard in wanted)

        given = {"config": config.batch, "seed": config.train.seed, "keep": True, "share": (0, 1)}
        return Feed(read, manifest, split, **given)

    labels = [row for one in _tables(dataset, config.data.train, without) for row in _labels(one)]
    feeds = Feeds(
        train=feed(config.data.train),
        val=feed(config.data.val),
        class_counts=label_counts(manifest.vocabulary.encode(labels)),
        means=token_means(dataset, config.data.train),
    )

    def report(event: EpochEnded, made: Path | None) -> None:
        if event.is_best and made is not None:
            save_bundle(made, folder)

    fit(
        config,
        manifest,
        feeds,
        device=torch.device("cpu"),
        emit=lambda event: None,
        report=report,
    )
    return load_bundle(folder)


def _tables(dataset: Dataset, split: str, without: Sequence[str]) -> Iterator[pa.Table]:
    for shard in dataset.split(split):
        yield _without(read_shard(dataset, shard), without)


def _labels(table: pa.Table) -> list[list[str]]:
    return table["labels"].to_pylist()


def _without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return a table without some labels."""
    kept = [[name for name in row if name not in names] for row in _labels(table)]
    at = table.column_names.index("labels")
    return table.set_column(at, "labels", pa.array(kept, pa.list_(pa.string())))


def _clips_by_class(dataset: Dataset, split: str) -> dict[str, list[str]]:
    """Return the ids of each label's clips."""
    clips: dict[str, list[str]] = {name: [] for name in dataset.manifest.vocabulary.names}
    for one in _tables(dataset, split, ()):
        for clip, labels in zip(one["id"].to_pylist(), _labels(one)):
            for name in labels:
                clips[name].append(clip)
    return clips


def _judged(
    bundle: Bundle, dataset: Dataset, split: str, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return AP and AUC on a split in percent, and what the labels given are worth."""
    scored = score_split(bundle, dataset, split)
    judged: dict[str, dict[str, float]] = {}
    for name in names:
        ours = bundle.vocabulary.index(name)
        theirs = dataset.manifest.vocabulary.index(name)
        scores = scored.scores[:, [ours]]
        true, known = scored.labels[:, [theirs]], scored.observed[:, [theirs]]
        given = (scores >= bundle.thresholds[ours]) & known
        right = float((given & true).sum())
        judged[name] = {
            "AP": 100 * float(evaluate_scores(scores, true, known).per_class_AP[0]),
            "AUC": 100 * float(roc_auc_score(true[known], scores[known])),
            "has a threshold": float(np.isfinite(bundle.thresholds[ours])),
            "right": right,
            "given": float(given.sum()),
            "true": float((true & known).sum()),
        }
    return judged


def _examples(count: int) -> str:
    return f"{count} example{'s' * (count != 1)}"


def _share(line: Measurement, part: str, whole: str) -> str:
    return f"{100 * sum(line[part]) / sum(line[whole]):.0f}" if sum(line[whole]) else "–"


def _expected(line: Measurement) -> str:
    known = [value for value in line["expected"] if value == value]
    return plus_minus(known) if known else "–"


def _section(name: str, config: Config, settings: Settings, lines: Sequence[Measurement]) -> str:
    columns: Columns = {
        **NAME,
        "AP": lambda m: plus_minus(m["AP"]),
        "AUC": lambda m: plus_minus(m["AUC"]),
        "AUC expected": _expected,
        "have a threshold": lambda m: f"{100 * mean(m['has a threshold']):.0f}",
        "precision of labels given": lambda m: _share(m, "right", "given"),
        "recall": lambda m: _share(m, "right", "true"),
    }
    about = (
        f"`{config.data.test}` of `{config.data.path}`; {settings.classes} classes of each of "
        f"{settings.seeds} seeds, mean ± standard deviation over classes and seeds in percent. "
        "Precision and recall are over all classes together."
    )
    return f"### {name}\n\n{about}\n\n{table(columns, lines)}"
