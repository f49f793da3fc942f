"""`raymc promote`: gives an alias to a run unless it scores worse than the holder."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from raymc.cli.display import CountDisplay
from raymc.config import Config, flatten, overridden, override
from raymc.data.shards import Dataset, open_dataset
from raymc.errors import ConfigError, DataError, PromotionError
from raymc.evaluation.compare import Comparison, ScoredRun, check_classes, compare
from raymc.evaluation.scoring import stored_scores
from raymc.events import Count
from raymc.metrics.bootstrap import Difference
from raymc.metrics.metrics import MetricName
from raymc.metrics.text import difference_text, estimate_text
from raymc.terminal import print_line
from raymc.tracking import Tracker, open_tracker
from raymc.tracking.models import RecordedTest, Registry, Version, register_bundle
from raymc.training.bundle import Bundle, load_bundle
from raymc.training.runs import find_bundle, name_of, own_dataset, read_config, read_run, run_of


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What is asked for: the options of `raymc promote`.

    An empty name is the run's `tracking.register_as`. An empty dataset or split is the one that
    the alias's holder was tested on or, if that is not recorded, the run's `data.path` or
    `data.test`.
    """

    alias: str = "champion"
    name: str = ""
    dataset: str = ""
    split: str = ""
    metric: MetricName = "mAP"
    force: bool = False


@dataclass(frozen=True)
class _Field:
    """The split that a challenger and the holder of the alias meet on."""

    dataset: Dataset
    path: str
    split: str

    def __str__(self) -> str:
        return f"{self.split} of {self.path}"


def run_promote(
    run: str, asked: Promotion, console: Console, *, overrides: Sequence[str] = ()
) -> None:
    """Point an alias of a registered model at a run's bundle, unless that is worse.

    The run is a name below `run.folder`, a run's folder or a bundle.

    Raises:
        PromotionError: The bundle is worse, beyond the interval.
    """
    bundle = load_bundle(find_bundle(run, overridden(Config(), overrides).run.folder))
    config = _config_of(bundle, overrides)
    model = asked.name or config.tracking.register_as
    if not model:
        raise ConfigError(
            f"run {run!r} has no tracking.register_as: give the model's name with --name"
        )
    name = name_of(bundle.folder)
    with open_tracker(config.tracking, config.run.folder) as tracker:
        registry = Registry(tracker.uri)
        holder = registry.holder(model, asked.alias)
        if holder is not None and holder.is_of(bundle):
            print_line(console, f"{name} is already {asked.alias} of {model}")
            return
        field = _field(bundle, config, holder, asked)
        with CountDisplay(console, "rows") as display:
            compared = _compare(bundle, holder, registry, field, display.count)
        _check_measured(compared, asked, field)
        if holder is None:
            print_line(console, f"{model} has no {asked.alias} yet")
        else:
            rival = f"version {holder.number} ({asked.alias} of {model})"
            (difference,) = compared.differences[asked.metric]
            found = f"{name} against {rival} on {field}: {asked.metric} "
            _judge(found + difference_text(difference), difference, asked.force, console)
        tested = _tested(compared, field)
        version = registry.version_of(model, bundle)
        if version is None:
            run_id = _mlflow_run(tracker, bundle)
            tags = tested.to_tags()
            number = register_bundle(bundle.folder, run_id, uri=tracker.uri, name=model, tags=tags)
        else:
            number = version.number
            registry.record(version, tested)
        registry.point(model, asked.alias, number)
    found = f"{asked.metric} {estimate_text(*tested.metrics[asked.metric])} % on {field}"
    print_line(console, f"models:/{model}@{asked.alias} is version {number}: {found}")


def _config_of(bundle: Bundle, overrides: Sequence[str]) -> Config:
    """Return a run's settings as its folder has them, wherever that lies by now."""
    folder = run_of(bundle.folder)
    if folder is None:
        return overridden(bundle.config, overrides)
    config = overridden(read_config(folder), overrides)
    return override(config, {"run.folder": str(folder.parent)})


def _field(bundle: Bundle, config: Config, holder: Version | None, asked: Promotion) -> _Field:
    """Return what to compare on: what was asked for, what the holder was tested on, or its own."""
    if holder is None or holder.tested is None or asked.dataset:
        path = asked.dataset or config.data.path
        dataset = open_dataset(path) if asked.dataset else own_dataset(bundle, path)
        return _Field(dataset, path, asked.split or config.data.test)
    tested = holder.tested
    dataset = open_dataset(tested.dataset)
    if dataset.manifest.digest() != tested.digest:
        raise DataError(
            f"{tested.dataset} has changed since version {holder.number} of {holder.name} was "
            "tested on it: name the dataset to compare on with --dataset"
        )
    return _Field(dataset, tested.dataset, asked.split or tested.split)


def _compare(
    bundle: Bundle, holder: Version | None, registry: Registry, field: _Field, on_rows: Count
) -> Comparison:
    """Compare the challenger with the holder of the alias, if there is one."""
    run = run_of(bundle.folder)

    def scored(name: str, one: Bundle) -> ScoredRun:
        scores = stored_scores(one, field.dataset, field.split, run=run, on_rows=on_rows)
        return ScoredRun(name, one.config, one.dataset_digest, scores)

    name = name_of(bundle.folder)
    if holder is None:
        return compare([scored(name, bundle)])
    # The holder's files go beside the runs, which all nodes of a cluster can read.
    with TemporaryDirectory(prefix=".raymc-", dir=run.parent if run else None) as temporary:
        rival = load_bundle(registry.fetch_bundle(holder, Path(temporary)))
        rival_name = f"version {holder.number} of {holder.name}"
        check_classes(name, bundle.vocabulary, rival_name, rival.vocabulary)
        return compare([scored(rival_name, rival), scored(name, bundle)])


def _check_measured(compared: Comparison, asked: Promotion, field: _Field) -> None:
    """Check that the metric has a value for all models, without which nothing can be judged."""
    estimates = compared.metrics[asked.metric]
    if not asked.force and any(isnan(one.value) or isnan(one.high) for one in estimates):
        raise DataError(
            f"not promoted: {asked.metric} has no value on {field}, which has no row with a known "
            "label: name a split that has with --split or --dataset; --force promotes it anyway"
        )


def _judge(found: str, difference: Difference, force: bool, console: Console) -> None:
    """Print the result; raises PromotionError if the whole interval is below 0, unless forced."""
    if difference.high < 0 and not force:
        raise PromotionError(f"not promoted: {found}; --force promotes it anyway")
    print_line(console, found)
    if difference.high < 0:
        print_line(console, "promoted anyway because of --force", "yellow")


def _tested(compared: Comparison, field: _Field) -> RecordedTest:
    """Return what is recorded with a promoted version, which is the last model."""
    found = {name: each[-1] for name, each in compared.metrics.items()}
    metrics = {name: (one.value, one.low, one.high) for name, one in found.items()}
    path = field.path if "://" in field.path else str(Path(field.path).absolute())
    return RecordedTest(path, compared.split.dataset_digest, field.split, metrics)


def _mlflow_run(tracker: Tracker, bundle: Bundle) -> str:
    """Return the id of the bundle's run in MLflow, recorded now if it never was."""
    folder = run_of(bundle.folder)
    # A bundle outside of any run is its weights, wherever it lies.
    key = read_run(folder).id if folder else f"bundle-{bundle.weights_digest}"
    run = tracker.start_run(
        name_of(bundle.folder), key=key, params=flatten(bundle.config), tags={}, reopen=False
    )
    tracker.end_run(run, "complete")
    return tracker.run_id(run)
