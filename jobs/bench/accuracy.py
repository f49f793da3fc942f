"""Accuracy of the losses and of what people would try first, each tuned with the same budget.

Every search of a method is a Ray task: it searches with Optuna on the validation split, trains the
best settings once a seed, and scores the test split once each. Several searches of a method show
how much the luck of a search matters. Each search's results are kept in a folder, so that an
interrupted benchmark resumes. `baselines.py` has the classifiers.
"""

import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import optuna
import ray
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from rich.console import Console

from jobs.bench.baselines import BASELINES, Matrix, parts_worth_trying, read_matrix
from jobs.bench.groups import GROUPS, group_precision
from jobs.bench.measure import NAME, Columns, Measurement, plus_minus, publish, table
from raymc.config import Config, Range, from_dict, load, override, to_dict
from raymc.data.feed.on_ray import share_data, share_split
from raymc.data.feed.shared import SharedData, SharedSplit
from raymc.errors import ConfigError, DivergedError, counted
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.events import EpochEnded
from raymc.formats.prepare import prepare_dataset
from raymc.metrics.bootstrap import Difference, paired_difference
from raymc.metrics.metrics import MetricName, evaluate_scores
from raymc.runtime.connect import connect
from raymc.runtime.provenance import current_code
from raymc.search.study import begin_with_default, distributions, make_sampler
from raymc.tracking import open_tracker
from raymc.training import checkpoint, loop
from raymc.training.learner import make_model
from raymc.training.validation import Predictions, predict

ARGUMENTS = {"configs": "CONFIG..."}
CPU = torch.device("cpu")
# The constants of each loss that are searched, beside the configuration's own space for all losses.
# Wider ranges were tried: on GRID, emotions, scene and yeast no temperature above 0.15 won.
LOSS_SPACES: Mapping[str, Mapping[str, Range]] = {
    "prototype_contrast": {
        "loss.margin": Range(low=0.0, high=0.3),
        "loss.temperature": Range(low=0.03, high=0.15, log=True),
        "loss.clip_weight": Range(low=0.05, high=0.5, log=True),
        "loss.hard_clips": Range(choices=(0.25, 1.0)),
    },
    "prototype_margin": {
        "loss.margin": Range(low=0.1, high=1.5),
        "loss.temperature": Range(low=0.01, high=0.5, log=True),
    },
    "proxy_anchor": {
        "loss.margin": Range(low=0.0, high=0.3),
        "loss.temperature": Range(low=0.01, high=0.15, log=True),
    },
    "cosine_bce": {"loss.temperature": Range(low=0.02, high=0.15, log=True)},
    "bce": {},
    "focal": {"loss.gamma": Range(low=0.5, high=4.0)},
    "asl": {
        "loss.gamma_negative": Range(low=0.0, high=6.0),
        "loss.clip": Range(low=0.0, high=0.2),
    },
    "supcon": {"loss.temperature": Range(low=0.03, high=0.5, log=True)},
}
# Where the search of a loss starts, if not at the configuration, whose loss is prototype_contrast:
# at what its authors use (proxy_anchor, supcon), else at what worked first. focal and asl have
# their authors' constants by default.
LOSS_STARTS: Mapping[str, Mapping[str, float]] = {
    "prototype_margin": {"loss.margin": 1.0, "loss.temperature": 0.1},
    "proxy_anchor": {"loss.margin": 0.1, "loss.temperature": 1 / 32},
    "cosine_bce": {"loss.temperature": 0.05},
    "supcon": {"loss.temperature": 0.1},
}
METHODS: tuple[str, ...] = (*LOSS_SPACES, *BASELINES)
COMPARED: tuple[MetricName, ...] = ("mAP", "R80")
SHOWN: Mapping[MetricName, str] = {
    "mAP": "mAP",
    "R80": "R@80",
    "micro_AP": "micro-AP",
    "LRAP": "LRAP",
}
RESAMPLES = 1000
SEEDS_APART = 100  # from a search to the next


@pydantic_dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Settings:
    """What is compared, on which datasets."""

    configs: tuple[str, ...] = Field(description="Configurations, one for each dataset.")
    methods: tuple[str, ...] = Field(default=METHODS, description="A method to compare.")
    searches: int = Field(default=3, ge=1, description="How often each method is tuned.")
    seeds: int = Field(
        default=5, ge=1, description="How often a search's best settings are trained and tested."
    )
    sets: tuple[str, ...] = Field(
        default=(), description="Override a setting in all configurations: KEY=VALUE."
    )
    groups: Mapping[str, str] = GROUPS


@dataclass(frozen=True)
class Data:
    """A dataset that all tasks read."""

    shared: SharedData
    test: SharedSplit
    digest: str


def bench_accuracy(console: Console, settings: Settings, *, out: Path | None = None) -> None:
    """Compare methods on datasets; prints and writes a table and a picture, and logs to MLflow.

    Of each configuration, each search of a method tries `search.trials` settings of
    `search.space`, together with the method's own constants.

    Raises:
        ConfigError: there is no such method, or no folder for the results.
        DataError: a dataset can't be read.
    """
    if out is None:
        raise ConfigError("--out is missing: the folder for the results, and to resume from")
    unknown = sorted(set(settings.methods) - set(METHODS))
    if unknown:
        raise ConfigError(f"unknown method {unknown[0]!r}; choose from: {', '.join(METHODS)}")
    configs = {Path(file).stem: load(file, settings.sets) for file in settings.configs}
    tune_and_test(configs, settings, console, out)
    found = {
        name: [read_found(out / name, method, settings) for method in settings.methods]
        for name in configs
    }
    publish_accuracy(found, configs, settings.groups, console, out)


def tune_and_test(
    configs: Mapping[str, Config], settings: Settings, console: Console, out: Path
) -> None:
    """Run every method of every dataset, as far as its folder doesn't hold the results already."""
    connect()
    run: Any = ray.remote(num_cpus=1, max_retries=2)(run_method)
    commit = (current_code().commit or "unknown")[:10]
    asked = []
    for name, config in configs.items():
        dataset = prepare_dataset(config)
        shared = share_data(dataset, config)
        test = share_split(dataset, config.data.test, config.data)
        data = Data(shared, test, dataset.manifest.digest())
        for search, method in itertools.product(range(settings.searches), settings.methods):
            folder = folder_of(out / name, method, search).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            own = override(config, {"train.seed": config.train.seed + search})
            task = run.remote(method, to_dict(own), data, str(folder), settings.seeds, commit)
            asked.append((name, method, task))
    for name, method, task in asked:
        seconds = ray.get(task)
        console.print(f"{name}: {method} done in {seconds:.0f} s", style="dim")


def folder_of(dataset: Path, method: str, search: int) -> Path:
    """Return the folder of a search's results on a dataset."""
    return dataset / method.replace(" ", "-") / f"search-{search}"


def run_method(
    method: str, settings: dict[str, Any], data: Data, folder: str, seeds: int, commit: str
) -> float:
    """Tune a method and test it, unless its folder holds that already; returns the seconds.

    `train.seed` is that of the search: it draws other settings and trains them from other weights,
    and is tested with other seeds.
    """
    began = time.perf_counter()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of scikit-learn, on fits that didn't converge
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, place = from_dict(settings), Path(folder)
    study = optuna.create_study(
        storage=f"sqlite:///{place / 'study.db'}",
        study_name=method,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=config.search.grace_epochs,
            reduction_factor=config.search.reduction_factor,
        ),
    )
    study.sampler = make_sampler(config, known=len(study.trials))
    tune_method(study, method, config, data)
    for seed in range(seeds):
        file = place / f"seed-{seed}.parquet"
        if not file.exists():
            started = time.perf_counter()
            number = SEEDS_APART * config.train.seed + seed
            scored = test_method(method, config, study.best_trial, data, number)
            about = {
                "params": study.best_params,
                "val": study.best_value,
                "seconds": time.perf_counter() - started,
                "tested": f"{date.today()} {commit}",
            }
            file.with_suffix(".json").write_text(json.dumps(about, indent=1))
            save_scored(scored, file)  # last, because it marks the seed as done
    return time.perf_counter() - began


def tune_method(study: optuna.Study, method: str, config: Config, data: Data) -> None:
    """Try what is left of `search.trials` settings; interrupted trials don't count.

    As in a sweep, the first trial of a loss has the configuration's own settings.
    """
    if method in BASELINES:
        objective = _scoring(method, config, data)
    else:
        searched = searched_by(method, config)
        begin_with_default(study, searched)
        objective = _training(searched, data)
    done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    study.optimize(objective, n_trials=max(0, config.search.trials - done), catch=(DivergedError,))


def _scoring(method: str, config: Config, data: Data) -> Callable[[optuna.Trial], float]:
    """Return the objective of one of `BASELINES`."""
    metric = config.train.monitor.removeprefix("val/")
    parts = parts_worth_trying(data.shared.train.feed(config))

    def objective(trial: optuna.Trial) -> float:
        params = BASELINES[method].suggest(trial)
        params = {**params, "parts": trial.suggest_categorical("parts", parts)}
        scores, truth = score_baseline(method, params, data, config.train.seed, "val")
        return evaluate_scores(scores, truth.labels, truth.observed).to_dict()[metric]

    return objective


def _training(config: Config, data: Data) -> Callable[[optuna.Trial], float]:
    """Return the objective of a loss: its best epoch."""

    def objective(trial: optuna.Trial) -> float:
        best = -np.inf

        def report(event: EpochEnded, _: Path | None) -> None:
            nonlocal best
            value = event.metrics[config.train.monitor]
            best = max(best, value)
            trial.report(value, event.epoch)
            if config.search.scheduler == "asha" and trial.should_prune():
                raise optuna.TrialPruned

        space = distributions(config)
        params = {path: trial._suggest(path, values) for path, values in space.items()}
        fit_here(override(config, params), data, report)
        return best

    return objective


def searched_by(method: str, config: Config) -> Config:
    """Return the configuration with a loss, whose own constants are searched, too.

    They start where `LOSS_STARTS` says.
    """
    space = {**config.search.space, **LOSS_SPACES[method]}
    values = {path: asdict(values) for path, values in space.items()}
    start = LOSS_STARTS.get(method, {})
    return override(config, {"loss.name": method, "search.space": values, **start})


def fit_here(config: Config, data: Data, report: loop.Report) -> None:
    """Train in this process."""
    loop.fit(
        config,
        data.shared.manifest,
        data.shared.feeds(config),
        device=CPU,
        emit=lambda event: None,
        report=report,
    )


def test_method(
    method: str, config: Config, best: optuna.trial.FrozenTrial, data: Data, seed: int
) -> ScoredSplit:
    """Train with the best settings and score the test split once."""
    truth: Matrix | Predictions
    if method in BASELINES:
        scores, truth = score_baseline(method, best.params, data, seed, "test")
    else:
        weights: dict[str, torch.Tensor] = {}

        def report(event: EpochEnded, folder: Path | None) -> None:
            if event.is_best and folder is not None:
                weights.update(checkpoint.load_weights(folder))

        trained = override(searched_by(method, config), {"train.seed": seed, **best.params})
        fit_here(trained, data, report)
        model = make_model(trained, data.shared.manifest)
        model.load_state_dict(weights)
        truth = predict(model, data.test.feed(trained), device=CPU)
        scores = truth.scores
    return ScoredSplit(
        ids=tuple(str(row) for row in range(len(scores))),
        scores=scores.astype(np.float32),
        labels=truth.labels,
        observed=truth.observed,
        vocabulary=data.shared.manifest.vocabulary,
        split=data.test.split,
        dataset_digest=data.digest,
    )


def score_baseline(
    method: str, params: Mapping[str, Any], data: Data, seed: int, split: str
) -> tuple[np.ndarray, Matrix]:
    """Fit one of `BASELINES` on the training split; its scores of another, and that split."""
    config = Config()
    judged = data.test if split == "test" else data.shared.val
    train = read_matrix(data.shared.train.feed(config), params["parts"])
    other = read_matrix(judged.feed(config), params["parts"])
    return BASELINES[method].score(params, seed, train, other.features), other


@dataclass(frozen=True)
class Found:
    """A method's results on a dataset: the best settings of each search, and the test's scores.

    `seconds`, `tested` and `scored` are by search, and by seed within a search. `tested` are days
    and commits, because several runs of the benchmark may fill one folder.
    """

    method: str
    params: tuple[Mapping[str, Any], ...]
    seconds: tuple[float, ...]
    tested: tuple[str, ...]
    scored: tuple[ScoredSplit, ...]


def read_found(dataset: Path, method: str, settings: Settings) -> Found:
    """Read what `run_method` left of a method's searches."""
    files = [
        folder_of(dataset, method, search) / f"seed-{seed}.parquet"
        for search in range(settings.searches)
        for seed in range(settings.seeds)
    ]
    about = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    return Found(
        method=method,
        params=tuple(one["params"] for one in about[:: settings.seeds]),
        seconds=tuple(one["seconds"] for one in about),
        tested=tuple(one["tested"] for one in about),
        scored=tuple(load_scored(file) for file in files),
    )


def lines_of(
    dataset: str, found: Sequence[Found], groups: Mapping[str, str] | None = None
) -> list[Measurement]:
    """Measure every method's seeds, in percent, and compare it with the best other by mean mAP."""
    measured = {one.method: _metrics(one.scored, groups or {}) for one in found}
    lines = []
    for one in found:
        others = [other for other in found if other is not one]
        rival = max(others, key=lambda other: mean(measured[other.method]["mAP"]), default=None)
        case = {
            "dataset": dataset,
            "tested": ", ".join(sorted(set(one.tested))),
            "beside": rival.method if rival else "",
            "ahead": {m: _difference(one, rival, m) for m in COMPARED} if rival else {},
        }
        figures = {**measured[one.method], "seconds": list(one.seconds)}
        lines.append(Measurement(one.method, case, figures))
    return sorted(lines, key=lambda line: -mean(line["mAP"]))


def _metrics(scored: Sequence[ScoredSplit], groups: Mapping[str, str]) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for one in scored:
        scores = evaluate_scores(one.scores, one.labels, one.observed)
        values = {name: scores.to_dict()[name] for name in SHOWN}
        values |= group_precision(scores.per_class_AP, groups, one.vocabulary)
        for name, value in values.items():
            figures.setdefault(name, []).append(100 * value)
    return figures


def _difference(one: Found, other: Found, metric: MetricName) -> Difference:
    first = one.scored[0]
    return paired_difference(
        [run.scores for run in one.scored],
        [run.scores for run in other.scored],
        first.labels,
        first.observed,
        metric=metric,
        searches=len(one.params),
        resamples=RESAMPLES,
    )


def publish_accuracy(
    found: Mapping[str, Sequence[Found]],
    configs: Mapping[str, Config],
    groups: Mapping[str, str],
    console: Console,
    out: Path,
) -> None:
    """Print and write the table of every dataset, draw them, and log them to MLflow."""
    lines = {name: lines_of(name, methods, groups) for name, methods in found.items()}
    texts = {name: _section(lines[name], found[name], configs[name], groups) for name in lines}
    sections = [f"### {name}\n\n{text}" for name, text in texts.items()]
    measured = [line for methods in lines.values() for line in methods]
    publish("Accuracy", "\n".join(sections), measured, console, out)
    draw(lines, out / "accuracy.svg")
    for name, config in configs.items():
        record(texts[name], lines[name], found[name], config)


def _section(
    lines: Sequence[Measurement],
    found: Sequence[Found],
    config: Config,
    groups: Iterable[str],
) -> str:
    def ahead(line: Measurement, metric: MetricName) -> str:
        difference: Difference | None = line.case["ahead"].get(metric)
        if difference is None:
            return ""
        value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
        mark = "**" if difference.is_clear and value > 0 else ""
        return f"{mark}{value:+.1f}{mark} [{low:.1f}, {high:.1f}]"

    columns: Columns = {
        **NAME,
        **{shown: lambda m, name=name: plus_minus(m[name]) for name, shown in SHOWN.items()},
        **{name: lambda m, name=name: plus_minus(m[name]) for name in groups},
        "seconds": lambda m: f"{mean(m['seconds']):.1f}",
        "mAP against the best other": lambda m: ahead(m, "mAP"),
        "R@80 against it": lambda m: ahead(m, "R80"),
        "tested": lambda m: m.case["tested"],
    }
    searches = len(found[0].params)
    about = (
        f"`{config.data.test}` of `{config.data.path}`, {len(found[0].scored[0].ids):,} rows; "
        f"each method tuned {counted(searches, 'time')} with "
        f"{counted(config.search.trials, 'trial')} on `{config.data.val}` and tested with "
        f"{counted(len(found[0].scored) // searches, 'seed')} each time, mean ± standard deviation "
        f"in percent. "
        f"Differences are in points, with 95 % intervals over rows, searches and seeds "
        f"({RESAMPLES} resamples)."
    )
    return f"{about}\n\n{table(columns, lines)}"


def draw(lines: Mapping[str, Sequence[Measurement]], file: Path) -> None:
    """Draw mAP and R@80 of every dataset's methods: a dot a seed, a bar at the mean."""
    from matplotlib.figure import Figure

    height = 0.6 + 0.32 * max(len(methods) for methods in lines.values())
    figure = Figure(figsize=(8, height * len(lines)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(lines), len(COMPARED), squeeze=False))
    for row, (name, methods) in zip(axes, lines.items()):
        for axis, metric in zip(row, COMPARED):
            for place, line in enumerate(reversed(methods)):
                values = line[metric]
                axis.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.5)
                axis.plot([mean(values)], [place], "|", color="black", markersize=14)
            axis.set_title(f"{name}: {SHOWN[metric]}, %", fontsize=10)
            axis.set_yticks(range(len(methods)), [line.name for line in reversed(methods)])
            axis.grid(axis="x", alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def record(text: str, lines: Sequence[Measurement], found: Sequence[Found], config: Config) -> None:
    """Log a dataset's methods to MLflow, each a run below one of the dataset."""
    name = lines[0].case["dataset"]
    key = f"accuracy-{name}-{found[0].scored[0].dataset_digest[:8]}"
    params = {
        one.method: {
            f"search-{search}/{path}": value
            for search, best in enumerate(one.params)
            for path, value in best.items()
        }
        for one in found
    }
    with open_tracker(config.tracking, config.run.folder) as tracker:
        parent = tracker.start_run(f"accuracy {name}", key=key, params={}, tags={})
        tracker.set_note(parent, f"### {name}\n\n{text}")
        for line in lines:
            run = tracker.start_run(
                line.name,
                key=f"{key}/{line.name}",
                parent=parent,
                params={"method": line.name, **params[line.name]},
                tags={},
            )
            means = {f"test/{metric}": mean(line[metric]) / 100 for metric in SHOWN}
            metrics = {**means, "cost/seconds": mean(line["seconds"])}
            tracker.end_run(run, "complete", metrics=metrics)
        tracker.end_run(parent, "complete")
