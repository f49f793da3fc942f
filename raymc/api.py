"""What `import raymc` gives: the commands as functions, which return objects and pandas frames.

They print nothing unless `show` is true. Settings are those of the commands, by dotted path:
`raymc.train("data/lessons", settings={"train.epochs": 30})`. Errors are those of `raymc.errors`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from raymc.cli.data import run_extract
from raymc.cli.options import load_config, load_preset
from raymc.cli.runs import run_train, run_tune
from raymc.cli.serve import run_serve
from raymc.config import ServeConfig, Size, checked
from raymc.data.shards import Dataset, open_dataset
from raymc.evaluation.add_class import NewClass
from raymc.evaluation.add_class import add_class as add_class_to
from raymc.evaluation.evaluate import evaluate as evaluate_bundle
from raymc.evaluation.evaluate import numbers_of
from raymc.evaluation.export import export as export_bundle
from raymc.evaluation.outcomes import label_outcomes
from raymc.evaluation.predict import predict as write_predictions
from raymc.evaluation.prediction_files import frames_of
from raymc.evaluation.review.review import Review
from raymc.evaluation.review.review import review as review_dataset
from raymc.evaluation.timeline import Timeline, make_timeline
from raymc.features.sources import list_annotations
from raymc.terminal import make_console
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import find_bundle, own_dataset

Settings = Mapping[str, object]


class Evaluation(NamedTuple):
    """How good a model is on a split.

    Attributes:
        metrics: All metrics of all labels together, and of label groups, by name, as shares.
        labels: A row for each label: `label`, `AP`, `clips` that have it, how many of them were
            `found`, `false_alarms`, and the `threshold` of its score (infinite: never given).
    """

    metrics: pd.Series
    labels: pd.DataFrame

    def __repr__(self) -> str:
        """Return the main metrics."""
        main = ", ".join(f"{name} {self.metrics[name]:.3f}" for name in ("mAP", "R80"))
        return f"Evaluation({main}; {len(self.labels):,} labels)"


def annotations(source: str | Path, *, tiers: Sequence[str] = ()) -> pd.DataFrame:
    """Read what ELAN, BORIS or Label Studio wrote, as `raymc import` does.

    Args:
        source: A file, or a glob of several.
        tiers: Of ELAN's, those that are read; empty: all.

    Returns:
        A row for each clip: `path`, `start` and `end` in seconds, and a list of `labels`.

    Raises:
        DataError: The file can't be used, or has no labels.
    """
    return list_annotations(str(source), tiers).clips()


def extract(
    source: str | Path, out: str | Path, *, settings: Settings | None = None, show: bool = False
) -> Dataset:
    """Turn videos into a dataset of features, or resume an interrupted job.

    Args:
        source: A video, a folder, a glob, or a table of paths and labels.
        out: Folder of the dataset: a local path, or an address such as s3://bucket/folder.
        settings: Others, such as `{"extract.fps": 2.0}`.
        show: Whether to print what is understood, and the progress.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The source can't be used, or `out` holds another dataset.
        ExtractionError: Too many files can't be read.
    """
    given = {"extract.source": str(source), "data.path": str(out)}
    run_extract(load_config(None, (), {**(settings or {}), **given}), _console(show))
    return open_dataset(str(out))


def train(
    dataset: str | Path,
    *,
    name: str = "",
    preset: Size | None = None,
    settings: Settings | None = None,
    show: bool = False,
) -> Bundle:
    """Train a model, or resume an interrupted run; returns the best epoch's.

    Args:
        dataset: Folder of a dataset, a YAML file of settings, or `digits` for the example.
        name: Of the run; empty: derived from dataset and settings.
        preset: Chooses the settings left open: `small`, `medium` or `large`, or `auto`, by the
            dataset; None: `auto`, but a YAML file is taken as it is.
        settings: Others, such as `{"train.epochs": 30}`.
        show: Whether to print the progress.

    Raises:
        ConfigError: A setting is wrong, or a run of that name is another one.
        DataError: The dataset can't be used.
        TrainingError: Training failed.
    """
    given = _named(settings, name)
    config = load_config(str(dataset), (), given)
    chosen = load_preset(str(dataset), (), given, preset)
    return load_bundle(run_train(config, _console(show), chosen))


def tune(
    dataset: str | Path,
    *,
    trials: int | None = None,
    name: str = "",
    preset: Size | None = None,
    settings: Settings | None = None,
    show: bool = False,
) -> Bundle:
    """Search settings, or resume an interrupted search; returns the best trial's model.

    Args:
        dataset: As for `train`.
        trials: Of the sweep, earlier ones included; None: `search.trials`.
        name: Of the sweep.
        preset: As for `train`; what is searched is not chosen by it.
        settings: Others, such as `{"search.space": {"loss.margin": {"low": 0, "high": 0.5}}}`.
        show: Whether to print the progress.

    Raises:
        ConfigError: A setting is wrong, or a sweep of that name is another one.
        DataError: The dataset can't be used.
        SweepError: No trial succeeded.
    """
    given = {**_named(settings, name), "search.trials": trials}
    config = load_config(str(dataset), (), given)
    chosen = load_preset(str(dataset), (), given, preset)
    return load_bundle(run_tune(config, _console(show), chosen))


def load(run: str | Path, *, folder: str | Path = "runs") -> Bundle:
    """Load the model of a run or sweep.

    Args:
        run: Its name, its folder, the beginning of its id, or a bundle.
        folder: Where runs are.

    Raises:
        BundleError: The bundle is damaged, or made by a newer raymc.
        ConfigError: There is no such run, or it isn't finished.
    """
    return load_bundle(find_bundle(str(run), str(folder)))


def predict(
    model: Bundle | str | Path,
    source: str | Path,
    *,
    split: str = "",
    top: int = 0,
    threshold: float | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Return labels and probabilities, a row for each clip in the order of the source.

    The columns are those of `raymc predict`: `id`, `path`, `start`, `end`, `labels` (a list),
    `error`, and `probability.LABEL` for each label.

    Args:
        model: From `train` or `tune`, or what `load` takes.
        source: A video, a folder, a glob or a table of videos, or a dataset.
        split: Of a dataset; empty: its only one, or `test`.
        top: The number of most probable labels, in place of a column for each; 0: all.
        threshold: Probability from which a label is given; None: the model's thresholds.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The model can't read the source's features, or make them.
        DataError: The source can't be read.
    """
    model = _loaded(model)
    with TemporaryDirectory(prefix="raymc-") as folder:
        out = Path(folder, "predictions")
        given: dict[str, Any] = {"split": split, "threshold": threshold, "device": device}
        write_predictions(model, str(source), out, **given)
        return pd.concat(frames_of(sorted(out.iterdir()), top=top), ignore_index=True)


def timeline(
    model: Bundle | str | Path,
    video: str | Path,
    *,
    window: float | None = None,
    stride: float | None = None,
    threshold: float | None = None,
    least: float = 0.0,
    device: str = "auto",
) -> Timeline:
    """Return where in a video each label shows.

    The frame `.segments` has a row for each stretch in which a label shows (`start`, `end`,
    `label`, `probability`), `.windows` one for each window (`start`, `end`, and
    `probability.LABEL` for each label). Times are in seconds.

    Args:
        model: From `train` or `tune`, or what `load` takes.
        video: Its path.
        window: Length of a window in seconds; None: as in the model's recipe, or the median length
            of the clips that it was trained on.
        stride: Seconds from the start of a window to the next; None: as in the recipe, or half a
            window.
        threshold: Probability from which a label shows; None: the model's thresholds.
        least: Segments of fewer seconds are left out.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The model doesn't say how its features were made, or they can't be made here.
        ConfigError: A length is out of range or not known.
        DataError: There is no such video, or nothing of it can be read.
    """
    model = _loaded(model)
    given = {"window": window, "stride": stride, "threshold": threshold, "least": least}
    return make_timeline(model, str(video), **given, device=device)


def evaluate(
    model: Bundle | str | Path,
    dataset: str | Path | Dataset | None = None,
    *,
    split: str = "test",
    device: str = "auto",
) -> Evaluation:
    """Measure a model on a split of a dataset.

    Args:
        model: From `train` or `tune`, or what `load` takes.
        dataset: Its folder; None: the one that the model's run was trained on.
        split: Which of its splits.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The model can't read the dataset's features, or has other labels.
        ConfigError: No dataset is given, and the model's own isn't where its settings say.
        DataError: There is no such split.
    """
    model = _loaded(model)
    opened = _opened(model, dataset)
    found = evaluate_bundle(model, opened, split, device=device)
    outcomes = label_outcomes(model, found.scored)
    labels = pd.DataFrame(
        {
            "label": [one.label for one in outcomes],
            "AP": found.scores.per_class_AP,
            "clips": [one.clips for one in outcomes],
            "found": [one.found for one in outcomes],
            "false_alarms": [one.false_alarms for one in outcomes],
            "threshold": model.thresholds,
        }
    )
    return Evaluation(pd.Series(numbers_of(found), name=split), labels)


def review(
    model: Bundle | str | Path,
    dataset: str | Path | Dataset | None = None,
    *,
    unlabelled: str | Path = "",
    folds: int = 5,
    curves: bool = True,
    count: int = 50,
    seed: int = 0,
    device: str = "auto",
) -> Review:
    """Find labels that look wrong, duplicates, clips to label next, and classes with few examples.

    It trains the model's settings again, on the clips of the other folds for each fold, and twice
    more for learning curves. What is trained is kept in the model's run, so a second call is quick.
    The result has pandas frames: `label_frame()`, `duplicate_frame()`, `next_frame()` and
    `class_frame()`.

    Args:
        model: From `train` or `tune`, or what `load` takes.
        dataset: Its folder; None: the one that the model's run was trained on.
        unlabelled: A dataset or videos to choose clips to label from; empty: the dataset's own
            clips without labels.
        folds: Of videos; at least 2.
        curves: Whether to estimate what more examples of each class would bring.
        count: Clips to choose.
        seed: Of folds and draws.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The model can't read the dataset's features, or has other labels.
        ConfigError: No dataset is given, and the model's own isn't where its settings say.
        DataError: There are too few videos or labels, or something can't be read.
        ResourceError: The clips do not fit into memory.
    """
    model = _loaded(model)
    opened = _opened(model, dataset)
    given: dict[str, Any] = {"folds": folds, "curves": curves, "count": count, "seed": seed}
    return review_dataset(model, opened, unlabelled=str(unlabelled), device=device, **given)


def add_class(
    model: Bundle | str | Path,
    name: str,
    examples: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    against: str | Path | None = None,
    split: str = "",
    ids: Sequence[str] = (),
    confidence: float | None = None,
    device: str = "auto",
) -> tuple[Bundle, NewClass]:
    """Add a label to a model from a few clips, without training; returns it, and what to expect.

    The new prototype is the mean of the examples' embeddings. The other labels' scores stay as
    they are.

    Args:
        model: From `train` or `tune`, or what `load` takes; its loss has prototypes.
        name: The new label.
        examples: One or several: videos, folders, globs, tables of videos, or datasets. Where some
            have the label `name`, these are the examples, and the others are clips without it.
        out: Folder of the new bundle.
        against: Clips without the label, a dataset or videos; None: the validation split that the
            model was trained with, if it can be read.
        split: Of datasets among the examples; empty: their only one with rows, or `train`.
        ids: Only clips with these ids are examples; empty: all.
        confidence: How sure its threshold must be; None: as `train.threshold_confidence`.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        BundleError: The model has no prototypes, or can't read or make the examples' features.
        DataError: The label is there already, nothing can be read, or `out` exists.
    """
    model = _loaded(model)
    several = [examples] if isinstance(examples, str | Path) else examples
    given = {"against": str(against or ""), "split": split, "ids": ids}
    found = add_class_to(
        model,
        name,
        [str(one) for one in several],
        Path(out),
        confidence=confidence,
        device=device,
        **given,
    )
    return load_bundle(out), found


def export(
    model: Bundle | str | Path,
    out: str | Path,
    *,
    name: str = "",
    license: str = "",
    dataset: str | Path | None = None,
    split: str = "",
) -> Bundle:
    """Write a model to a new folder that stands alone, with a model card; returns it from there.

    Args:
        model: From `train` or `tune`, or what `load` takes.
        out: The folder.
        name: Title of the model card; empty: the folder's name.
        license: Of the model, such as `cc-by-4.0`; empty: unknown.
        dataset: Folder of a dataset to measure the model on; None: the one that the model was
            trained on, if it can be read.
        split: To measure on; empty: the test split.

    Raises:
        BundleError: The model does not match the dataset.
        DataError: `out` exists already or can't be written, or the dataset can't be read.
    """
    model = _loaded(model)
    given = {"name": name, "license": license, "dataset": str(dataset or ""), "split": split}
    export_bundle(model, Path(out), **given)
    return load_bundle(out)


def serve(
    model: Bundle | str | Path, *, token: str = "", show: bool = True, **settings: Any
) -> None:
    """Serve a model over HTTP until Ctrl-C, which this raises after the last answer.

    Args:
        model: From `train` or `tune`, or what `load` takes; its features must be such as
            `extract` makes.
        token: What clients must send; needed where others than this machine can reach `host`.
        show: Whether to print the address, and a line for each video.
        settings: Those of `raymc.config.ServeConfig`, which `raymc serve --help` explains:
            `port=0`, or `videos=["data/lessons"]`.

    Raises:
        BundleError: The model does not say how its features were made.
        ConfigError: A setting is wrong, others could reach it without a token, or the address
            can't be used.
        KeyboardInterrupt: It was ended.
        ResourceError: A package of `raymc[serve]` is missing, or Ray does not start.
    """
    asked = checked(ServeConfig, settings)
    run_serve(lambda: _loaded(model), asked, _console(show), token=token)


def _loaded(model: Bundle | str | Path) -> Bundle:
    return model if isinstance(model, Bundle) else load(model)


def _opened(model: Bundle, dataset: str | Path | Dataset | None) -> Dataset:
    if dataset is None:
        return own_dataset(model)
    return dataset if isinstance(dataset, Dataset) else open_dataset(str(dataset))


def _named(settings: Settings | None, name: str) -> dict[str, Any]:
    return {**(settings or {}), "run.name": name or None}


def _console(show: bool) -> Console:
    return make_console(quiet=not show)
